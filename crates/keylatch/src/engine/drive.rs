//! One run, from its claim to its end: on a lease, or in a transaction.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use http::Extensions;
use tracing::Instrument;

use super::flight::Leader;
use super::{Answer, Error, Final, Held, Inner, Quota, Ran, Refused, Request, Run, renewer};
use crate::failpoint::{self, Point};
use crate::machine::{self, Claim, Claimed, Completion, End, Phase};
use crate::planted::{self, Bug};
use crate::store::{self, Applied, At, ErrorKind};
use crate::tx::{Start, Transacted, Transactional, TxSlot, Verdict, Work};
use crate::{Guarantee, Lease, Owner, Policy, Record, Timestamp};

/// How a drive ended.
pub(super) enum Driven<S> {
    /// With the request's answer.
    Done(Result<Answer, Error>),
    /// Another has the key. The leader is handed back, to look again.
    Held(Box<Held<S>>),
}

/// Claims the key, runs the work and carries out its verdict.
pub(super) async fn drive<S, F>(engine: Arc<Inner>, leader: Leader, request: Request, start: S) -> Driven<S>
where
    S: FnOnce(Extensions) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let asked = Instant::now();
    match engine.quotas.admit(&*engine.store, &leader.id(), &request.scope, asked).await {
        Ok(true) => {}
        Ok(false) => return refuse_new(&engine, leader, start).await,
        Err(error) => return Driven::Done(Err(error.into())),
    }
    failpoint::hit(Point::BeforeClaim);
    let Request { scope, key, fingerprint, sealed, .. } = request;
    let claim = Claim::new(scope, key, fingerprint, engine.guarantee, &engine.policy);
    let claim = Claim { request: sealed, ..claim };
    match &engine.transact {
        Some(transact) => in_transaction(&engine, &**transact, leader, claim, start).await,
        None => on_lease(&engine, leader, claim, start).await,
    }
}

/// The scope is full: whoever has a record gets what it holds, and nobody gets a new one.
async fn refuse_new<S>(engine: &Inner, leader: Leader, start: S) -> Driven<S> {
    let asked = Instant::now();
    match engine.store.read(leader.id()).await {
        Ok(At { value: Some(record), now }) if machine::phase(Some(&record), now) != Phase::Free => {
            Driven::Held(Held::found(leader, Some(start), At { value: record, now }, asked))
        }
        Ok(_) => Driven::Done(Ok(Answer::Refused(Refused::Quota(Quota::RecordsPerScope)))),
        Err(error) => Driven::Done(Err(error.into())),
    }
}

// ---- On a lease ----------------------------------------------------------------------------------------

/// Tries of a claim whose reply was lost, before its caller is told that the store is unavailable.
const CLAIM_TRIES: u32 = 2;
/// The pauses between tries to write an end: at first, and at the most.
const END_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

async fn on_lease<S, F>(engine: &Arc<Inner>, leader: Leader, claim: Claim, start: S) -> Driven<S>
where
    S: FnOnce(Extensions) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let asked = Instant::now();
    let record = match claim_lease(engine, &claim).await {
        Ok(At { value: Claimed::Won(record), .. }) => record,
        Ok(At { value: Claimed::Held(record), now }) => {
            return Driven::Held(Held::found(leader, Some(start), At { value: record, now }, asked));
        }
        Err(error) => return Driven::Done(Err(error.into())),
    };
    failpoint::hit(Point::AfterClaim);
    let lease = Lease { id: leader.id(), epoch: record.epoch, owner: record.owner };
    if asked.elapsed() >= engine.policy.lease {
        // Paused since then: another may have taken over, so nothing starts under this lease.
        withdraw(engine, &claim);
        return Driven::Done(Ok(Answer::Refused(Refused::InProgress)));
    }
    leader.flight().held(lease, engine.held_until(asked), asked);
    engine.renewing.get_or_init(|| {
        drop(tokio::spawn(renewer::renew_leases(Arc::downgrade(engine), engine.policy.lease)));
    });
    if record.attempt > 1 {
        engine.metrics.takeovers.increment(1);
    }
    let span = tracing::info_span!("keylatch.run", epoch = lease.epoch.as_u64(), attempt = record.attempt);
    let run = Run::new(engine.clone(), leader.flight().clone(), lease, record);
    let mut handed = Extensions::new();
    handed.insert(run);
    let verdict = start(handed).instrument(span).await;
    failpoint::hit(Point::AfterHandlerWrite);
    match verdict {
        Verdict::Keep(outcome) | Verdict::KeepUndone(outcome) => {
            let completion = Completion::new(outcome, &engine.policy);
            complete(engine, leader, claim, lease, completion).await
        }
        verdict => release(engine, leader, lease, verdict).await,
    }
}

