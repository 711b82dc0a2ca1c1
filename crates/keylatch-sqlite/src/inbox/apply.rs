//! A batch of messages, on the writer: the place, the handlers' writes and the records, as a part of a batch of jobs.

use std::collections::HashMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use keylatch_core::failpoint::{self, Point};
use keylatch_core::inbox::{Batch, BatchEnd, Part, Place, Triage, Triaged, Why, advance};
use keylatch_core::outbox::Events;
use keylatch_core::tx::{Ending, Misuse, Work};
use keylatch_core::{Record, RecordId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::rows;
use crate::db::Db;
use crate::error::{BatchFailed, Fault};
use crate::job::{Job, Stop};
use crate::lent::{Failure, Lent, Undone};
use crate::loan::Lender;
use crate::outbox::Published;
use crate::poll;
use crate::tx::{Loaned, Sqlite};

/// A batch that waits for the writer. Its handlers start there: all of them share the writer's transaction, so none of
/// them may await anything else.
pub(super) struct Apply {
    batch: Batch<Sqlite>,
    runtime: Option<Handle>,
    result: Option<Result<BatchEnd, Failure>>,
    /// What is left of the handlers: their destructors run on the caller's task.
    left: Vec<Work>,
    /// The events of the handlers that have ended.
    events: Events,
    published: Published,
    reply: oneshot::Sender<Reply>,
}

/// The reply to the caller.
pub(super) struct Reply {
    pub(super) result: Result<BatchEnd, Failure>,
    pub(super) left: Vec<Work>,
}

impl Apply {
    pub(super) fn new(batch: Batch<Sqlite>, published: Published, reply: oneshot::Sender<Reply>) -> Self {
        let (runtime, events) = (Handle::try_current().ok(), Events::default());
        Self { batch, runtime, result: None, left: Vec::new(), events, published, reply }
    }
}

impl Job for Apply {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    fn run(&mut self, db: &mut Db) -> Result<(), Stop> {
        let runtime = self.runtime.clone();
        let (result, stop) = match poll::watched(runtime.as_ref(), || self.apply(db)) {
            Ok(end) => (Ok(end), Ok(())),
            Err(Fault::Job(Stopped::End(end))) => (Ok(*end), Ok(())),
            Err(Fault::Ended(Stopped::End(end))) => (Ok(*end), Err(Stop::Ended)),
            Err(Fault::Job(Stopped::Failure(failure))) => (Err(failure), Ok(())),
            Err(Fault::Ended(Stopped::Failure(failure))) => (Err(failure), Err(Stop::Ended)),
            Err(Fault::Batch(error)) => return Err(Stop::Failed(error)),
        };
        self.result = Some(result);
        stop
    }

    fn reply(self: Box<Self>, failed: Option<&BatchFailed>) {
        let Self { batch, result, left, published, reply, runtime, .. } = *self;
        if let (None, Some(Ok(BatchEnd::Applied { .. }))) = (failed, &result) {
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
        // What was never started, and if the caller is gone, what is left of the handlers, is dropped here.
        drop(batch);
        let _ = reply.send(Reply { result, left });
    }
}

/// Why nothing of a batch is committed.
enum Stopped {
    End(Box<BatchEnd>),
    Failure(Failure),
}

impl From<keylatch_core::store::Error> for Stopped {
    fn from(error: keylatch_core::store::Error) -> Self {
        Self::Failure(Failure::Store(error))
    }
}

impl From<Fault> for Fault<Stopped> {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Job(error) => Self::Job(error.into()),
            Fault::Ended(error) => Self::Ended(error.into()),
            Fault::Batch(error) => Self::Batch(error),
        }
    }
}

type Batched<T> = Result<T, Fault<Stopped>>;

