//! Claims in the caller's own transaction, on the caller's own connection.

use std::fs;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _};

use super::Store;
use super::error::{BatchFailed, Fault};
use super::outbox;
use super::rows::{self, StoredRow};
use keylatch_core::machine::{Claim, Completion};
use keylatch_core::outbox::Events;
use keylatch_core::store::{At, Error, ErrorKind};
use keylatch_core::tx::{Entered, InOwn, Seen};
use keylatch_core::{Key, Record, RecordId, Scope};

impl Store {
    /// Claims the key for the transaction that the caller has open on `conn`, its own connection to the same file:
    /// until it ends, nobody else runs the request. Then do your writes, [complete](Self::complete_in), and commit:
    /// everything is committed, or nothing.
    ///
    /// It takes the write lock of the file, so all other requests wait until the transaction ends. So begin it with
    /// [`Immediate`](rusqlite::TransactionBehavior::Immediate), and keep it short. If the key is not won, roll back
    /// before waiting. Both calls block the thread, as rusqlite does: in async code use
    /// [`spawn_blocking`](tokio::task::spawn_blocking).
    ///
    /// ```no_run
    /// # fn example(store: &keylatch::sqlite::Store, claim: &keylatch::machine::Claim) -> Result<(), Box<dyn std::error::Error>> {
    /// use keylatch::machine::Completion;
    /// use keylatch::sqlite::InOwn;
    /// use keylatch::sqlite::rusqlite::{Connection, TransactionBehavior};
    /// use keylatch::{Outcome, Policy};
    ///
    /// let mut conn = Connection::open("data/keylatch.db")?;
    /// let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    /// if let InOwn::Entered(entered) = store.claim_in(&tx, claim)? {
    ///     tx.execute("INSERT INTO invoice (customer) VALUES ('c1')", [])?;
    ///     let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    ///     if store.complete_in(&tx, entered, completion)?.is_some() {
    ///         tx.commit()?;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the store failed. [`ErrorKind::Refused`] if no transaction is open on `conn`, it is not on the store's file, or
    /// its commits are not synced to disk.
    pub fn claim_in(&self, conn: &Connection, claim: &Claim) -> Result<InOwn, Error> {
        self.check_own(conn)?;
        match conn.prepare_cached(include_str!("sql/lock.sql")).and_then(|mut lock| lock.execute([])) {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return Ok(InOwn::Busy),
            Err(error) => return Err(failed(conn, error)),
        }
        let record = find(conn, claim.id(), claim.scope(), claim.key())?.map(|found| found.record);
        Ok(InOwn::of(claim, At { value: Seen { record, busy: false }, now: self.0.clock.now() }))
    }

    /// Writes the record of what was [claimed](Self::claim_in) in this transaction, and the events that were
    /// [published](Entered::publish) with it. They count once the caller has committed; then
    /// [wake](keylatch_core::outbox::Outbox::wake) the relay. `None` if another owner has written the record since, which is possible only if this is another
    /// transaction: then roll back and ask again.
    ///
    /// # Errors
    ///
    /// As [`claim_in`](Self::claim_in); the transaction can only be rolled back then.
    #[expect(clippy::needless_pass_by_value, reason = "as on the other stores, where it goes into a statement")]
    pub fn complete_in(
        &self,
        conn: &Connection,
        entered: Entered,
        completion: Completion,
    ) -> Result<Option<At<Record>>, Error> {
        self.check_own(conn)?;
        let ours = entered.record();
        let id = ours.id();
        let (rowid, found) = find(conn, id, &ours.scope, &ours.key)?.map(|found| (found.rowid, found.record)).unzip();
        if found.as_ref() != entered.previous() {
            return Ok(None);
        }
        let now = self.0.clock.now();
        let record = entered.completed(&completion, now);
        let written = match rowid {
            Some(rowid) => rows::update(conn, rowid, &record),
            None => rows::insert(conn, id, &record),
        };
        written.and_then(|()| outbox::insert(conn, entered.events(), now)).map_err(|error| failed(conn, error))?;
        Ok(Some(At { value: record, now }))
    }

    /// Publishes events if the transaction commits that the caller has open on `conn`, its own connection to the same
    /// file, with or without a claim. After the commit, [wake](keylatch_core::outbox::Outbox::wake) the relay.
    ///
    /// # Errors
    ///
    /// As [`claim_in`](Self::claim_in); the transaction can only be rolled back then.
    #[expect(clippy::needless_pass_by_value, reason = "as on the other stores")]
    pub fn publish_in(&self, conn: &Connection, events: Events) -> Result<(), Error> {
        self.check_own(conn)?;
        outbox::insert(conn, &events, self.0.clock.now()).map_err(|error| failed(conn, error))
    }

    /// Refuses a connection whose commit would not include the record, or would not be durable.
    fn check_own(&self, conn: &Connection) -> Result<(), Error> {
        let refuse = |why| Err(Error::new(ErrorKind::Refused, why));
        if conn.is_autocommit() {
            return refuse("no transaction is open on this connection; begin one, and commit it after `complete_in`");
        }
        let path = conn.path().and_then(|path| fs::canonicalize(path).ok());
        if path.as_deref() != Some(&*self.0.canonical) {
            return refuse("this connection is to another file; open one to the store's file");
        }
        let synchronous = conn.prepare_cached("PRAGMA main.synchronous").and_then(|mut statement| {
            statement.query_row([], |row| row.get::<_, i64>(0)) // 2 is FULL
        });
        if synchronous.map_err(|error| failed(conn, error))? < 2 {
            return refuse("this connection does not sync its commits to disk; set `PRAGMA synchronous = FULL` on it");
        }
        Ok(())
    }
}

fn find(conn: &Connection, id: RecordId, scope: &Scope, key: &Key) -> Result<Option<StoredRow>, Error> {
    let mut statement = conn.prepare_cached(include_str!("sql/read.sql")).map_err(|error| failed(conn, error))?;
    let found = statement.query_row([id.as_bytes()], |row| Ok(rows::decode_as(row, id, scope, key))).optional();
    found.map_err(|error| failed(conn, error))?.transpose().map_err(Error::from)
}

fn failed(conn: &Connection, error: rusqlite::Error) -> Error {
    match Fault::of(error, !conn.is_autocommit()) {
        Fault::Job(error) | Fault::Ended(error) => error,
        Fault::Batch(error) => BatchFailed::before_commit(error).into(),
    }
}
