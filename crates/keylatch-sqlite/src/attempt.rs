//! One attempt at a claim, on the writer: the claim, the handler's writes and the record, as one unit of a batch.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::db::Db;
use super::error::{BatchFailed, Fault, constraint_owed, transaction_ended};
use super::guard::Returned;
use super::job::{Job, Stop};
use super::loan::Lender;
use super::poll;
use keylatch_core::failpoint::{self, Point};
use keylatch_core::machine::{self, Claim, Claimed, Completion};
use keylatch_core::store::{At, Error};
use keylatch_core::tx::{Misuse, Transacted, Verdict, Work};
use keylatch_core::{Lease, Policy, Record, RecordId, Timestamp};

/// One attempt at a claim.
pub(super) struct Attempt {
    pub(super) id: RecordId,
    pub(super) claim: Claim,
    pub(super) policy: Policy,
    /// The handler, which wants the connection; or none, if it has ended without.
    pub(super) work: Option<Work>,
    /// How the handler ended.
    pub(super) verdict: Option<Verdict>,
    pub(super) lender: Lender,
    /// The caller's runtime, also for what the handler starts or drops on the writer.
    pub(super) runtime: Option<Handle>,
    pub(super) result: Option<Result<At<Transacted>, Failure>>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What the caller hears.
pub(super) struct Reply {
    pub(super) result: Result<At<Transacted>, Failure>,
    /// What is left of the handler: its destructors run on the caller's task.
    pub(super) work: Option<Work>,
}

/// Why there is no result.
pub(super) enum Failure {
    Store(Error),
    /// The handler panicked.
    Panic(Box<dyn Any + Send>),
}

/// Why an attempt alone has come to nothing.
pub(super) enum Undone {
    Failure(Failure),
    Misuse(Misuse),
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

impl Job for Attempt {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    fn run(&mut self, db: &mut Db) -> Result<(), Stop> {
        let (result, stop) = match self.attempt(db) {
            Ok(transacted) => (Ok(transacted), Ok(())),
            Err(Fault::Job(undone)) => (Err(undone), Ok(())),
            Err(Fault::Ended(undone)) => (Err(undone), Err(Stop::Ended)),
            Err(Fault::Batch(error)) => return Err(Stop::Failed(error)),
        };
        self.result = Some(match result {
            Ok(transacted) => Ok(transacted),
            Err(Undone::Misuse(misuse)) => Ok(At { value: Transacted::Misused(misuse), now: db.now() }),
            Err(Undone::Failure(failure)) => Err(failure),
        });
        stop
    }

    fn reply(self: Box<Self>, failed: Option<&BatchFailed>) {
        let Self { work, lender, result, runtime, reply, .. } = *self;
        drop(lender);
        if let (None, Some(Ok(At { value: Transacted::Committed(_), .. }))) = (failed, &result) {
            failpoint::hit(Point::AfterCommit);
        }
        let result = match (failed, result) {
            // The panic is the handler's own, and it undid everything that it did in any case.
            (_, Some(Err(Failure::Panic(panic)))) => Err(Failure::Panic(panic)),
            (Some(failed), _) => Err(Failure::Store(failed.clone().into())),
            (None, Some(result)) => result,
            (None, None) => Err(Failure::Store(BatchFailed::unanswered().into())),
        };
        let _entered = runtime.as_ref().map(Handle::enter);
        // If the caller is gone, what is left of the handler is dropped here.
        let _ = reply.send(Reply { result, work });
    }
}

type Attempted = Result<At<Transacted>, Fault<Undone>>;

impl Attempt {
    fn attempt(&mut self, db: &mut Db) -> Attempted {
        let found = db.find_claimed(self.id, &self.claim)?;
        let now = db.now();
        let (rowid, previous) = found.map(|found| (found.rowid, found.record)).unzip();
        let record = match machine::claim(previous, &self.claim, now) {
            Claimed::Won(record) => record,
            Claimed::Held(record) => return Ok(At { value: Transacted::Held(record), now }),
        };
        failpoint::hit(Point::AfterClaim);
        match self.verdict.take() {
            Some(verdict) => self.finish(db, Writes::None, rowid, &record, verdict, now),
            None => self.work_on(db, rowid, &record),
        }
    }

