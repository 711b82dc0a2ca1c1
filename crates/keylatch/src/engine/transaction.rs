//! A run in a transaction of the store: the claim, the work and the record commit together, or not at all.
#![expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::drive::{Driven, END_PAUSE, admit};
use super::flight::Leader;
use super::run::{Identity, Kind};
use super::telemetry::{self, span, within};
use super::{Answer, Final, HeldRecord, Inner, Ran, Request, RunOrTx};
use crate::Owner;
use crate::Record;
use crate::machine::{self, Claim, Claimed, Phase};
use crate::recent::What;
use crate::store::{self, At, ErrorKind};
use crate::tx::{Seen, Start, Transacted, Transactional, Tx, TxSlot, Verdict, Work};

/// How often another may take the key between a look and the attempt.
const ENTRIES_MAX: u32 = 8;
/// The first pause between looks at a transaction whose commit was not acknowledged and which has not ended yet.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// A [`Transactional`] store, whatever its database.
pub(super) trait Transact: Debug + Send + Sync {
    fn look<'s>(&'s self, claim: &Claim) -> BoxFuture<'s, Result<At<Seen>, store::Error>>;

    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        begin: Begin,
    ) -> BoxFuture<'_, Result<At<Transacted>, store::Error>>;
}

/// Starts the work, given the handler's transaction.
pub(super) type Begin = Box<dyn FnOnce(TxSlot) -> Work + Send>;

impl<S: Transactional> Transact for S {
    fn look<'s>(&'s self, claim: &Claim) -> BoxFuture<'s, Result<At<Seen>, store::Error>> {
        Transactional::look(self, claim)
    }

    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        begin: Begin,
    ) -> BoxFuture<'_, Result<At<Transacted>, store::Error>> {
        let start: Start<S::Database> = Box::new(|handle| {
            let slot = TxSlot::new(Tx::<S::Database>::new(handle));
            let work = begin(slot.clone());
            Box::pin(async move {
                let ending = work.await;
                // A transaction that the handler did not take is returned, wherever the request's extensions have gone.
                drop(slot.take::<S::Database>());
                ending
            })
        });
        Transactional::transact(self, claim, seen, start)
    }
}

/// Claims the key, runs the work and records its outcome in one transaction.
pub(super) fn in_transaction<S, F, T>(
    engine: Arc<Inner>,
    transact: Arc<dyn Transact>,
    leader: Leader,
    request: Request,
    start: S,
) -> impl Future<Output = Driven<S, T>> + Send + 'static
where
    S: FnOnce(RunOrTx) -> F + Send + 'static,
    F: Future<Output = (Verdict, T)> + Send + 'static,
    T: Send + 'static,
{
    async move {
        let owner = Owner::random();
        if let Err(instead) = admit(&engine, &leader, &request, owner).await {
            return instead.driven(leader, start);
        }
        let asked = Instant::now();
        let claim = engine.claim(&leader, &request, owner);
        // The start of the work, and then the value that it returned. In between, the store drives the work.
        let work = Arc::new(Mutex::new(Stage::Waiting(start)));
        let begin = || -> Begin {
            let stage = work.clone();
            let record = leader.id();
            let span = span(|| tracing::info_span!("keylatch.transaction", %record));
            let flight = leader.flight().clone();
            let engine = engine.clone();
            let id = leader.id();
            let identity = Identity { scope: request.scope.clone(), key: request.key.clone() };
            Box::new(move |slot| {
                flight.begins();
                engine.saw_begin(id, &flight, What::Began);
                let start = stage.lock().begin().expect("an attempt begins its work once");
                let work = within(span, start(RunOrTx(Kind::Tx(slot, identity))));
                Box::pin(async move {
                    let (verdict, value) = work.await;
                    *stage.lock() = Stage::Ended(value);
                    verdict.ending(flight.policy())
                })
            })
        };
        let transacted = attempt(&engine, &*transact, &claim, begin, || work.lock().is_waiting()).await;
        telemetry::transact_took(asked.elapsed());
        let (start, value) = std::mem::replace(&mut *work.lock(), Stage::Begun).parts();
        let ran = |expires_at| {
            let value = value.expect("work that has ended has yielded a value");
            Driven::Done(Ok(Answer::Ran(Ran { value, expires_at })))
        };
        match transacted {
            Ok(At { value: Transacted::Committed(record), now }) => {
                telemetry::completed();
                engine.saw(leader.id(), What::Completed);
                let found = Final::of(record, now, asked);
                if let Some(found) = &found {
                    engine.remember(&leader, found);
                }
                ran(found.map(|found| found.expires_at()))
            }
            Ok(At { value: Transacted::RolledBack, .. }) => {
                telemetry::freed();
                engine.saw(leader.id(), What::NotRecorded);
                ran(None)
            }
            Ok(At { value: Transacted::Held(Some(record)), now }) => {
                Driven::Held(leader, start, HeldRecord::new(At { value: record, now }, asked))
            }
            Ok(At { value: Transacted::Held(None), .. }) => Driven::Busy(leader, start),
            Ok(At { value: Transacted::Misused(misuse), .. }) => {
                tracing::error!(operation = request.scope.operation(), %misuse, "nothing was committed");
                Driven::Done(Err(misuse.into()))
            }
            Err(error) => Driven::Done(Err(error.into())),
        }
    }
}

