//! One run, from its claim to its end: on a lease, or in a transaction.
#![expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tracing::Instrument;
use tracing::instrument::Instrumented;

use super::flight::Leader;
use super::run::Kind;
use super::{Answer, Error, Final, Found, Handed, Inner, Quota, Ran, Refused, Run, renewer};
use crate::failpoint::{self, Point};
use crate::machine::{self, Claim, Claimed, Completion, Decision, End, Phase};
use crate::planted::{self, Bug};
use crate::store::{self, Applied, At, ErrorKind};
use crate::tx::{Start, Transacted, Transactional, TxSlot, Verdict, Work};
use crate::{Fingerprint, Guarantee, Lease, Owner, Policy, Record, State, Timestamp};

/// How a drive ended.
pub(super) enum Driven<S> {
    /// With the request's answer.
    Done(Result<Answer, Error>),
    /// Another has the key. The leader is handed back, to look again.
    Held(Leader, Option<S>, Box<Found>),
    /// Another transaction has the key for the same request, as far as can be told, and no record yet.
    Busy(Leader, Option<S>),
}

// These futures are made anew for every request, so what they keep is kept once: a claim goes by reference, what is
// seldom waited for is in a box, and none is an `async fn`, which would keep its arguments twice.

/// Claims the key, runs the work and carries out its verdict.
pub(super) fn drive<S, F>(
    engine: Arc<Inner>,
    leader: Leader,
    claim: Claim,
    start: S,
) -> impl Future<Output = Driven<S>> + Send + 'static
where
    S: FnOnce(Handed) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    async move {
        match admit(&engine, &leader, &claim).await {
            Ok(Admitted::ToClaim) => {}
            Ok(Admitted::Full) => return Driven::Done(Ok(Refused::Quota(Quota::RecordsPerScope).into())),
            Ok(Admitted::Found(found)) => return Driven::Held(leader, Some(start), found),
            Err(error) => return Driven::Done(Err(error.into())),
        }
        failpoint::hit(Point::BeforeClaim);
        match &engine.transact {
            Some(transact) => in_transaction(&engine, &**transact, leader, &claim, start).await,
            None => on_lease(&engine, leader, &claim, start).await,
        }
    }
}

/// Whether a request may claim its key.
enum Admitted {
    ToClaim,
    /// Its scope is full, and it would be one record more.
    Full,
    /// Its scope is full, and this record is there already.
    Found(Box<Found>),
}

async fn admit(engine: &Inner, leader: &Leader, claim: &Claim) -> Result<Admitted, store::Error> {
    if engine.quotas.admit(&*engine.store, claim).await? {
        return Ok(Admitted::ToClaim);
    }
    let asked = Instant::now();
    let At { value, now } = engine.store.read(leader.id()).await?;
    Ok(match value.filter(|record| machine::phase(Some(record), now) != Phase::Free) {
        None => Admitted::Full,
        Some(record) if decides(&record, claim.fingerprint, now) => {
            Admitted::Found(Found::new(At { value: record, now }, asked))
        }
        // To be taken over: that makes no record more.
        Some(_) => Admitted::ToClaim,
    })
}

/// Whether `record` already decides what a request with `fingerprint` gets.
fn decides(record: &Record, fingerprint: Fingerprint, now: Timestamp) -> bool {
    machine::decide(Some(record), fingerprint, now) != Decision::Run
}

// ---- On a lease ----------------------------------------------------------------------------------------

/// Tries of a claim whose reply was lost, before its caller is told that the store is unavailable.
const CLAIM_TRIES: u32 = 2;
/// The pauses between tries to write an end: at first, and at the most.
const END_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

