//! One run on a lease, from its claim to its end.
#![expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flight::Leader;
use super::run::Kind;
use super::telemetry::{self, Within, span, within};
use super::withdraw::withdraw;
use super::{Answer, Error, Final, HeldRecord, Inner, Quota, Ran, Refused, Request, Run, RunOrTx, renewer};
use crate::failpoint::{self, Point};
use crate::machine::{self, Claimed, Completion, Decision, End, Phase};
use crate::recent::What;
use crate::store::{self, Applied, At, ErrorKind};
use crate::tx::Verdict;
use crate::{Epoch, Fingerprint, Guarantee, Lease, Owner, Record, State, Timestamp};

/// How a drive ended.
pub(super) enum Driven<S, T> {
    /// With the request's answer.
    Done(Result<Answer<T>, Error>),
    /// Another owner has the key. The leader is returned, to look again.
    Held(Leader, Option<S>, Box<HeldRecord>),
    /// Another transaction holds the key and has no record yet: its result is not known.
    Busy(Leader, Option<S>),
}

// These futures are created for every request, so they store everything only once: a request is passed by reference, a
// claim ends before its work begins, rare awaits are boxed, and no function that owns its arguments is an `async fn`,
// which would store them twice. With its work, a run on a lease stays under a kilobyte: for more, an allocator such as
// glibc's leaves its fast path, which took up to a sixth of the time of a whole request.

/// What a request gets instead of its key.
pub(super) enum Instead {
    /// Another owner has it; this is the record.
    Held(Box<HeldRecord>),
    /// It is refused, or the store failed.
    Refused(Result<Refused, Error>),
}

impl Instead {
    pub(super) fn driven<S, T>(self, leader: Leader, start: S) -> Driven<S, T> {
        match self {
            Self::Held(found) => Driven::Held(leader, Some(start), found),
            Self::Refused(refused) => Driven::Done(refused.map(Answer::Refused)),
        }
    }
}

impl From<store::Error> for Instead {
    fn from(error: store::Error) -> Self {
        Self::Refused(Err(error.into()))
    }
}

/// Whether `request` may claim its key: its scope may be full.
pub(super) async fn admit(engine: &Inner, leader: &Leader, request: &Request, owner: Owner) -> Result<(), Instead> {
    if !engine.quotas.admit(&*engine.store, &request.scope, owner).await? {
        let asked = Instant::now();
        let At { value, now } = engine.store.read(leader.id()).await?;
        match value.filter(|record| machine::phase(Some(record), now) != Phase::Free) {
            None => return Err(Instead::Refused(Ok(Refused::Quota(Quota::RecordsPerScope)))),
            Some(record) if decides(&record, request.fingerprint, now) => {
                return Err(Instead::Held(HeldRecord::new(At { value: record, now }, asked)));
            }
            // A takeover adds no record.
            Some(_) => {}
        }
    }
    failpoint::hit(Point::BeforeClaim);
    Ok(())
}

/// Whether `record` already decides what a request with `fingerprint` gets.
fn decides(record: &Record, fingerprint: Fingerprint, now: Timestamp) -> bool {
    machine::decide(Some(record), fingerprint, now) != Decision::Run
}

/// Tries of a claim whose reply was lost, before its caller is told that the store is unavailable.
const CLAIM_TRIES: u32 = 2;
/// The first and the longest pause between tries to write an end.
pub(super) const END_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Claims the key, runs the work under a lease, and carries out its verdict.
pub(super) fn on_lease<S, F, T>(
    engine: Arc<Inner>,
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
        // Without the identity, which the leader has.
        let (epoch, owner, work) = {
            let (record, asked) = match claim(&engine, &leader, &request).await {
                Ok(claimed) => claimed,
                Err(instead) => return instead.driven(leader, start),
            };
            failpoint::hit(Point::AfterClaim);
            let owner = record.owner;
            match begin(&engine, &leader, record, start, asked) {
                Some(begun) => begun,
                None => {
                    // Paused since then: another owner may have taken over, so nothing starts under this lease.
                    withdraw(&engine, leader.id(), owner, leader.flight().policy().keep());
                    return Driven::Done(Ok(Refused::InProgress.into()));
                }
            }
        };
        let (verdict, value) = work.await;
        failpoint::hit(Point::AfterHandlerWrite);
        let lease = Lease { id: leader.id(), epoch, owner };
        match verdict {
            Verdict::Keep(outcome) | Verdict::KeepOutcomeOnly(outcome) => {
                let completion = Completion::new(outcome, leader.flight().policy());
                match complete(&engine, &leader, &request, lease, completion).await {
                    Ok(Some(expires_at)) => Driven::Done(Ok(Answer::Ran(Ran { value, expires_at: Some(expires_at) }))),
                    Ok(None) => Box::pin(lost(&engine, leader, Refused::InProgress.into())).await,
                    Err(error) => Driven::Done(Err(error.into())),
                }
            }
            verdict => {
                let released = Box::pin(release(&engine, &leader, lease, verdict)).await;
                let ran = Answer::Ran(Ran { value, expires_at: None });
                if released { Driven::Done(Ok(ran)) } else { Box::pin(lost(&engine, leader, ran)).await }
            }
        }
    }
}