/// Claims, again if the reply was lost: the store knows the claim by its owner.
async fn claim_lease(engine: &Arc<Inner>, claim: &Claim) -> Result<At<Claimed>, store::Error> {
    let asked = Instant::now();
    let mut tries = CLAIM_TRIES;
    loop {
        tries -= 1;
        match engine.store.claim(claim.clone()).await {
            Ok(claimed) => {
                engine.metrics.claim.record(asked.elapsed());
                return Ok(claimed);
            }
            Err(error) if error.retryable() && tries > 0 => {}
            Err(error) => {
                withdraw(engine, claim);
                return Err(error);
            }
        }
    }
}

/// A claim that may have been granted although its reply never came: nothing has run under it, so the record goes,
/// if the store comes back before the lease ends. If others ran before, what they did is not to be forgotten: then
/// the record stays, for the same request.
fn withdraw(engine: &Arc<Inner>, claim: &Claim) {
    let (engine, id, owner) = (engine.clone(), claim.id(), claim.owner);
    drop(tokio::spawn(async move {
        let read = || async {
            let found = engine.store.read(id).await?.value;
            let Some(record) = found.filter(|record| record.owner == owner) else { return Ok(()) };
            let end = if record.attempt == 1 { End::Free } else { retry(&engine.policy) };
            engine.store.release(record.lease(), end).await.map(|_| ())
        };
        if let Err(error) = until_lease_ends(&engine.policy, read).await {
            tracing::warn!(%error, "a claim that may have been granted could not be withdrawn; its lease will end");
        }
    }));
}

async fn complete<S>(
    engine: &Arc<Inner>,
    leader: Leader,
    claim: Claim,
    lease: Lease,
    completion: Completion,
) -> Driven<S> {
    let asked = Instant::now();
    failpoint::hit(Point::BeforeCommit);
    if planted::has(Bug::AnswerBeforeRecord) {
        let (engine, completion) = (engine.clone(), completion.clone());
        drop(tokio::spawn(async move { engine.store.complete(lease, completion).await }));
        return Driven::Done(Ok(Answer::Ran(Ran { expires_at: None })));
    }
    let applied = until_lease_ends(&engine.policy, || engine.store.complete(lease, completion.clone())).await;
    engine.metrics.complete.record(asked.elapsed());
    failpoint::hit(Point::AfterCommit);
    match applied {
        Ok(Applied::Applied(now)) => {
            let expires_at = now + completion.retention;
            engine.metrics.completed.increment(1);
            if planted::has(Bug::ReleaseAfterComplete) {
                let _ = engine.store.release(lease, End::Free).await;
            }
            if engine.cache.keeps() || leader.is_followed() {
                engine.remember(&leader, &Final::new(claim, completion.outcome, expires_at, now, asked));
            }
            Driven::Done(Ok(Answer::Ran(Ran { expires_at: Some(expires_at) })))
        }
        Ok(Applied::Lost) => look_again(engine, leader, Answer::Refused(Refused::InProgress)).await,
        Err(error) => Driven::Done(Err(error.into())),
    }
}

/// The lease was lost: the winner's answer is the answer, or `otherwise` if there is no record any more.
async fn look_again<S>(engine: &Inner, leader: Leader, otherwise: Answer) -> Driven<S> {
    tracing::warn!("a run lost its lease; its client gets the answer of the run that took over");
    leader.flight().lose();
    engine.metrics.lost.increment(1);
    let asked = Instant::now();
    match engine.store.read(leader.id()).await {
        Ok(At { value: Some(record), now }) => {
            Driven::Held(Held::found(leader, None, At { value: record, now }, asked))
        }
        Ok(At { value: None, .. }) => Driven::Done(Ok(otherwise)),
        Err(error) => Driven::Done(Err(error.into())),
    }
}