fn on_lease<S, F>(
    engine: &Arc<Inner>,
    leader: Leader,
    claim: &Claim,
    start: S,
) -> impl Future<Output = Driven<S>> + Send
where
    S: FnOnce(Handed) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    async move {
        let (lease, work) = {
            let asked = Instant::now();
            let claimed = match claim_lease(engine, claim).await {
                Ok(claimed) => claimed,
                Err(error) => return Driven::Done(Err(error.into())),
            };
            let record = match claimed {
                At { value: Claimed::Won(record), .. } => record,
                At { value: Claimed::Held(record), now } => {
                    engine.metrics.claim.record(asked.elapsed());
                    return Driven::Held(leader, Some(start), Found::new(At { value: record, now }, asked));
                }
            };
            failpoint::hit(Point::AfterClaim);
            match begin(engine, &leader, record, start, asked) {
                Some(begun) => begun,
                None => {
                    // Paused since then: another may have taken over, so nothing starts under this lease.
                    withdraw(engine, claim);
                    return Driven::Done(Ok(Refused::InProgress.into()));
                }
            }
        };
        let verdict = work.await;
        failpoint::hit(Point::AfterHandlerWrite);
        match verdict {
            Verdict::Keep(outcome) | Verdict::KeepUndone(outcome) => {
                complete(engine, leader, claim, lease, Completion::new(outcome, &engine.policy)).await
            }
            verdict => Box::pin(release(engine, leader, lease, verdict)).await,
        }
    }
}

/// The work of a run under the lease that was won, in its span; `None` if the lease may be over already.
fn begin<S, F>(
    engine: &Arc<Inner>,
    leader: &Leader,
    record: Record,
    start: S,
    asked: Instant,
) -> Option<(Lease, Instrumented<F>)>
where
    S: FnOnce(Handed) -> F,
{
    let (now, until) = (Instant::now(), engine.held_until(asked));
    engine.metrics.claim.record(now - asked);
    if now >= until {
        return None;
    }
    let lease = Lease { id: leader.id(), epoch: record.epoch, owner: record.owner };
    leader.flight().held(lease, until, asked);
    renewer::start(engine);
    if record.attempt > 1 {
        engine.metrics.takeovers.increment(1);
    }
    let span = tracing::info_span!("keylatch.run", epoch = lease.epoch.as_u64(), attempt = record.attempt);
    let run = Run::new(engine.clone(), leader.flight().clone(), lease, record);
    Some((lease, start(Handed(Kind::Run(run))).instrument(span)))
}

/// Claims, again if the reply was lost: the store knows the claim by its owner.
async fn claim_lease(engine: &Arc<Inner>, claim: &Claim) -> Result<At<Claimed>, store::Error> {
    let (mut tries, mut uncertain) = (CLAIM_TRIES, false);
    loop {
        tries -= 1;
        match engine.store.claim(claim.clone()).await {
            Ok(claimed) => return Ok(claimed),
            Err(error) => {
                uncertain |= error.kind() == ErrorKind::NotKnown;
                if error.retryable() && tries > 0 {
                    continue;
                }
                if uncertain {
                    withdraw(engine, claim);
                }
                return Err(error);
            }
        }
    }
}

/// A claim that may have been granted although its reply never came, or came too late: nothing has run under it, so
/// the record goes, if the store comes back before the lease ends. If others ran before, what they did is not to be
/// forgotten, nor that they died: then the record stays, and its lease ends by itself.
fn withdraw(engine: &Arc<Inner>, claim: &Claim) {
    let Ok(place) = engine.withdrawals.clone().try_acquire_owned() else {
        tracing::warn!("too many claims are being withdrawn; the lease of this one will end");
        return;
    };
    let (engine, id, owner) = (engine.clone(), claim.id(), claim.owner);
    let tracker = engine.tracker.clone();
    drop(tracker.spawn(async move {
        let read = || async {
            let found = engine.store.read(id).await?.value;
            match found.filter(|record| record.owner == owner && record.attempt == 1) {
                Some(record) => engine.store.release(record.lease(), End::Free).await.map(|_| ()),
                None => Ok(()),
            }
        };
        if let (Err(error), _) = until_lease_ends(&engine.policy, Instant::now(), read).await {
            tracing::warn!(%error, "a claim that may have been granted could not be withdrawn; its lease will end");
        }
        drop(place);
    }));
}