/// Wins the key for `request`, if it is available. Also returns when it was requested.
async fn claim(engine: &Arc<Inner>, leader: &Leader, request: &Request) -> Result<(Record, Instant), Instead> {
    let owner = Owner::random();
    admit(engine, leader, request, owner).await?;
    let asked = Instant::now();
    match claim_lease(engine, leader, request, owner).await? {
        At { value: Claimed::Won(record), .. } => Ok((record, asked)),
        At { value: Claimed::Held(record), now } => {
            telemetry::claim_took(asked.elapsed());
            Err(Instead::Held(HeldRecord::new(At { value: record, now }, asked)))
        }
    }
}

/// The work of a run under the won lease, in its span; `None` if the lease may already have ended.
fn begin<S, F>(
    engine: &Arc<Inner>,
    leader: &Leader,
    record: Record,
    start: S,
    asked: Instant,
) -> Option<(Epoch, Owner, Within<F>)>
where
    S: FnOnce(RunOrTx) -> F,
    F: Future,
{
    let (now, until) = (Instant::now(), engine.held_until(asked));
    telemetry::claim_took(now - asked);
    if now >= until {
        return None;
    }
    let lease = Lease { id: leader.id(), epoch: record.epoch, owner: record.owner };
    leader.flight().held(lease, until, asked);
    leader.flight().begins();
    renewer::start(engine);
    let takeover = matches!(&record.state, State::Running { notes, .. } if notes.after_crash);
    if record.attempt > 1 {
        telemetry::follows(takeover);
    }
    engine.saw_begin(
        lease.id,
        leader.flight(),
        What::Started { epoch: lease.epoch, attempt: record.attempt, takeover },
    );
    let span = span(|| {
        let (epoch, attempt) = (lease.epoch.as_u64(), record.attempt);
        tracing::info_span!("keylatch.run", record = %lease.id, epoch, attempt)
    });
    let run = Run::new(engine.clone(), leader.flight().clone(), lease, record);
    Some((lease.epoch, lease.owner, within(span, start(RunOrTx(Kind::Run(run))))))
}

/// Claims, and repeats the claim if the reply was lost: the store recognises it by its owner.
async fn claim_lease(
    engine: &Arc<Inner>,
    leader: &Leader,
    request: &Request,
    owner: Owner,
) -> Result<At<Claimed>, store::Error> {
    let (mut tries, mut uncertain) = (CLAIM_TRIES, false);
    loop {
        tries -= 1;
        match engine.store.claim(engine.claim(leader, request, owner)).await {
            Ok(claimed) => return Ok(claimed),
            Err(error) => {
                uncertain |= error.kind() == ErrorKind::NotKnown;
                if error.retryable() && tries > 0 {
                    continue;
                }
                if uncertain {
                    withdraw(engine, leader.id(), owner, leader.flight().policy().keep());
                }
                return Err(error);
            }
        }
    }
}

/// Records the outcome. Returns when it expires; `None` if the lease is no longer the record's.
async fn complete(
    engine: &Arc<Inner>,
    leader: &Leader,
    request: &Request,
    lease: Lease,
    completion: Completion,
) -> Result<Option<Timestamp>, store::Error> {
    let asked = Instant::now();
    failpoint::hit(Point::BeforeCommit);
    leader.flight().ends();
    let (applied, tries) =
        until_lease_ends(engine.lease, asked, || engine.store.complete(lease, completion.clone())).await;
    telemetry::complete_took(asked.elapsed());
    failpoint::hit(Point::AfterCommit);
    let Applied::Applied(now) = applied? else { return Ok(None) };
    // If the reply of an earlier try was lost, the answer has been stored since then.
    let earlier = if tries > 1 { Box::pin(recorded_until(engine, lease)).await } else { None };
    let expires_at = earlier.unwrap_or(now + completion.retention);
    telemetry::completed();
    engine.saw(lease.id, What::Completed);
    if engine.keeps() || leader.is_followed() {
        engine.remember(leader, &Final::new(request, &completion.outcome, expires_at, now, asked));
    }
    Ok(Some(expires_at))
}

