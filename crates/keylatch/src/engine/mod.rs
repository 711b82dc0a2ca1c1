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
mod search;
mod steps;
pub(crate) mod telemetry;
mod tracked;
mod transaction;
mod withdraw;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

pub(crate) use self::answer::OUTCOME_ALONE;
pub use self::answer::{Answer, Error, Final, Quota, Ran, Refused, Request};
use self::cache::Cache;
use self::cleaner::Cleaner;
pub use self::cleaner::{CLEANUP_PAUSE, CLEANUP_PAUSE_RANGE, Cleanup};
use self::drive::Driven;
use self::flight::{Flight, Flights, Leader};
pub use self::function::{Done, RunError};
use self::quota::Quotas;
pub(crate) use self::recorded::surely;
use self::recorded::{HeldRecord, later};
pub use self::resolve::{Resolution, Resolved, Resolver};
#[cfg(feature = "http")]
pub(crate) use self::run::derived_key;
pub use self::run::{Identity, Run, RunOrTx, STEP_BYTES_MAX, STEPS_MAX, StepError};
use self::search::Search;
pub(crate) use self::telemetry::answered;
#[cfg(feature = "http")]
pub(crate) use self::telemetry::{is_traced, span, within};
use self::transaction::Transact;
use crate::recent::{Parts, Recent, What};
use crate::store::Store;
use crate::tiered::Copies;
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
    /// What this process saw of its latest records, if the program wants to know.
    recent: OnceLock<Recent>,
    /// Where other regions look for final outcomes.
    shared: OnceLock<Copies<dyn keylatch_core::Cache>>,
}

impl Inner {
    /// Notes what came of a run, if anyone wants to know.
    fn saw(&self, id: RecordId, what: What) {
        if let Some(recent) = self.recent.get() {
            recent.saw(id, what);
        }
    }

    /// Notes that a run of the record `id` begins, if anyone wants to know.
    fn saw_begin(&self, id: RecordId, flight: &Flight, what: What) {
        if let Some(recent) = self.recent.get() {
            recent.begins(id, flight.request(), what);
        }
    }
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
        async move { self.answer_to(&request, None, start).await }
    }

    /// As [`answer`](Self::answer), for a request that is still needed, and has these `parts`.
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
    pub(crate) fn answer_to<'r, S, F, T>(
        &'r self,
        request: &'r Request,
        parts: Option<&'r Parts>,
        start: S,
    ) -> impl Future<Output = Result<Answer<T>, Error>> + Send + use<'r, S, F, T>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        async move {
            let mut search = Search::new(self, request, parts);
            let answer = self.find(&mut search, start).await;
            answered(&answer);
            search.saw(&answer);
            answer
        }
    }

    /// As [`answer_to`](Self::answer_to), and only the answer of a run is counted: the request gets no other.
    #[cfg(feature = "http")]
    pub(crate) async fn observe<S, F, T>(&self, request: &Request, start: S) -> Result<Answer<T>, Error>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        let answer = self.find(&mut Search::new(self, request, None), start).await;
        if matches!(answer, Ok(Answer::Ran(_))) {
            answered(&answer);
        }
        answer
    }

    async fn find<S, F, T>(&self, search: &mut Search<'_>, start: S) -> Result<Answer<T>, Error>
    where
        S: FnOnce(RunOrTx) -> F + Send + 'static,
        F: Future<Output = (Verdict, T)> + Send + 'static,
        T: Send + 'static,
    {
        let (mut leading, mut start) = (None, Some(start));
        loop {
            let leader = match leading.take() {
                Some(leader) => leader,
                None => {
                    if let Some(answer) = search.cached() {
                        return Ok(answer);
                    }
                    match search.join() {
                        // Since the look into the cache, a run of the key may have ended here.
                        Ok(leader) => match search.cached() {
                            Some(answer) => return Ok(answer),
                            None => leader,
                        },
                        Err(elsewhere) => match Box::pin(search.elsewhere(elsewhere)).await? {
                            Some(answer) => return Ok(answer),
                            None => continue,
                        },
                    }
                }
            };
            // Leads until there is an answer or patience is over: then a follower leads.
            let driven = match start.take() {
                Some(start) => self.drive(leader, search.request(), start).await,
                None => Box::pin(drive::look(&self.inner, leader, Refused::InProgress.into())).await,
            };
            let (leader, waiting, held) = match driven {
                Driven::Done(done) => return done,
                Driven::Held(leader, waiting, held) => (leader, waiting, Some(held)),
                Driven::Busy(leader, waiting) => (leader, waiting, None),
            };
            if let Some(answer) = Box::pin(search.held(&leader, waiting.is_some(), held)).await? {
                return Ok(answer);
            }
            (leading, start) = (Some(leader), waiting);
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
