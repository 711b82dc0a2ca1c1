//! One attempt at a claim, on the writer: the claim, the handler's writes and the record, as one unit of a batch.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::db::Db;
use super::error::{BatchFailed, Fault, transaction_ended};
use super::job::Job;
use super::loan::Lender;
use crate::failpoint::{self, Point};
use crate::machine::{self, Claim, Claimed, Completion};
use crate::store::{At, Error};
use crate::tx::{Misuse, Transacted, Verdict, Work};
use crate::{Lease, Policy, Record, RecordId, Timestamp};

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

impl Job for Attempt {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    fn run(&mut self, db: &mut Db) -> rusqlite::Result<()> {
        self.result = Some(match self.attempt(db) {
            Ok(result) => result.map_err(Failure::Panic),
            Err(Fault::Job(error)) => Err(Failure::Store(error)),
            Err(Fault::Batch(error)) => return Err(error),
        });
        Ok(())
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

type Attempted = Result<Result<At<Transacted>, Box<dyn Any + Send>>, Fault>;

impl Attempt {
    fn attempt(&mut self, db: &mut Db) -> Attempted {
        let found = db.find_claimed(self.id, &self.claim)?;
        let now = db.now();
        let (rowid, previous) = found.map(|found| (found.rowid, found.record)).unzip();
        let record = match machine::claim(previous, &self.claim, now) {
            Claimed::Won(record) => record,
            Claimed::Held(record) => return Ok(Ok(At { value: Transacted::Held(record), now })),
        };
        failpoint::hit(Point::AfterClaim);
        match self.verdict.take() {
            Some(verdict) => self.finish(db, Writes::None, rowid, &record, verdict, now).map(Ok),
            None => self.work_on(db, rowid, &record, now),
        }
    }

    /// Lends the handler the connection, and carries out its verdict.
    fn work_on(&mut self, db: &mut Db, rowid: Option<i64>, record: &Record, now: Timestamp) -> Attempted {
        db.savepoint().map_err(Fault::Batch)?;
        let Some(work) = &mut self.work else { unreachable!("an attempt has a handler or its verdict") };
        let runtime = self.runtime.as_ref();
        let polled = db.lend_to(&self.lender, || {
            let _entered = runtime.map(Handle::enter);
            poll_here(work)
        });
        if !db.in_transaction() {
            // SQLite has ended it, after an error that the handler was told of.
            return Err(Fault::Batch(transaction_ended()));
        }
        match polled {
            Ok(Poll::Ready(verdict)) => {
                failpoint::hit(Point::AfterHandlerWrite);
                let now = db.now();
                self.finish(db, Writes::Unit, rowid, record, verdict, now).map(Ok)
            }
            Ok(Poll::Pending) => {
                db.abandon().map_err(Fault::Batch)?;
                Ok(Ok(At { value: Transacted::Misused(Misuse::AwaitedInside), now }))
            }
            Err(panic) => {
                db.abandon().map_err(Fault::Batch)?;
                Ok(Err(panic))
            }
        }
    }

    fn finish(
        &mut self,
        db: &Db,
        writes: Writes,
        rowid: Option<i64>,
        record: &Record,
        verdict: Verdict,
        now: Timestamp,
    ) -> Result<At<Transacted>, Fault> {
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
            return Ok(At { value: Transacted::Misused(Misuse::NotReturned), now });
        }
        // The record is written outside the unit: SQLite remembers, for each unit anew, the pages as they were before.
        if keep {
            writes.release(db)?;
        } else {
            writes.abandon(db)?;
        }
        let lease = Lease { id: self.id, epoch: record.epoch, owner: record.owner };
        let completion = Completion::new(outcome, &self.policy);
        let record = machine::complete(record, &lease, &completion, now)
            .unwrap_or_else(|| unreachable!("the claim was won in this transaction"));
        match writes {
            Writes::Unit if keep => db.write(self.id, rowid, &record).map_err(Fault::Batch)?,
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
    fn release(self, db: &Db) -> Result<(), Fault> {
        self.on(|| db.release())
    }

    fn abandon(self, db: &Db) -> Result<(), Fault> {
        self.on(|| db.abandon())
    }

    fn on(self, unit: impl FnOnce() -> rusqlite::Result<()>) -> Result<(), Fault> {
        match self {
            Self::None => Ok(()),
            Self::Unit => unit().map_err(Fault::Batch),
        }
    }
}

/// How often a handler that woke itself while it was polled is polled again.
const REPOLLS_MAX: usize = 32;

/// Polls the handler on this thread, for as long as it is ready to go on.
fn poll_here(work: &mut Work) -> Poll<Verdict> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    for _ in 0..REPOLLS_MAX {
        woken.0.store(false, Ordering::Release);
        match work.as_mut().poll(&mut cx) {
            Poll::Pending if woken.0.load(Ordering::Acquire) => {}
            polled => return polled,
        }
    }
    Poll::Pending
}

/// A waker that only remembers.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}