/// Another owner has taken over: its answer counts, or `otherwise` if there is no record any more.
async fn lost<S, T>(engine: &Inner, leader: Leader, otherwise: Answer<T>) -> Driven<S, T> {
    let record = leader.id();
    tracing::warn!(%record, "a run lost its lease; its client gets the answer of the run that took over");
    leader.flight().lose();
    telemetry::lost();
    engine.saw(record, What::LeaseLost);
    look(engine, leader, otherwise).await
}

/// When the recorded outcome expires.
async fn recorded_until(engine: &Inner, lease: Lease) -> Option<Timestamp> {
    match engine.store.read(lease.id).await.ok()?.value?.state {
        State::Completed { expires_at, .. } => Some(expires_at),
        State::Running { .. } => None,
    }
}

/// The record, for a request whose work has begun and cannot begin again; `otherwise` if there is none.
pub(super) async fn look<S, T>(engine: &Inner, leader: Leader, otherwise: Answer<T>) -> Driven<S, T> {
    let asked = Instant::now();
    match engine.store.read(leader.id()).await {
        Ok(At { value: Some(record), now }) if machine::phase(Some(&record), now) != Phase::Free => {
            Driven::Held(leader, None, HeldRecord::new(At { value: record, now }, asked))
        }
        Ok(_) => Driven::Done(Ok(otherwise)),
        Err(error) => Driven::Done(Err(error.into())),
    }
}

/// Ends the run without an outcome. Returns `false` if the lease is no longer the record's.
async fn release(engine: &Inner, leader: &Leader, lease: Lease, verdict: Verdict) -> bool {
    let keep = leader.flight().policy().keep();
    let (end, count): (_, fn()) = match (verdict, engine.guarantee) {
        (Verdict::Unknown, _) => (End::Unknown, telemetry::not_known),
        (Verdict::Retry, Guarantee::Fenced) => (End::Retry(keep), telemetry::retried),
        _ => (End::Free(keep), telemetry::freed),
    };
    count();
    leader.flight().ends();
    match until_lease_ends(engine.lease, Instant::now(), || engine.store.release(lease, end)).await {
        (Ok(Applied::Lost), 1) => return false,
        // An earlier try succeeded, although its reply was lost.
        (Ok(Applied::Applied(_) | Applied::Lost), _) => {}
        (Err(error), _) => {
            tracing::warn!(%error, record = %lease.id, "a run that ended without an outcome could not say so; its lease will end");
        }
    }
    engine.saw(lease.id, What::NotRecorded);
    true
}

/// Repeats `write` until it succeeds, fails permanently, or a lease has passed since `started`. Returns the number of
/// tries.
pub(super) async fn until_lease_ends<T, F>(
    lease: Duration,
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
            Err(error) if error.retryable() && started.elapsed() + pause < lease => {
                Box::pin(tokio::time::sleep(pause)).await;
                pause = (pause * 2).min(END_PAUSE.1);
            }
            done => return (done, tries),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::{Engine, Key, Limits, Policy, RecordId, Scope, memory};

    /// The size of the HTTP layer's work; see there.
    const WORK_BYTES: usize = 600;

    #[test]
    fn a_run_on_a_lease_takes_less_than_a_kilobyte() {
        let engine = Engine::fenced(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
        let (scope, key) = (Scope::new("caller").unwrap(), Key::new("key").unwrap());
        let (id, fingerprint) = (RecordId::of(&scope, &key), Fingerprint::from_bytes([0; 32]));
        let joined = engine.inner.flights.join(id, scope.caller_hash(), (fingerprint, None), Policy::default());
        let Ok(leader) = joined else { panic!("nobody else asks") };
        let request = Request { scope, key, fingerprint, wait: Duration::ZERO };
        // It owns two pointers before it begins, as the layer's work does.
        let owned = [Arc::new(0_u8), Arc::new(0)];
        let work = move |_| async move {
            let kept = std::hint::black_box([0_u8; WORK_BYTES - 2 * size_of::<Arc<u8>>() - 8]);
            pending::<()>().await;
            std::hint::black_box((kept, owned));
            (Verdict::Free, Box::new(0_u8))
        };
        let run = on_lease(engine.inner.clone(), leader, request, work);
        eprintln!("run {}", size_of_val(&run));
        assert!(size_of_val(&run) <= 1_000, "{} bytes", size_of_val(&run));
    }
}
