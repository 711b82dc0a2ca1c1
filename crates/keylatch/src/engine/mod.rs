//! The engine: claims a key, runs the work, records the outcome, and answers duplicates that arrive meanwhile.
//!
//! A request goes through three places, each of which may have its answer:
//!
//! 1. the **cache** of final outcomes in this process;
//! 2. the **flights**, the current runs in this process: a duplicate of one follows it;
//! 3. the **store**, which grants the claim or returns the existing record.
//!
//! The request that wins the claim runs the work, on a [lease](drive) or in a [transaction]: two ways to drive the same
//! [machine](crate::machine).

mod answer;
mod cache;
mod cleaner;
mod drive;
mod flight;
mod function;
mod handle;
mod patience;
mod quota;
mod recorded;
mod renewer;
mod resolve;
mod run;
mod steps;
mod telemetry;
mod tracked;
mod transaction;
mod withdraw;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub use self::answer::{Answer, Error, Final, Quota, Ran, Refused, Request};
use self::cache::Cache;
use self::cleaner::Cleaner;
pub use self::cleaner::{CLEANUP_PAUSE, CLEANUP_PAUSE_RANGE, Cleanup};
use self::drive::Driven;
use self::flight::{End, Flights, Joined, Leader};
pub use self::function::{Done, RunError};
use self::patience::Patience;
use self::quota::Quotas;
use self::recorded::{HeldRecord, check_owner, later, surely};
pub use self::resolve::{Resolution, Resolved, Resolver};
#[cfg(feature = "http")]
pub(crate) use self::run::derived_key;
pub use self::run::{Ended, Identity, Run, RunOrTx, STEP_BYTES_MAX, STEPS_MAX, StepError};
pub(crate) use self::telemetry::answered;
#[cfg(feature = "http")]
pub(crate) use self::telemetry::{is_traced, span, within};
use self::transaction::Transact;
use crate::machine::{self, Decision, Refusal};
use crate::store::Store;
use crate::tx::Verdict;
use crate::{Guarantee, Limits, Policy, RecordId};

/// Makes a repeated request take effect once and always get the same answer.
///
/// It is a handle: clones share everything. One engine serves any number of routes and scopes, under one guarantee.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// The policy of this handle's runs. The lease is the same for all handles.
    policy: Policy,
    resolver: Option<Arc<dyn Resolver>>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    /// How to drive a transaction; `None` if runs are on a lease.
    transact: Option<Arc<dyn Transact>>,
    guarantee: Guarantee,
    lease: Duration,
    limits: Limits,
    cache: Cache,
    flights: Arc<Flights>,
    quotas: Quotas,
    tracker: TaskTracker,
    closing: AtomicBool,
    /// The task that renews leases, once it has started.
    renewing: Mutex<Option<JoinHandle<()>>>,
    cleaner: Mutex<Cleaner>,
    /// Limits the claims that are being withdrawn at once.
    withdrawals: Arc<Semaphore>,
}