/// The work of a request, before, during and after the store drives it.
enum Stage<S, T> {
    Waiting(S),
    Begun,
    Ended(T),
}

impl<S, T> Stage<S, T> {
    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }

    fn begin(&mut self) -> Option<S> {
        std::mem::replace(self, Self::Begun).parts().0
    }

    fn parts(self) -> (Option<S>, Option<T>) {
        match self {
            Self::Waiting(start) => (Some(start), None),
            Self::Begun => (None, None),
            Self::Ended(value) => (None, Some(value)),
        }
    }
}

/// Looks and makes an attempt in a transaction, and repeats this while others take the key in between.
async fn attempt(
    engine: &Inner,
    transact: &dyn Transact,
    claim: &Claim,
    begin: impl Fn() -> Begin,
    may_begin: impl Fn() -> bool,
) -> Result<At<Transacted>, store::Error> {
    let mut entries = ENTRIES_MAX;
    loop {
        let At { value: Seen { record, busy }, now } = transact.look(claim).await?;
        let held = |record| Ok(At { value: Transacted::Held(record), now });
        match machine::claim(record.clone(), claim, now) {
            // A reply was lost, and the record is this attempt's.
            Claimed::Held(record) if record.owner == claim.owner => {
                return Ok(At { value: Transacted::Committed(record), now });
            }
            Claimed::Held(record) => return held(Some(record)),
            Claimed::Won(_) if busy || entries == 0 || !may_begin() => return held(None),
            Claimed::Won(_) => {}
        }
        entries -= 1;
        match transact.transact(claim.clone(), At { value: record, now }, begin()).await {
            Ok(At { value: Transacted::Held(None), .. }) => {}
            Err(error) if error.kind() == ErrorKind::NotKnown => {
                return Box::pin(settle(engine, transact, claim, error)).await;
            }
            done => return done,
        }
    }
}

/// Finds out what became of a commit that was not acknowledged, once its transaction has ended.
async fn settle(
    engine: &Inner,
    transact: &dyn Transact,
    claim: &Claim,
    error: store::Error,
) -> Result<At<Transacted>, store::Error> {
    let (started, mut pause) = (Instant::now(), SETTLE_PAUSE);
    loop {
        match transact.look(claim).await {
            Ok(At { value: Seen { record: Some(record), .. }, now }) if record.owner == claim.owner => {
                return Ok(At { value: Transacted::Committed(record), now });
            }
            Ok(At { value: Seen { busy: true, .. }, .. }) => {}
            Ok(At { value: Seen { record, .. }, now }) => {
                return match record.filter(|record| machine::phase(Some(record), now) != Phase::Free) {
                    Some(record) => Ok(At { value: Transacted::Held(Some(record)), now }),
                    None => Err(store::Error::new(ErrorKind::Unavailable, error)),
                };
            }
            Err(error) if error.retryable() => {}
            Err(error) => return Err(error),
        }
        if started.elapsed() + pause >= engine.lease {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(END_PAUSE.1);
    }
}
