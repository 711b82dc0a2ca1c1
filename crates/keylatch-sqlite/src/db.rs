//! A connection on the thread that owns it, and its operations.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use rusqlite::{CachedStatement, Connection, OptionalExtension as _};

use super::deferred::Deferred;
use super::error::Fault;
use super::guard::{Guard, Returned};
use super::loan::Lender;
use super::rows::{self, Damaged, StoredRow};
use keylatch_core::machine::Claim;
use keylatch_core::store::Error;
use keylatch_core::{Clock, Record, RecordId, Timestamp};

/// A connection on the thread that owns it.
#[derive(Debug)]
pub(super) struct Db {
    /// Absent only while it is lent.
    conn: Option<Connection>,
    guard: Guard,
    /// Of a connection that writes.
    deferred: Option<Deferred>,
    clock: Clock,
}

impl Db {
    pub(super) fn new(conn: Connection, guard: Guard, deferred: Option<Deferred>, clock: Clock) -> Self {
        Self { conn: Some(conn), guard, deferred, clock }
    }

    pub(super) fn guard(&self) -> Guard {
        self.guard.clone()
    }

    pub(super) fn conn(&self) -> &Connection {
        self.conn.as_ref().expect("a connection that was lent is taken back before anything else is done")
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether a transaction is open. SQLite ends one by itself after some errors, such as a full disk.
    pub(super) fn in_transaction(&self) -> bool {
        !self.conn().is_autocommit()
    }

    // ---- Records ---------------------------------------------------------------------------------------

    /// Reads the record of `id`.
    pub(super) fn find(&self, id: RecordId) -> Result<Option<StoredRow>, Fault> {
        self.query_one(id, rows::decode)
    }

    /// Reads the record that `claim` asks for.
    pub(super) fn find_claimed(&self, id: RecordId, claim: &Claim) -> Result<Option<StoredRow>, Fault> {
        self.query_one(id, |row| rows::decode_as(row, id, claim.scope(), claim.key()))
    }

    /// Writes `record`: over the row in which it was found, or in a new one.
    pub(super) fn put(&self, id: RecordId, found: Option<i64>, record: &Record) -> Result<(), Fault> {
        self.done(self.write(id, found, record))
    }

    /// The same, if other writes must not stay without it.
    pub(super) fn write(&self, id: RecordId, found: Option<i64>, record: &Record) -> rusqlite::Result<()> {
        match found {
            Some(rowid) => rows::update(self.conn(), rowid, record),
            None => rows::insert(self.conn(), id, record),
        }
    }

    /// Removes a record.
    pub(super) fn delete(&self, rowid: i64) -> Result<(), Fault> {
        self.done(rows::delete(self.conn(), rowid))
    }

    /// A statement of our own.
    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, Fault> {
        self.done(self.conn().prepare_cached(sql))
    }

    /// The result of a statement of our own.
    pub(super) fn done<T>(&self, result: rusqlite::Result<T>) -> Result<T, Fault> {
        result.map_err(|error| Fault::of(error, self.in_transaction()))
    }

    fn query_one(
        &self,
        id: RecordId,
        decode: impl FnOnce(&rusqlite::Row<'_>) -> Result<StoredRow, Damaged>,
    ) -> Result<Option<StoredRow>, Fault> {
        let mut statement = self.prepare(include_str!("sql/read.sql"))?;
        let found = statement.query_row([id.as_bytes()], |row| Ok(decode(row))).optional();
        match self.done(found)? {
            Some(found) => Ok(Some(found.map_err(|damaged| Fault::Job(Error::from(damaged)))?)),
            None => Ok(None),
        }
    }

    // ---- Units: a part of a batch that can be rolled back alone ------------------------------------------

    /// Begins a unit.
    pub(super) fn savepoint(&self) -> rusqlite::Result<()> {
        self.execute(include_str!("sql/savepoint.sql"))
    }

    /// Rolls back what the unit wrote. The unit continues.
    pub(super) fn undo(&self) -> rusqlite::Result<()> {
        self.execute(include_str!("sql/savepoint_undo.sql"))
    }

    /// Ends the unit.
    pub(super) fn release(&self) -> rusqlite::Result<()> {
        self.execute(include_str!("sql/savepoint_release.sql"))
    }

    /// Rolls back what the unit wrote, and ends it.
    pub(super) fn abandon(&self) -> rusqlite::Result<()> {
        self.undo()?;
        self.release()
    }

    pub(super) fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn().prepare_cached(sql)?.execute([]).map(drop)
    }

    /// Notes at the start of a transaction what is in the schema.
    pub(super) fn look_at_schema(&mut self) -> rusqlite::Result<()> {
        match (&mut self.deferred, &self.conn) {
            (Some(deferred), Some(conn)) => deferred.look(conn),
            _ => Ok(()),
        }
    }

    /// Whether the writes since the last unit violate a deferred foreign key, for which the commit would fail for all.
    pub(super) fn owes(&mut self) -> rusqlite::Result<bool> {
        let changed = self.guard.took_schema_change();
        match (&mut self.deferred, &self.conn) {
            (Some(deferred), Some(conn)) => deferred.owes(conn, changed),
            _ => Ok(false),
        }
    }

    /// The error of a closure, with the rule that it broke, if any.
    pub(super) fn explain(&self, error: rusqlite::Error) -> rusqlite::Error {
        self.guard.explain(error)
    }

    // ---- Lending ---------------------------------------------------------------------------------------

    /// Runs a user's closure on the connection. A panic in it is returned as a value.
    pub(super) fn lend<T>(&self, closure: impl FnOnce(&Connection) -> T) -> (thread::Result<T>, Returned) {
        self.guard.lend();
        let result = catch_unwind(AssertUnwindSafe(|| closure(self.conn())));
        (result, self.guard.take_back(self.conn()))
    }

    /// Lends the connection to a handler while its `work` runs on this thread. A panic in it is returned as a value.
    pub(super) fn lend_to<T>(&mut self, lender: &Lender, work: impl FnOnce() -> T) -> (thread::Result<T>, Returned) {
        let conn = self.conn.take().expect("a connection is lent to one at a time");
        self.guard.lend();
        let result = catch_unwind(AssertUnwindSafe(|| {
            lender.lend(conn, self.guard.clone());
            work()
        }));
        let conn = self.conn.insert(lender.take_back());
        (result, self.guard.take_back(conn))
    }
}