impl Engine {
    /// Answers `request`: from an earlier run, or by the work that `start` makes.
    ///
    /// `start` gets what a handler may ask for: a [`Run`] on a lease, a [`Tx`](crate::Tx) in `Atomic`. The work returns its
    /// verdict, and a value that this caller alone gets once the verdict is carried out. The work must not panic; the entry
    /// points of this crate turn a panic into a verdict.
    ///
    /// The work runs on its own task: dropping this future, once it was polled, does not stop the work. So the work
    /// never sees a task-local of its caller, but it does run in the caller's [span](tracing::Span::current).
    ///
    /// # Errors
    ///
    /// If the store failed, the engine is shutting down, or the handler misused its transaction. Without an answer the
    /// work may have run; sending the same request again tells.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
    pub fn answer<S, F, T>(
        &self,
        request: Request,
        start: S,
    ) -> impl Future<Output = Result<Answer<T>, Error>> + Send + use<'_, S, F, T>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        async move { self.answer_to(&request, start).await }
    }

    /// As [`answer`](Self::answer), for a request that is still needed.
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
    pub(crate) fn answer_to<'r, S, F, T>(
        &'r self,
        request: &'r Request,
        start: S,
    ) -> impl Future<Output = Result<Answer<T>, Error>> + Send + use<'r, S, F, T>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        async move {
            let answer = self.find(request, start).await;
            answered(&answer);
            answer
        }
    }

    /// As [`answer_to`](Self::answer_to), and the answer is not counted.
    pub(crate) async fn find<S, F, T>(&self, request: &Request, start: S) -> Result<Answer<T>, Error>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        let id = RecordId::of(&request.scope, &request.key);
        let caller = request.scope.caller_hash();
        let mut patience = Patience::new(&self.inner, request);
        let mut start = Some(start);
        loop {
            if let Some(found) = self.inner.cache.find(&id, request) {
                return Ok(found.answer(request));
            }
            let mut leader = match self.inner.flights.join(id, caller, request.fingerprint, self.policy) {
                Joined::Leader(leader) => leader,
                Joined::Refused(quota) => {
                    let place = self.inner.flights.wait(caller);
                    let recorded =
                        if place.is_some() { Box::pin(self.inner.recorded(id, request)).await? } else { None };
                    return Ok(recorded.unwrap_or(Refused::Quota(quota).into()));
                }
                Joined::Follower(flight) => {
                    if flight.fingerprint() == request.fingerprint {
                        // If another owner may have taken over, the answer may already be in the store.
                        if !flight.holds(Instant::now()) {
                            match Box::pin(self.inner.beside(id, &flight, request)).await? {
                                Some(Answer::Refused(Refused::InProgress)) => {}
                                Some(answer) => return Ok(answer),
                                None => continue,
                            }
                        }
                        match Box::pin(patience.follow(&flight)).await {
                            Some(End::Final(ended)) => return Ok(ended.answer(request)),
                            Some(End::Failed | End::Elsewhere) => continue,
                            None => {}
                        }
                    }
                    match Box::pin(self.inner.beside(id, &flight, request)).await? {
                        Some(answer) => return Ok(answer),
                        None => continue,
                    }
                }
            };
            // Leads until there is an answer or patience is over: then a follower leads.
            loop {
                let driven = match start.take() {
                    Some(start) => self.drive(leader, request, start).await,
                    None => Box::pin(drive::look(&self.inner, leader, Refused::InProgress.into())).await,
                };
                let found = match driven {
                    Driven::Done(done) => return done,
                    Driven::Held(leading, waiting, found) => {
                        (leader, start) = (leading, waiting);
                        found
                    }
                    Driven::Busy(leading, waiting) => {
                        (leader, start) = (leading, waiting);
                        if Box::pin(patience.pause()).await {
                            continue;
                        }
                        return Ok(Refused::InProgress.into());
                    }
                };
                check_owner(&found.record, request)?;
                match machine::decide(Some(&found.record), request.fingerprint, found.now) {
                    Decision::Run if start.is_some() && patience.spend_try() => {}
                    Decision::Run => return Ok(Refused::InProgress.into()),
                    Decision::Replay(_) => {
                        let Some(found) = Final::of(found.record, found.now, found.asked) else { continue };
                        self.inner.remember(&leader, &found);
                        return Ok(Answer::Replayed(found));
                    }
                    Decision::Refuse(Refusal::Unknown)
                        if patience.spend_try() && Box::pin(self.ask_resolver(&found.record)).await?.is_some() => {}
                    Decision::Refuse(refusal) => return Ok(Answer::Refused(refusal.into())),
                    Decision::Wait(_) if Box::pin(patience.pause()).await => {}
                    Decision::Wait(_) => return Ok(Refused::InProgress.into()),
                }
            }
        }
    }

    async fn drive<S, F, T>(&self, leader: Leader, request: &Request, start: S) -> Driven<S, T>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        // Counted before the check, so that a shutdown is either seen here or waits for this run.
        let token = self.inner.tracker.token();
        if self.inner.closing.load(Ordering::Acquire) {
            let recorded = Box::pin(self.inner.recorded(leader.id(), request)).await;
            return Driven::Done(recorded.and_then(|answer| answer.ok_or(Error::ShuttingDown)));
        }
        cleaner::start(&self.inner);
        let (inner, request) = (self.inner.clone(), request.clone());
        let driving: BoxFuture<'static, _> = match &self.inner.transact {
            None => Box::pin(drive::on_lease(inner, leader, request, start)),
            Some(transact) => Box::pin(transaction::in_transaction(inner, transact.clone(), leader, request, start)),
        };
        tracked::outlive(token, driving).await.unwrap_or_else(|| Driven::Done(Err(Error::ShuttingDown)))
    }
}
