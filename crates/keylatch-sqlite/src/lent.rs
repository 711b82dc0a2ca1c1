//! The writer's connection, lent to a handler, whose writes are one unit of a batch.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use keylatch_core::failpoint::{self, Point};
use keylatch_core::store::Error;
use keylatch_core::tx::{Ending, Misuse, Work};
use tokio::runtime::Handle;

use super::db::Db;
use super::error::{Fault, constraint_owed, transaction_ended};
use super::guard::Returned;
use super::loan::Lender;
use super::poll;

/// A handler, and what it needs to run on the writer.
pub(super) struct Lent {
    /// The handler, which wants the connection; or what is left of it.
    pub(super) work: Option<Work>,
    /// How the handler ended, if it did so before it wanted the connection.
    pub(super) ending: Option<Ending>,
    pub(super) lender: Lender,
    /// The caller's runtime, also for what the handler starts or drops on the writer.
    pub(super) runtime: Option<Handle>,
}

/// Why nothing of a handler is committed.
pub(super) enum Undone {
    Failure(Failure),
    Misuse(Misuse),
}

pub(super) enum Failure {
    Store(Error),
    /// The handler panicked.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self::Failure(Failure::Store(error))
    }
}

impl From<Misuse> for Undone {
    fn from(misuse: Misuse) -> Self {
        Self::Misuse(misuse)
    }
}

impl Lent {
    /// Runs the handler to its end in a unit of its own, and keeps its writes or rolls them back, as its ending says.
    ///
    /// # Errors
    ///
    /// If nothing of it may be committed; then all its writes are rolled back.
    pub(super) fn run(&mut self, db: &mut Db) -> Result<Ending, Fault<Undone>> {
        db.savepoint().map_err(Fault::<Undone>::Batch)?;
        let ended = self.run_in_unit(db);
        match &ended {
            Ok(Ending::Commit(_)) => db.release(),
            Ok(Ending::RecordOnly(_) | Ending::RollBack) | Err(Fault::Job(_)) => db.abandon(),
            Err(Fault::Ended(_) | Fault::Batch(_)) => Ok(()),
        }
        .map_err(Fault::<Undone>::Batch)?;
        ended
    }

    /// Runs the handler to its end, in a unit of the caller's, who keeps its writes or rolls them back.
    ///
    /// # Errors
    ///
    /// If nothing of it may be committed.
    pub(super) fn run_in_unit(&mut self, db: &mut Db) -> Result<Ending, Fault<Undone>> {
        let ending = match self.ending.take() {
            Some(ending) => ending,
            None => self.lend(db)?,
        };
        let undone = match &ending {
            Ending::RollBack => None,
            _ if !self.has_returned() => Some(Misuse::NotReturned.into()),
            Ending::Commit(_) if db.owes().map_err(Fault::<Undone>::Batch)? => {
                Some(Error::from(constraint_owed()).into())
            }
            _ => None,
        };
        undone.map_or(Ok(ending), |undone| Err(Fault::Job(undone)))
    }

    fn lend(&mut self, db: &mut Db) -> Result<Ending, Fault<Undone>> {
        let Some(work) = &mut self.work else { unreachable!("a handler that has not ended is there") };
        let (polled, returned) = db.lend_to(&self.lender, || poll::poll_here(work));
        let undone: Undone = match (polled, returned) {
            (Err(panic), _) => Undone::Failure(Failure::Panic(panic)),
            (_, Returned::Late) => Misuse::TooLong.into(),
            (_, Returned::Changed) => Misuse::Reconfigured.into(),
            // SQLite has ended the transaction, after an error that the handler got.
            _ if !db.in_transaction() => Error::from(transaction_ended()).into(),
            (Ok(Poll::Pending), _) => Misuse::AwaitedInside { after: self.lender.latest() }.into(),
            (Ok(Poll::Ready(ending)), Returned::Fine) => {
                failpoint::hit(Point::AfterHandlerWrite);
                return Ok(ending);
            }
        };
        Err(if db.in_transaction() { Fault::Job(undone) } else { Fault::Ended(undone) })
    }

    /// Whether the handler's end of the loan is gone. A handler that has ended may still contain it.
    fn has_returned(&mut self) -> bool {
        if !self.lender.is_returned() {
            let work = self.work.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
        }
        self.lender.is_returned()
    }
}