async fn release<S>(engine: &Inner, leader: Leader, lease: Lease, verdict: Verdict) -> Driven<S> {
    let (end, counter) = match (verdict, engine.guarantee) {
        (Verdict::Unknown, _) => (End::Unknown, &engine.metrics.not_known),
        (Verdict::Retry, Guarantee::Fenced) => (retry(&engine.policy), &engine.metrics.retried),
        _ => (End::Free, &engine.metrics.freed),
    };
    counter.increment(1);
    let ran = Answer::Ran(Ran { expires_at: None });
    match until_lease_ends(&engine.policy, || engine.store.release(lease, end)).await {
        Ok(Applied::Applied(_)) => {}
        // Most likely, it failed because another has taken over.
        Ok(Applied::Lost) => return look_again(engine, leader, ran).await,
        Err(error) => {
            tracing::warn!(%error, "a run that ended without an outcome could not say so; its lease will end");
        }
    }
    Driven::Done(Ok(ran))
}

/// The same request may run again, for as long as its answer would have been remembered.
fn retry(policy: &Policy) -> End {
    End::Retry(policy.retention + policy.tombstone)
}

/// Does `write` until it succeeds, fails for good, or a lease has passed.
async fn until_lease_ends<T, F>(policy: &Policy, write: impl Fn() -> F) -> Result<T, store::Error>
where
    F: Future<Output = Result<T, store::Error>>,
{
    let started = Instant::now();
    let mut pause = END_PAUSE.0;
    loop {
        match write().await {
            Err(error) if error.retryable() && started.elapsed() + pause < policy.lease => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(END_PAUSE.1);
            }
            done => return done,
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
pub(super) type Begin = Box<dyn FnOnce(Extensions) -> Work + Send>;

impl<S: Transactional> Transact for S {
    fn transact(
        &self,
        claim: Claim,
        policy: Policy,
        begin: Begin,
    ) -> BoxFuture<'_, Result<At<Transacted>, store::Error>> {
        let start: Start<S::Database> = Box::new(|tx| {
            let mut handed = Extensions::new();
            handed.insert(TxSlot::new(tx));
            begin(handed)
        });
        Transactional::transact(self, claim, policy, start)
    }
}

async fn in_transaction<S, F>(
    engine: &Arc<Inner>,
    transact: &dyn Transact,
    leader: Leader,
    claim: Claim,
    start: S,
) -> Driven<S>
where
    S: FnOnce(Extensions) -> F + Send + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let asked = Instant::now();
    // The claim comes with the first write, or at the end: a handler must not start for what is already answered.
    match engine.store.read(leader.id()).await {
        Ok(At { value: Some(record), now }) if decides(&record, &claim, now) => {
            return Driven::Held(Held::found(leader, Some(start), At { value: record, now }, asked));
        }
        Ok(_) => {}
        Err(error) => return Driven::Done(Err(error.into())),
    }
    let owner = claim.owner;
    let span = tracing::info_span!("keylatch.transaction");
    let begun =
        transact.transact(claim, engine.policy, Box::new(|handed| Box::pin(start(handed).instrument(span)))).await;
    engine.metrics.transact.record(asked.elapsed());
    let transacted = match begun {
        Err(error) if error.kind() == ErrorKind::NotKnown => settle(engine, &leader, owner, error).await,
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
            Driven::Held(Held::found(leader, None, At { value: record, now }, asked))
        }
        Ok(At { value: Transacted::Misused(misuse), .. }) => {
            tracing::error!(%misuse, "nothing was committed");
            Driven::Done(Err(misuse.into()))
        }
        Err(error) => Driven::Done(Err(error.into())),
    }
}

/// Whether `record` already decides what the claim gets.
fn decides(record: &Record, claim: &Claim, now: Timestamp) -> bool {
    machine::decide(Some(record), claim.fingerprint, now) != machine::Decision::Run
}

/// The commit's reply was lost. The record tells whether it took place.
async fn settle(
    engine: &Inner,
    leader: &Leader,
    owner: Owner,
    error: store::Error,
) -> Result<At<Transacted>, store::Error> {
    let found = until_lease_ends(&engine.policy, || engine.store.read(leader.id())).await?;
    match found.value {
        Some(record) if record.owner == owner => Ok(At { value: Transacted::Committed(record), now: found.now }),
        Some(record) => Ok(At { value: Transacted::Held(record), now: found.now }),
        None => Err(error),
    }
}