    /// Lends the handler the connection, and carries out its verdict.
    fn work_on(&mut self, db: &mut Db, rowid: Option<i64>, record: &Record) -> Attempted {
        db.savepoint().map_err(Fault::<Undone>::Batch)?;
        let Some(work) = &mut self.work else { unreachable!("an attempt has a handler or its verdict") };
        let runtime = self.runtime.as_ref();
        let (polled, returned) = db.lend_to(&self.lender, || poll::poll_here(work, runtime));
        let undone: Undone = match (polled, returned) {
            (Err(panic), _) => Undone::Failure(Failure::Panic(panic)),
            (_, Returned::Late) => Misuse::TooLong.into(),
            (_, Returned::Changed) => Misuse::Reconfigured.into(),
            // SQLite has ended the transaction, after an error that the handler was told of.
            _ if !db.in_transaction() => Error::from(transaction_ended()).into(),
            (Ok(Poll::Pending), _) => Misuse::AwaitedInside { after: self.lender.latest() }.into(),
            (Ok(Poll::Ready(verdict)), Returned::Fine) => {
                failpoint::hit(Point::AfterHandlerWrite);
                let now = db.now();
                return self.finish(db, Writes::Unit, rowid, record, verdict, now);
            }
        };
        if !db.in_transaction() {
            return Err(Fault::Ended(undone));
        }
        db.abandon().map_err(Fault::<Undone>::Batch)?;
        Err(Fault::Job(undone))
    }

    fn finish(
        &mut self,
        db: &mut Db,
        writes: Writes,
        rowid: Option<i64>,
        record: &Record,
        verdict: Verdict,
        now: Timestamp,
    ) -> Attempted {
        let (outcome, keep) = match verdict {
            Verdict::Keep(outcome) => (outcome, true),
            Verdict::KeepUndone(outcome) => (outcome, false),
            Verdict::Free | Verdict::Retry | Verdict::Unknown => {
                writes.abandon(db)?;
                return Ok(At { value: Transacted::RolledBack, now });
            }
        };
        if !self.has_returned() {
            writes.abandon(db)?;
            return Err(Fault::Job(Misuse::NotReturned.into()));
        }
        // The record is written outside the unit: SQLite remembers, for each unit anew, the pages as they were before.
        if !keep {
            writes.abandon(db)?;
        } else if writes.owe(db)? {
            writes.abandon(db)?;
            return Err(Fault::Job(Error::from(constraint_owed()).into()));
        } else {
            writes.release(db)?;
        }
        let lease = Lease { id: self.id, epoch: record.epoch, owner: record.owner };
        let completion = Completion::new(outcome, &self.policy);
        let record = machine::complete(record, &lease, &completion, now)
            .unwrap_or_else(|| unreachable!("the claim was won in this transaction"));
        match writes {
            Writes::Unit if keep => db.write(self.id, rowid, &record).map_err(Fault::<Undone>::Batch)?,
            Writes::None | Writes::Unit => db.put(self.id, rowid, &record)?,
        }
        failpoint::hit(Point::BeforeCommit);
        Ok(At { value: Transacted::Committed(record), now })
    }

    /// Whether the handler's end of the loan is gone. A handler that has ended may still have it in itself.
    fn has_returned(&mut self) -> bool {
        if !self.lender.is_returned() {
            let _entered = self.runtime.as_ref().map(Handle::enter);
            let work = self.work.take();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(work)));
        }
        self.lender.is_returned()
    }
}

/// Whether there is a unit that holds the handler's writes.
#[derive(Clone, Copy)]
enum Writes {
    None,
    Unit,
}

impl Writes {
    /// Whether they owe a deferred foreign key.
    fn owe(self, db: &mut Db) -> Result<bool, Fault<Undone>> {
        match self {
            Self::None => Ok(false),
            Self::Unit => db.owes().map_err(Fault::<Undone>::Batch),
        }
    }

    fn release(self, db: &Db) -> Result<(), Fault<Undone>> {
        self.on(|| db.release())
    }

    fn abandon(self, db: &Db) -> Result<(), Fault<Undone>> {
        self.on(|| db.abandon())
    }

    fn on(self, unit: impl FnOnce() -> rusqlite::Result<()>) -> Result<(), Fault<Undone>> {
        match self {
            Self::None => Ok(()),
            Self::Unit => unit().map_err(Fault::<Undone>::Batch),
        }
    }
}
