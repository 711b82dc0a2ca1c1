//! The schema of Keylatch's own tables, and how it gets into the file.
//!
//! Each schema has a `version` and a `min_reader`: the lowest version that a process must know to use the file. So a
//! process of the previous version continues to work, and can restart, on a schema that only adds to its own.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior, ffi, params};

use super::error::OpenError;
use keylatch_core::Clock;

/// The schemas, from the first.
const SCHEMAS: &[Schema] = &[
    Schema {
        min_reader: 1,
        statements: &[
            include_str!("sql/create_record.sql"),
            include_str!("sql/create_record_id.sql"),
            include_str!("sql/create_record_due.sql"),
            include_str!("sql/create_record_running.sql"),
        ],
    },
    Schema {
        min_reader: 1,
        statements: &[
            include_str!("sql/create_event.sql"),
            include_str!("sql/create_event_stuck.sql"),
            include_str!("sql/create_event_stuck_key.sql"),
            include_str!("sql/create_place.sql"),
            include_str!("sql/create_dead_letter.sql"),
            include_str!("sql/create_dead_letter_wanted.sql"),
            include_str!("sql/create_dead_letter_age.sql"),
        ],
    },
];

/// One version of the schema.
struct Schema {
    /// The lowest version that may use it. It does not change while the statements only add indexes, tables, and
    /// columns that may be NULL.
    min_reader: i64,
    /// The statements that lead to it from the previous version.
    statements: &'static [&'static str],
}

/// The version of the schema that this build knows.
pub const SCHEMA_VERSION: i64 = SCHEMAS.len() as i64;

/// The schema of a file; 0 for none.
#[derive(Debug, Clone, Copy, Default)]
struct SchemaVersion {
    version: i64,
    min_reader: i64,
}

/// Brings the tables to the latest schema that this build knows. Leaves a later one as it is, if this build may use it.
pub(super) fn migrate(conn: &mut Connection, path: &Path, clock: &Clock) -> Result<(), OpenError> {
    let failed = |source| OpenError::database(path, source);
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found = find(&transaction).map_err(failed)?;
    if found.min_reader > SCHEMA_VERSION {
        let SchemaVersion { version, min_reader } = found;
        return Err(OpenError::NewerSchema {
            path: path.to_owned(),
            found: version,
            min_reader,
            known: SCHEMA_VERSION,
        });
    }
    if found.version < SCHEMA_VERSION {
        apply(&transaction, found.version, clock).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Fails if another process has brought the file to a schema that this build may not use.
pub(super) fn refuse_later(conn: &Connection) -> rusqlite::Result<()> {
    let SchemaVersion { version, min_reader } = find(conn)?;
    if min_reader > SCHEMA_VERSION {
        let message = format!(
            "the file now has Keylatch's schema {version}, which only processes that know schema {min_reader} or later \
             may use; this process knows schema {SCHEMA_VERSION}"
        );
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_SCHEMA), Some(message)));
    }
    Ok(())
}

fn find(conn: &Connection) -> rusqlite::Result<SchemaVersion> {
    if !conn.query_row(include_str!("sql/schema_exists.sql"), [], |row| row.get(0))? {
        return Ok(SchemaVersion::default());
    }
    conn.query_row(include_str!("sql/schema_version.sql"), [], |row| {
        Ok(SchemaVersion { version: row.get(0)?, min_reader: row.get(1)? })
    })
}

fn apply(transaction: &Transaction<'_>, found: i64, clock: &Clock) -> rusqlite::Result<()> {
    transaction.execute_batch(include_str!("sql/create_schema.sql"))?;
    for (version, schema) in (1_i64..).zip(SCHEMAS).skip_while(|(version, _)| *version <= found) {
        for statement in schema.statements {
            transaction.execute_batch(statement)?;
        }
        let applied = params![version, schema.min_reader, clock.now().as_millis()];
        transaction.execute(include_str!("sql/schema_applied.sql"), applied)?;
    }
    Ok(())
}
