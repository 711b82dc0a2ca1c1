//! Users' closures outside requests.

use std::any::Any;
use std::panic::resume_unwind;
use std::thread;

use rusqlite::Connection;

use super::db::Db;
use super::error::{BatchFailed, Fault, TxError, constraint_owed, transaction_ended};
use super::guard::Returned;

/// Why a closure's result does not count.
pub(super) enum Undone {
    Error(TxError),
    /// The closure panicked.
    Panic(Box<dyn Any + Send>),
}

impl From<TxError> for Undone {
    fn from(error: TxError) -> Self {
        Self::Error(error)
    }
}

impl From<BatchFailed> for Undone {
    fn from(failed: BatchFailed) -> Self {
        Self::Error(failed.into())
    }
}

impl Undone {
    /// The error, for the closure's caller, who also gets its panic.
    pub(super) fn or_panic(self) -> TxError {
        match self {
            Self::Error(error) => error,
            Self::Panic(panic) => resume_unwind(panic),
        }
    }
}

/// Runs a closure that writes, as one unit of the batch.
pub(super) fn write<T>(
    db: &mut Db,
    closure: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, Fault<Undone>> {
    db.savepoint().map_err(Fault::Batch)?;
    let (done, returned) = db.lend(closure);
    let mut done = outcome(db, done, returned, TxError::TooLong);
    if !db.in_transaction() {
        return Err(Fault::Ended(match done {
            Ok(_) | Err(Undone::Error(TxError::Sql(_))) => transaction_ended().into(),
            Err(undone) => undone,
        }));
    }
    if done.is_ok() && db.owes().map_err(Fault::Batch)? {
        done = Err(constraint_owed().into());
    }
    if done.is_ok() { db.release() } else { db.abandon() }.map_err(Fault::Batch)?;
    done.map_err(Fault::Job)
}

/// Runs a closure that reads.
pub(super) fn read<T>(
    db: &mut Db,
    closure: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, Fault<Undone>> {
    let (done, returned) = db.lend(closure);
    outcome(db, done, returned, TxError::LogTooLong).map_err(Fault::Job)
}

fn outcome<T>(
    db: &Db,
    done: thread::Result<rusqlite::Result<T>>,
    returned: Returned,
    late: TxError,
) -> Result<T, Undone> {
    match (done, returned) {
        (Err(panic), _) => Err(Undone::Panic(panic)),
        (_, Returned::Late) => Err(late.into()),
        (_, Returned::Changed) => Err(TxError::Reconfigured.into()),
        (Ok(done), Returned::Fine) => done.map_err(|error| TxError::Sql(db.explain(error)).into()),
    }
}
