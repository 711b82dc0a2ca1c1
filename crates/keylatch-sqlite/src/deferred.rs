//! Finding out, before the commit, that a deferred foreign key does not hold.
//!
//! SQLite counts the deferred constraints that do not hold, for the whole connection, and looks at the count only when the
//! transaction commits. That is one commit for many handlers here: all of them would fail for one. The count itself
//! cannot be asked for without `unsafe`. But SQLite looks at it in one more place: before it searches whether a changed
//! row settles such a constraint. It leaves that search out while the count is zero. So a statement that changes such a
//! row, of a table of our own, takes fewer steps if nothing is owed, and SQLite tells how many steps a statement took.
//!
//! Both numbers of steps are taken when the connection is opened. If a later SQLite no longer differs in them, nothing is
//! found here, and the commit refuses the whole batch.

use rusqlite::{Connection, StatementStatus};

use super::migrate;

/// What is known of the deferred foreign keys on a connection.
#[derive(Debug)]
pub(super) struct Deferred {
    /// How many steps the probe takes if nothing is owed, and if something is.
    steps: Option<(i32, i32)>,
    /// Whether any table has a constraint that can be deferred.
    is_used: bool,
    /// The schema for which that was found out.
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

    /// Notes at the start of a transaction whether there is anything to look for. Another process may have changed the
    /// schema, also to one that this process may not use.
    pub(super) fn look(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let schema = conn.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?;
        if self.schema != Some(schema) {
            migrate::refuse_later(conn)?;
            self.is_used = is_used(conn)?;
            self.schema = Some(schema);
        }
        Ok(())
    }

    /// Whether a deferred foreign key does not hold now. `changed` says whether the schema may be another.
    pub(super) fn owes(&mut self, conn: &Connection, changed: bool) -> rusqlite::Result<bool> {
        if changed {
            // It may still be taken back, so that the next transaction looks again.
            self.is_used |= is_used(conn)?;
            self.schema = None;
        }
        let Some((free, owing)) = self.steps.filter(|_| self.is_used) else { return Ok(false) };
        let steps = probe(conn)?;
        // The statement is prepared anew now and then, and its steps may be counted from there. Then the next tells.
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