fn complete<S: Send>(
    engine: &Arc<Inner>,
    leader: Leader,
    claim: &Claim,
    lease: Lease,
    completion: Completion,
) -> impl Future<Output = Driven<S>> + Send {
    async move {
        let asked = Instant::now();
        failpoint::hit(Point::BeforeCommit);
        leader.flight().ends();
        if planted::has(Bug::AnswerBeforeRecord) {
            let (engine, completion) = (engine.clone(), completion.clone());
            drop(tokio::spawn(async move { engine.store.complete(lease, completion).await }));
            return Driven::Done(Ok(Answer::Ran(Ran { expires_at: None })));
        }
        let (applied, tries) =
            until_lease_ends(&engine.policy, asked, || engine.store.complete(lease, completion.clone())).await;
        engine.metrics.complete.record(asked.elapsed());
        failpoint::hit(Point::AfterCommit);
        match applied {
            Ok(Applied::Applied(now)) => {
                // If the reply of an earlier try was lost, the answer has been there since then.
                let earlier = if tries > 1 { Box::pin(recorded_until(engine, lease)).await } else { None };
                let expires_at = earlier.unwrap_or(now + completion.retention);
                engine.metrics.completed.increment(1);
                if planted::has(Bug::ReleaseAfterComplete) {
                    let _ = engine.store.release(lease, End::Free).await;
                }
                if engine.cache.keeps() || leader.is_followed() {
                    engine.remember(&leader, &Final::new(claim, &completion.outcome, expires_at, now, asked));
                }
                Driven::Done(Ok(Answer::Ran(Ran { expires_at: Some(expires_at) })))
            }
            Ok(Applied::Lost) => Box::pin(lost(engine, leader, Refused::InProgress.into())).await,
            Err(error) => Driven::Done(Err(error.into())),
        }
    }
}

/// Another has taken over: its answer is the answer, or `otherwise` if there is no record any more.
async fn lost<S>(engine: &Inner, leader: Leader, otherwise: Answer) -> Driven<S> {
    tracing::warn!("a run lost its lease; its client gets the answer of the run that took over");
    leader.flight().lose();
    engine.metrics.lost.increment(1);
    look(engine, leader, otherwise).await
}

/// Until when the outcome that is recorded is given.
async fn recorded_until(engine: &Inner, lease: Lease) -> Option<Timestamp> {
    match engine.store.read(lease.id).await.ok()?.value?.state {
        State::Completed { expires_at, .. } => Some(expires_at),
        State::Running { .. } => None,
    }
}

/// The record, for a request whose work has begun before and cannot begin again; `otherwise` if there is none.
pub(super) async fn look<S>(engine: &Inner, leader: Leader, otherwise: Answer) -> Driven<S> {
    let asked = Instant::now();
    match engine.store.read(leader.id()).await {
        Ok(At { value: Some(record), now }) => Driven::Held(leader, None, Found::new(At { value: record, now }, asked)),
        Ok(At { value: None, .. }) => Driven::Done(Ok(otherwise)),
        Err(error) => Driven::Done(Err(error.into())),
    }
}

async fn release<S>(engine: &Inner, leader: Leader, lease: Lease, verdict: Verdict) -> Driven<S> {
    let (end, counter) = match (verdict, engine.guarantee) {
        (Verdict::Unknown, _) => (End::Unknown, &engine.metrics.not_known),
        (Verdict::Retry, Guarantee::Fenced) => {
            (End::Retry(engine.policy.retention + engine.policy.tombstone), &engine.metrics.retried)
        }
        _ => (End::Free, &engine.metrics.freed),
    };
    counter.increment(1);
    let ran = Answer::Ran(Ran { expires_at: None });
    match until_lease_ends(&engine.policy, Instant::now(), || engine.store.release(lease, end)).await {
        (Ok(Applied::Lost), 1) => return lost(engine, leader, ran).await,
        // An earlier try was carried out, although its reply was lost.
        (Ok(Applied::Applied(_) | Applied::Lost), _) => {}
        (Err(error), _) => {
            tracing::warn!(%error, "a run that ended without an outcome could not say so; its lease will end");
        }
    }
    Driven::Done(Ok(ran))
}

