//! The schema: made by hand, and of a later version.

use std::process::Command;

use keylatch::postgres::sqlx::{self, AssertSqlSafe};
use keylatch::postgres::{OpenError, Options, SCHEMA_VERSION, Store, grant_sql, schema_sql};
use testing_support::postgres::program;

use crate::roles::{owner, role, url};
use crate::support::{Service, cluster, database, fresh, store};

/// The definition of everything in a schema, as PostgreSQL itself prints it.
async fn dump(database: &str, schema: &str) -> String {
    let output = Command::new(program("pg_dump"))
        .args(["--schema-only", "--schema", schema, "--dbname", &cluster().keywords(database)])
        .output()
        .expect("pg_dump runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Later versions print a random word at both ends.
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.contains("restrict")).collect::<Vec<_>>().join("\n")
}

/// The output of `schema_sql`, applied by hand in one transaction, equals a migration. A store whose role may create
/// nothing can use it.
#[tokio::test]
async fn the_schema_can_be_applied_by_hand() {
    for schema in ["keylatch", "kept_elsewhere"] {
        let options = || Options::default().with_schema(schema);
        let (by_hand, migrated) = (database().await, database().await);
        let sql = format!("BEGIN; {} COMMIT", schema_sql(schema).unwrap());
        let applied = by_hand.clone();
        tokio::task::spawn_blocking(move || cluster().sql(&applied, &sql)).await.unwrap();
        drop(Store::connect_with(&cluster().url(&migrated), options()).await.unwrap());
        assert_eq!(dump(&by_hand, schema).await, dump(&migrated, schema).await);

        let (role, owner) = (role(&by_hand).await, owner(&by_hand).await);
        sqlx::raw_sql(AssertSqlSafe(grant_sql(schema, &role).unwrap())).execute(&owner).await.unwrap();
        let store = Store::connect_with(&url(&by_hand, &role), options()).await.unwrap();
        let service = Service::start(store).await;
        assert_eq!(service.post("created", "key", 0).await.status, 201);
        assert!(service.post("created", "key", 0).await.replayed);
    }
    assert!(matches!(schema_sql("no schema; DROP"), Err(OpenError::SchemaName(_))));
    assert!(matches!(grant_sql("no schema; DROP", "role"), Err(OpenError::SchemaName(_))));
    assert!(grant_sql("keylatch", "a \"role\"").unwrap().ends_with("TO \"a \"\"role\"\"\";\n"));
}

/// An invented next version that only adds: processes of this version continue with it, and restart on it.
#[tokio::test]
async fn the_next_version_can_be_rolled_out_under_this_one() {
    let database = database().await;
    let running = Service::start(store(&database).await).await;
    assert_eq!(running.post("created", "before", 0).await.status, 201);
    let next = SCHEMA_VERSION + 1;
    let added = format!(
        "BEGIN;
        ALTER TABLE keylatch.record ADD COLUMN note text;
        CREATE INDEX record_note ON keylatch.record (note) WHERE note IS NOT NULL;
        CREATE FUNCTION keylatch.annotate(id bytea, note text) RETURNS void LANGUAGE sql
            AS 'UPDATE keylatch.record SET note = $2 WHERE id = $1';
        INSERT INTO keylatch.schema_version (version, min_reader) VALUES ({next}, {SCHEMA_VERSION});
        COMMIT"
    );
    sqlx::raw_sql(AssertSqlSafe(added)).execute(running.store.pool()).await.unwrap();
    let restarted = Service::start(store(&database).await).await;
    let careful = Store::connect_with(&cluster().url(&database), Options::default().without_migration()).await;
    let careful = Service::start(careful.expect("it may use it")).await;
    for service in [&running, &restarted, &careful] {
        assert!(service.post("created", "before", 0).await.replayed);
        let key = fresh("key");
        assert_eq!(service.post("created", &key, 0).await.status, 201);
        assert!(service.post("created", &key, 0).await.replayed);
    }

    // And the version after it, which changes what this one relies on.
    let after = next + 1;
    let changed = format!("INSERT INTO keylatch.schema_version (version, min_reader) VALUES ({after}, {next})");
    sqlx::raw_sql(AssertSqlSafe(changed)).execute(running.store.pool()).await.unwrap();
    let error = Store::connect(&cluster().url(&database)).await.expect_err("it may not use it");
    let OpenError::NewerSchema { found, min_reader, known, .. } = error else { panic!("{error}") };
    assert_eq!((found, min_reader, known), (after, next, SCHEMA_VERSION));
}
