//! The schema, and its migrations.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, PgPool};
use tokio::time::timeout;

use super::error::OpenError;
use super::options::Options;
use super::sql::{Statement, begin_own, in_schema};

/// The versions of the schema, from the first. A released version is never changed: statements name their columns, and
/// a function that a released version calls keeps its name, its arguments and its meaning. So processes of both
/// versions can run, and restart, during the rollout of a version that adds a column.
const VERSIONS: [Version; 2] = [
    Version {
        min_reader: 1,
        statements: &[include_str!("schema/v1/tables.sql"), include_str!("schema/v1/functions.sql")],
    },
    Version { min_reader: 1, statements: &[include_str!("schema/v2/outbox.sql"), include_str!("schema/v2/inbox.sql")] },
];

/// One version of the schema.
struct Version {
    /// The lowest version that a process must know to use it. It does not change while the statements only add tables,
    /// indexes, functions, and columns that may be NULL.
    min_reader: i32,
    /// The statements that lead to it from the previous version.
    statements: &'static [&'static str],
}

/// The schema in the database; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct SchemaVersion {
    version: i32,
    min_reader: i32,
}

/// Notes that a version has been applied, and the lowest that a process must know to use it.
const APPLIED: &str = "INSERT INTO keylatch.schema_version (version, min_reader) VALUES ($1, $2)";

/// The version that this build needs.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "there will be few")]
pub const SCHEMA_VERSION: i32 = VERSIONS.len() as i32;

/// How long a migration may take, including the wait for another process.
const MIGRATION_MAX: Duration = Duration::from_secs(120);

/// The advisory lock for migrations: any number that nobody else uses. Schemas of one database take turns.
const MIGRATION_LOCK: i64 = 0x6b65_796c_6174_6368;

/// Brings the schema of `options` up to date. If many processes try at once, one does it, in one transaction, and the
/// others wait and find it done. A schema that is up to date is not touched, and then only the right to read it is
/// needed.
///
/// The role needs the right to create a schema in the database, or to create in the schema if that exists. It owns what
/// it makes; [`grant`] gives another role what it needs at run time.
///
/// # Errors
///
/// If the server cannot be used, the role may not, or the schema is of a later version.
pub async fn migrate(pool: &PgPool, options: &Options) -> Result<(), OpenError> {
    options.check()?;
    let mut conn = pool.acquire().await?;
    match timeout(MIGRATION_MAX, ensure(&mut conn, options, true)).await {
        Ok(done) => done,
        Err(_) => {
            conn.close_on_drop();
            Err(OpenError::Server(sqlx::Error::PoolTimedOut))
        }
    }
}