/// Does `write` until it succeeds, fails for good, or a lease has passed since `started`. Says in how many tries.
async fn until_lease_ends<T, F>(
    policy: &Policy,
    started: Instant,
    write: impl Fn() -> F,
) -> (Result<T, store::Error>, u32)
where
    F: Future<Output = Result<T, store::Error>>,
{
    let (mut pause, mut tries) = (END_PAUSE.0, 0);
    loop {
        tries += 1;
        match write().await {
            Err(error) if error.retryable() && started.elapsed() + pause < policy.lease => {
                Box::pin(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(END_PAUSE.1);
            }
            done => return (done, tries),
        }
    }
}

// ---- In a transaction ----------------------------------------------------------------------------------

/// A [`Transactional`] store, whatever its database.
pub(super) trait Transact: Debug + Send + Sync {
    fn transact(
        &self,
        claim: Claim,
        policy: Policy,
        start: Begin,
    ) -> BoxFuture<'_, Result<At<Transacted>, store::Error>>;
}

/// Makes the work, given the handler's end of the transaction.
pub(super) type Begin = Box<dyn FnOnce(Handed) -> Work + Send>;

impl<S: Transactional> Transact for S {
    fn transact(
        &self,
        claim: Claim,
        policy: Policy,
        begin: Begin,
    ) -> BoxFuture<'_, Result<At<Transacted>, store::Error>> {
        let start: Start<S::Database> = Box::new(|tx| {
            let slot = TxSlot::new(tx);
            let work = begin(Handed(Kind::Tx(slot.clone())));
            Box::pin(async move {
                let verdict = work.await;
                // One that nobody asked for goes back, wherever the request's extensions have gone.
                drop(slot.take::<S::Database>());
                verdict
            })
        });
        Transactional::transact(self, claim, policy, start)
    }
}

async fn in_transaction<S, F>(
    engine: &Arc<Inner>,
    transact: &dyn Transact,
    leader: Leader,
    claim: &Claim,
    start: S,
) -> Driven<S>
where
    S: FnOnce(Handed) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let asked = Instant::now();
    // Stays where it is if the attempt ends before the work begins.
    let waiting = Arc::new(Mutex::new(Some(start)));
    let begin: Begin = {
        let waiting = waiting.clone();
        let (span, flight) = (tracing::info_span!("keylatch.transaction"), leader.flight().clone());
        Box::new(move |handed| {
            flight.begins();
            let start = waiting.lock().take().expect("an attempt begins its work once");
            Box::pin(start(handed).instrument(span))
        })
    };
    let begun = transact.transact(claim.clone(), engine.policy, begin).await;
    engine.metrics.transact.record(asked.elapsed());
    let start = waiting.lock().take();
    let transacted = match begun {
        Err(error) if error.kind() == ErrorKind::NotKnown => {
            Box::pin(settle(engine, &leader, claim.owner, error)).await
        }
        begun => begun,
    };
    match transacted {
        Ok(At { value: Transacted::Committed(record), now }) => {
            engine.metrics.completed.increment(1);
            let found = Final::of(record, now, asked);
            if let Some(found) = &found {
                engine.remember(&leader, found);
            }
            Driven::Done(Ok(Answer::Ran(Ran { expires_at: found.map(|found| found.expires_at()) })))
        }
        Ok(At { value: Transacted::RolledBack, .. }) => {
            engine.metrics.freed.increment(1);
            Driven::Done(Ok(Answer::Ran(Ran { expires_at: None })))
        }
        Ok(At { value: Transacted::Held(record), now }) => {
            Driven::Held(leader, start, Found::new(At { value: record, now }, asked))
        }
        Ok(At { value: Transacted::Busy { same: true }, .. }) => Driven::Busy(leader, start),
        Ok(At { value: Transacted::Busy { same: false }, .. }) => Driven::Done(Ok(Answer::Refused(Refused::Mismatch))),
        Ok(At { value: Transacted::Misused(misuse), .. }) => {
            tracing::error!(%misuse, "nothing was committed");
            Driven::Done(Err(misuse.into()))
        }
        Err(error) => Driven::Done(Err(error.into())),
    }
}

/// The commit's reply was lost. The record tells whether it took place.
async fn settle(
    engine: &Inner,
    leader: &Leader,
    owner: Owner,
    error: store::Error,
) -> Result<At<Transacted>, store::Error> {
    let found = until_lease_ends(&engine.policy, Instant::now(), || engine.store.read(leader.id())).await.0?;
    match found.value {
        Some(record) if record.owner == owner => Ok(At { value: Transacted::Committed(record), now: found.now }),
        Some(record) => Ok(At { value: Transacted::Held(record), now: found.now }),
        None => Err(error),
    }
}