impl Apply {
    fn apply(&mut self, db: &mut Db) -> Batched<BatchEnd> {
        failpoint::hit(Point::BeforeClaim);
        let place = match self.own(db)? {
            Ok(place) => place,
            Err(end) => return Ok(end),
        };
        failpoint::hit(Point::AfterClaim);
        let (found, rowids) = self.records(db)?;
        let triage = match Triage::of(&self.batch, &found, db.now()) {
            Ok(triage) => triage,
            Err(end) => return Ok(end),
        };
        db.savepoint().map_err(Fault::<Stopped>::Batch)?;
        let mut endings = Vec::new();
        for (part, triaged) in mem::take(&mut self.batch.parts).into_iter().zip(triage.parts) {
            if triaged.fresh.is_empty() {
                continue;
            }
            match self.part(db, part, &triaged) {
                Ok(Ending::Commit(completion)) => endings.push((completion, triaged.entered)),
                Ok(Ending::RecordOnly(_) | Ending::RollBack) => {
                    db.abandon().map_err(Fault::<Stopped>::Batch)?;
                    return Ok(BatchEnd::Failed { at: Some(triaged.first), why: Why::Ended });
                }
                Err(fault) => {
                    if let Fault::Job(_) = &fault {
                        db.abandon().map_err(Fault::<Stopped>::Batch)?;
                    }
                    return Err(fault);
                }
            }
        }
        // The rest is written after the handlers' unit, because SQLite keeps the old pages of each unit separately.
        // Without it, the handlers' writes must not stay.
        db.release().map_err(Fault::<Stopped>::Batch)?;
        let now = db.now();
        for (completion, entered) in &endings {
            for entered in entered {
                let id = entered.record().id();
                let record = entered.completed(completion, now);
                db.write(id, rowids.get(&id).copied(), &record).map_err(Fault::<Stopped>::Batch)?;
            }
        }
        if let Some(step) = &self.batch.step {
            let moved = advance(&place, &self.batch.ownership, step, now);
            let moved = moved.unwrap_or_else(|| unreachable!("the place was the owner's, and where the step begins"));
            rows::write(db.conn(), &moved).map_err(Fault::<Stopped>::Batch)?;
        }
        if let Some(letter) = &self.batch.letter {
            let sql = include_str!("../sql/dead_letter_delete.sql");
            rows::of_dead_letter(db.conn(), sql, letter, &[]).map_err(Fault::<Stopped>::Batch)?;
        }
        self.published.insert(db, &self.events).map_err(Fault::<Stopped>::Batch)?;
        failpoint::hit(Point::BeforeCommit);
        Ok(BatchEnd::Applied { known: triage.known })
    }

    /// The place, if it is the caller's and where the batch begins; and the dead letter is there, if it needs one.
    fn own(&self, db: &Db) -> Batched<Result<Place, BatchEnd>> {
        let Batch { ownership, step, letter, .. } = &self.batch;
        let place = super::find(db, &ownership.place)?;
        let begins = |place: &Place| step.is_none_or(|step| place.next == step.from);
        let place = match place {
            Some(place) if place.is_of(ownership) && begins(&place) => place,
            place => return Ok(Err(BatchEnd::Lost(place))),
        };
        if let Some(letter) = letter
            && !db.done(rows::exists(db.conn(), letter))?
        {
            return Ok(Err(BatchEnd::NoDeadLetter));
        }
        Ok(Ok(place))
    }

    /// The records of the messages' ids, and where they are.
    fn records(&self, db: &Db) -> Batched<(HashMap<RecordId, Record>, HashMap<RecordId, i64>)> {
        let (mut found, mut rowids) = (HashMap::new(), HashMap::new());
        for claim in self.batch.claims() {
            let id = claim.id();
            if let Some(row) = db.find_claimed(id, claim)? {
                rowids.insert(id, row.rowid);
                found.insert(id, row.record);
            }
        }
        Ok((found, rowids))
    }

    /// Runs the handler of a part to its end.
    fn part(&mut self, db: &mut Db, part: Part<Sqlite>, triaged: &Triaged) -> Batched<Ending> {
        let (lender, start, fresh) = (Lender::default(), part.start, triaged.fresh.clone());
        let loaned = Loaned::of(&lender, mem::take(&mut self.events));
        let started = catch_unwind(AssertUnwindSafe(|| start(loaned, fresh)));
        let work = started.map_err(|panic| Fault::Job(Stopped::Failure(Failure::Panic(panic))))?;
        let mut lent = Lent { work: Some(work), ending: None, lender, runtime: self.runtime.clone() };
        let ended = lent.run_in_unit(db);
        self.left.extend(lent.work.take());
        self.events = lent.lender.take_events();
        ended.map_err(|fault| match fault {
            Fault::Job(undone) => Fault::Job(Stopped::of(undone, triaged.first, Misuse::Failed)),
            Fault::Ended(undone) => Fault::Ended(Stopped::of(undone, triaged.first, Misuse::Ended)),
            Fault::Batch(error) => Fault::Batch(error),
        })
    }
}

impl Stopped {
    /// What a handler's fault means for its batch: that of the message at this position, unless the handler panicked.
    fn of(undone: Undone, at: usize, otherwise: Misuse) -> Self {
        let failed = |misuse| Self::End(Box::new(BatchEnd::Failed { at: Some(at), why: Why::Misused(misuse) }));
        match undone {
            Undone::Misuse(misuse) => failed(misuse),
            Undone::Failure(Failure::Store(_)) => failed(otherwise),
            Undone::Failure(panic @ Failure::Panic(_)) => Self::Failure(panic),
        }
    }
}