/// Grants `role` what a store needs at run time in the schema of `options`, and no more: to read and write records. The
/// owner of the schema calls it after each [`migrate`], because a later version may need more. It can be called again.
///
/// ```no_run
/// # async fn example(pool: keylatch::postgres::sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use keylatch::postgres::{Options, grant, migrate};
///
/// let options = Options::default();
/// migrate(&pool, &options).await?;
/// grant(&pool, &options, "orders_service").await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// If the server cannot be used, the role or the schema does not exist, or another role owns the schema.
pub async fn grant(pool: &PgPool, options: &Options, role: &str) -> Result<(), OpenError> {
    options.check()?;
    let mut tx = pool.begin_with(AssertSqlSafe(begin_own(options))).await?;
    sqlx::raw_sql(AssertSqlSafe(grant_sql(&options.schema, role)?)).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

/// What [`grant`] grants `role` in `schema`, as SQL, for teams that apply all database changes by hand.
///
/// # Errors
///
/// If `schema` cannot be the name of one: see [`Options::with_schema`].
pub fn grant_sql(schema: &str, role: &str) -> Result<String, OpenError> {
    Options::default().with_schema(schema).check()?;
    let role = format!("\"{}\"", role.replace('"', "\"\""));
    Ok(include_str!("sql/grant.sql").replace(":schema", schema).replace(":role", &role))
}

/// The SQL that creates the tables and functions of this version in `schema`, for teams that keep database changes as
/// files (sqlx migrations, Flyway), or whose administrators apply them by hand. Run it once, in one transaction, in a
/// database in which [`migrate`] has not created the schema. A store that is opened afterwards finds the schema up to
/// date, and needs no right to create.
///
/// The role that runs it owns what it creates. [`grant_sql`] prints what another role needs to use it.
///
/// ```
/// std::fs::write(
///     std::env::temp_dir().join("0001_keylatch.sql"),
///     keylatch::postgres::schema_sql(keylatch::postgres::SCHEMA)?,
/// )?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If `schema` cannot be the name of one: see [`Options::with_schema`].
pub fn schema_sql(schema: &str) -> Result<String, OpenError> {
    let options = Options::default().with_schema(schema);
    options.check()?;
    let mut sql = String::new();
    for (number, version) in (1..).zip(VERSIONS) {
        for statements in version.statements {
            sql += &in_schema(statements, schema);
            sql += "\n";
        }
        let applied = in_schema(APPLIED, schema);
        sql += &applied.replace("$1", &number.to_string()).replace("$2", &version.min_reader.to_string());
        sql += ";\n";
    }
    Ok(sql)
}

/// Checks that this build can use the existing schema, and brings it up to date if it `may`.
pub(super) async fn ensure(conn: &mut PgConnection, options: &Options, may: bool) -> Result<(), OpenError> {
    // At READ COMMITTED, so that a read after the wait sees what the previous holder of the lock has committed.
    let mut tx = conn.begin_with(AssertSqlSafe(begin_own(options))).await?;
    let Some(SchemaVersion { version, .. }) = behind(&mut tx, options).await? else { return Ok(tx.commit().await?) };
    let not_migrated =
        OpenError::NotMigrated { schema: options.schema.clone(), found: version, needed: SCHEMA_VERSION };
    let allowed =
        sqlx::query_scalar::<_, bool>(include_str!("sql/may_migrate.sql")).persistent(false).bind(&options.schema);
    if !may || !allowed.fetch_one(&mut *tx).await? {
        return Err(not_migrated);
    }
    // One process migrates, and the others wait and find it done.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").persistent(false).bind(MIGRATION_LOCK).execute(&mut *tx).await?;
    // Another process may have done it meanwhile.
    if let Some(found) = behind(&mut tx, options).await? {
        let applied = Statement::new(APPLIED, &options.schema);
        for (number, version) in (1..).zip(VERSIONS).skip(found.version.cast_unsigned() as usize) {
            for statements in version.statements {
                sqlx::raw_sql(AssertSqlSafe(in_schema(statements, &options.schema))).execute(&mut *tx).await?;
            }
            applied.query(false).bind(number).bind(version.min_reader).execute(&mut *tx).await?;
        }
        let from = found.version;
        tracing::info!(schema = options.schema, from, to = SCHEMA_VERSION, "the schema was brought up to date");
    }
    Ok(tx.commit().await?)
}

/// The version in the database, if it is older than this build's. A later one is left as it is, if this build may use
/// it.
async fn behind(conn: &mut PgConnection, options: &Options) -> Result<Option<SchemaVersion>, OpenError> {
    let found = find(conn, options).await?;
    let SchemaVersion { version, min_reader } = found;
    if min_reader > SCHEMA_VERSION {
        let schema = options.schema.clone();
        return Err(OpenError::NewerSchema { schema, found: version, min_reader, known: SCHEMA_VERSION });
    }
    Ok((version < SCHEMA_VERSION).then_some(found))
}

async fn find(conn: &mut PgConnection, options: &Options) -> Result<SchemaVersion, OpenError> {
    let exists = in_schema(include_str!("sql/schema_exists.sql"), &options.schema);
    if !sqlx::query_scalar(AssertSqlSafe(exists)).persistent(false).fetch_one(&mut *conn).await? {
        return Ok(SchemaVersion::default());
    }
    let read = "SELECT coalesce(max(version), 0), coalesce(max(min_reader), 0) FROM keylatch.schema_version";
    let read = in_schema(read, &options.schema);
    let (version, min_reader) = sqlx::query_as(AssertSqlSafe(read)).persistent(false).fetch_one(conn).await?;
    Ok(SchemaVersion { version, min_reader })
}
