//! One attempt at a claim, on the writer: the claim, the handler's writes, the record and the events, as a part of a
//! batch.

use keylatch_core::failpoint::{self, Point};
use keylatch_core::machine::Claim;
use keylatch_core::store::At;
use keylatch_core::tx::{Ending, Entered, Transacted, Work};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::db::Db;
use super::error::{BatchFailed, Fault};
use super::job::{Job, Stop};
use super::lent::{Failure, Lent, Undone};
use super::outbox::Published;
use super::poll;

/// One attempt at a claim.
pub(super) struct Attempt {
    pub(super) claim: Claim,
    pub(super) lent: Lent,
    pub(super) published: Published,
    pub(super) result: Option<Result<At<Transacted>, Failure>>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The reply to the caller.
pub(super) struct Reply {
    pub(super) result: Result<At<Transacted>, Failure>,
    /// What is left of the handler: its destructors run on the caller's task.
    pub(super) work: Option<Work>,
}

impl Job for Attempt {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.lent.runtime.as_ref()
    }

    fn run(&mut self, db: &mut Db) -> Result<(), Stop> {
        let (result, stop) = match self.attempt(db) {
            Ok(transacted) => (Ok(transacted), Ok(())),
            Err(Fault::Job(undone)) => (Err(undone), Ok(())),
            Err(Fault::Ended(undone)) => (Err(undone), Err(Stop::Ended)),
            Err(Fault::Batch(error)) => return Err(Stop::Failed(error)),
        };
        self.result = Some(match result {
            Ok(transacted) => Ok(At { value: transacted, now: db.now() }),
            Err(Undone::Misuse(misuse)) => Ok(At { value: Transacted::Misused(misuse), now: db.now() }),
            Err(Undone::Failure(failure)) => Err(failure),
        });
        stop
    }

    fn reply(self: Box<Self>, failed: Option<&BatchFailed>) {
        let Self { lent: Lent { work, lender, runtime, .. }, published, result, reply, .. } = *self;
        drop(lender);
        if let (None, Some(Ok(At { value: Transacted::Committed(_), .. }))) = (failed, &result) {
            failpoint::hit(Point::AfterCommit);
            published.wake();
        }
        let result = match (failed, result) {
            // The handler panicked, and its writes are rolled back in any case.
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

impl Attempt {
    fn attempt(&mut self, db: &mut Db) -> Result<Transacted, Fault<Undone>> {
        let id = self.claim.id();
        let found = db.find_claimed(id, &self.claim)?;
        let (rowid, previous) = found.map(|found| (found.rowid, found.record)).unzip();
        // The record may have changed since the look.
        let entered = match Entered::new(&self.claim, previous, db.now()) {
            Ok(entered) => entered,
            Err(record) => return Ok(Transacted::Held(Some(record))),
        };
        failpoint::hit(Point::AfterClaim);
        let runtime = self.lent.runtime.clone();
        let ending = poll::watched(runtime.as_ref(), || self.lent.run(db))?;
        let now = db.now();
        // The record is written after the handler's unit, because SQLite keeps the old pages of each unit separately.
        let record = match ending {
            Ending::RollBack => return Ok(Transacted::RolledBack),
            Ending::Commit(completion) => {
                let record = entered.completed(&completion, now);
                // Without its record and its events, the handler's writes must not stay.
                db.write(id, rowid, &record).map_err(Fault::<Undone>::Batch)?;
                let events = self.lent.lender.take_events();
                self.published.insert(db, &events).map_err(Fault::<Undone>::Batch)?;
                record
            }
            Ending::RecordOnly(completion) => {
                let record = entered.completed(&completion, now);
                db.put(id, rowid, &record)?;
                record
            }
        };
        failpoint::hit(Point::BeforeCommit);
        Ok(Transacted::Committed(record))
    }
}
