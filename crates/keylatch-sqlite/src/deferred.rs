//! Finds violated deferred foreign keys before the commit.
//!
//! SQLite counts violated deferred constraints for the whole connection, and checks the count only when the transaction
//! commits. Here one commit is for many handlers: all of them would fail because of one. The count itself cannot be
//! read without `unsafe`. But SQLite checks it in one more place: before it searches whether a changed row resolves
//! such a violation. It skips that search while the count is zero. So a statement that changes such a row, in a table
//! of our own, takes fewer steps if nothing is violated, and SQLite reports how many steps a statement took.
//!
//! Both numbers of steps are measured when the connection is opened. If they no longer differ in a later SQLite,
//! nothing is found here, and the commit refuses the whole batch.

use rusqlite::{Connection, StatementStatus};

use super::migrate;

/// What is known about the deferred foreign keys of a connection.
#[derive(Debug)]
pub(super) struct Deferred {
    /// How many steps the probe takes without a violation, and with one.
    steps: Option<(i32, i32)>,
    /// Whether any table has a constraint that can be deferred.
    is_used: bool,
    /// The schema for which this is known.
    schema: Option<i64>,
}

impl Deferred {
    /// Sets the probe up on `conn`, outside a transaction.
    pub(super) fn new(conn: &Connection) -> rusqlite::Result<Self> {
        conn.execute_batch(include_str!("sql/create_probe.sql"))?;
        let free = probe(conn)?;
        conn.execute_batch("BEGIN")?;
        let owing = conn.execute_batch(include_str!("sql/owe.sql")).and_then(|()| probe(conn));
        conn.execute_batch("ROLLBACK")?;
        let steps = Some((free, owing?)).filter(|(free, owing)| free != owing);
        if steps.is_none() {
            tracing::warn!(
                "this build of SQLite does not report violated deferred foreign keys before the commit, so one of them \
                 fails a whole batch"
            );
        }
        Ok(Self { steps, is_used: false, schema: None })
    }

    /// Notes at the start of a transaction whether there is anything to check. Another process may have changed the
    /// schema, possibly to one that this process may not use.
    pub(super) fn look(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let schema = conn.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?;
        if self.schema != Some(schema) {
            migrate::refuse_later(conn)?;
            self.is_used = is_used(conn)?;
            self.schema = Some(schema);
        }
        Ok(())
    }

    /// Whether a deferred foreign key is violated now. `changed` says whether the schema may have changed.
    pub(super) fn owes(&mut self, conn: &Connection, changed: bool) -> rusqlite::Result<bool> {
        if changed {
            // The change may still be rolled back, so the next transaction looks again.
            self.is_used |= is_used(conn)?;
            self.schema = None;
        }
        let Some((free, owing)) = self.steps.filter(|_| self.is_used) else { return Ok(false) };
        let steps = probe(conn)?;
        // SQLite sometimes prepares the statement anew, and may then count its steps from there. The next probe is
        // right again.
        let steps = if steps == free || steps == owing { steps } else { probe(conn)? };
        Ok(steps == owing)
    }
}

fn is_used(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row(include_str!("sql/has_deferred.sql"), [], |row| row.get(0))
}

/// How many steps the probe takes.
fn probe(conn: &Connection) -> rusqlite::Result<i32> {
    let mut statement = conn.prepare_cached(include_str!("sql/probe.sql"))?;
    statement.reset_status(StatementStatus::VmStep);
    statement.execute([])?;
    Ok(statement.reset_status(StatementStatus::VmStep))
}
