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
mod patience;
mod quota;
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
use self::flight::{End, Flight, Flights, Joined, Leader};
pub use self::function::{Done, RunError};
use self::patience::Patience;
use self::quota::Quotas;
pub use self::resolve::{Resolution, Resolved, Resolver};
#[cfg(feature = "http")]
pub(crate) use self::run::derived_key;
pub use self::run::{Ended, Identity, Run, RunOrTx, STEP_BYTES_MAX, STEPS_MAX, StepError};
#[cfg(feature = "http")]
pub(crate) use self::telemetry::{is_traced, span, within};
use self::transaction::Transact;
use crate::machine::{self, Claim, Decision, Refusal, Terms};
use crate::store::{At, Durability, Store, Swept};
use crate::tx::{Transactional, Verdict};
use crate::{Guarantee, InvalidPolicy, Limits, Name, Owner, Policy, Record, RecordId, Timestamp};

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
    /// An engine whose runs are one transaction of `store`'s database: exactly once.
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept.
    pub fn atomic<S: Transactional>(store: S, policy: Policy, limits: Limits) -> Result<Self, InvalidPolicy> {
        let store = Arc::new(store);
        Self::new(store.clone(), Some(store), Guarantee::Atomic, policy, limits)
    }

    /// An engine whose runs hold a lease with an epoch, and run again after a crash.
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept.
    pub fn fenced<S: Store>(store: S, policy: Policy, limits: Limits) -> Result<Self, InvalidPolicy> {
        Self::new(Arc::new(store), None, Guarantee::Fenced, policy, limits)
    }

    /// An engine whose runs hold a lease, and never start twice.
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept.
    pub fn at_most_once<S: Store>(store: S, policy: Policy, limits: Limits) -> Result<Self, InvalidPolicy> {
        Self::new(Arc::new(store), None, Guarantee::AtMostOnce, policy, limits)
    }

    fn new(
        store: Arc<dyn Store>,
        transact: Option<Arc<dyn Transact>>,
        guarantee: Guarantee,
        policy: Policy,
        limits: Limits,
    ) -> Result<Self, InvalidPolicy> {
        policy.check()?;
        // Records that are already in this process's memory gain nothing from a cache.
        let cache_bytes_max = if store.durability() == Durability::Process { 0 } else { limits.cache_bytes_max };
        telemetry::describe();
        let inner = Inner {
            store,
            transact,
            guarantee,
            lease: policy.lease,
            limits,
            cache: Cache::new(cache_bytes_max),
            flights: Flights::new(limits),
            quotas: Quotas::new(&limits),
            tracker: TaskTracker::new(),
            closing: AtomicBool::new(false),
            renewing: Mutex::default(),
            cleaner: Mutex::default(),
            withdrawals: Arc::new(Semaphore::new(limits.running_max.min(Semaphore::MAX_PERMITS))),
        };
        Ok(Self { inner: Arc::new(inner), policy, resolver: None })
    }

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
            telemetry::answered(&answer);
            answer
        }
    }

    /// As [`answer_to`](Self::answer_to), for a caller that uses only the answer of its own work: so only runs are
    /// counted.
    #[cfg(feature = "http")]
    #[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
    pub(crate) fn observe<'r, S, F, T>(
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
            if matches!(answer, Ok(Answer::Ran(_))) {
                telemetry::answered(&answer);
            }
            answer
        }
    }

    async fn find<S, F, T>(&self, request: &Request, start: S) -> Result<Answer<T>, Error>
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

    /// Cleans the store in this way from now on, instead of the default [`Cleanup`]. All handles of the engine share
    /// it.
    #[must_use]
    pub fn with_cleanup(self, cleanup: Cleanup) -> Self {
        cleaner::set(&self.inner, cleanup);
        self
    }

    /// Keeps the answers of its runs for `retention`, and their tombstones for `tombstone` after that, instead of the
    /// times in the policy: for a route whose clients retry for longer than others.
    ///
    /// Returns a handle that shares everything else with this one, including the lease. The times of a record are those
    /// of the handle whose request runs, or whose resolution is written; later requests on any handle get the answer
    /// until then.
    ///
    /// ```
    /// use std::time::Duration;
    /// use keylatch::{Engine, Limits, Policy};
    ///
    /// const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// let engine = Engine::fenced(keylatch::memory::Store::new(), Policy::default(), Limits::default())?;
    /// let webhooks = engine.clone().with_retention(7 * DAY, 7 * DAY)?;
    /// assert_eq!(webhooks.policy().retention, 7 * DAY);
    /// assert_eq!(engine.policy().retention, DAY);
    /// # Ok::<(), keylatch::InvalidPolicy>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the policy cannot be kept with these; see [`Policy::check`].
    pub fn with_retention(self, retention: Duration, tombstone: Duration) -> Result<Self, InvalidPolicy> {
        let policy = Policy { retention, tombstone, ..self.policy };
        policy.check()?;
        Ok(Self { policy, ..self })
    }

    /// An engine with another policy and other limits, on the same store. It shares nothing else with this one.
    #[cfg(feature = "http")]
    pub(crate) fn anew(&self, policy: Policy, limits: Limits) -> Result<Self, InvalidPolicy> {
        let Inner { store, transact, guarantee, cleaner, .. } = &*self.inner;
        let engine = Self::new(store.clone(), transact.clone(), *guarantee, policy, limits)?;
        let cleanup = cleaner.lock().cleanup();
        Ok(Self { resolver: self.resolver.clone(), ..engine }.with_cleanup(cleanup))
    }

    /// Removes the answers of expired records, and records past their tombstone, at most `limit` records. Call it again
    /// while it says that there is [`more`](Swept::more). The engine does this in the background: see [`Cleanup`].
    ///
    /// # Errors
    ///
    /// If the store failed.
    pub async fn sweep(&self, limit: usize) -> Result<Swept, Error> {
        self.inner.sweep(limit).await
    }

    /// Starts no new runs from now on, but still replays recorded answers. Waits until all runs have ended or
    /// `deadline` has passed. Returns how many are still running: their leases end by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.tracker.close();
        let _ = tokio::time::timeout(deadline, self.inner.tracker.wait()).await;
        self.inner.flights.running()
    }

    /// The guarantee of the engine.
    pub fn guarantee(&self) -> Guarantee {
        self.inner.guarantee
    }

    /// How long its leases run, and how long the answers of this handle's runs are kept.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The limits of the engine.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The store of its records, for operators to read.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }
}

impl Inner {
    /// The terms of a run of `flight`.
    fn terms(&self, flight: &Flight) -> Terms {
        Terms::of(self.guarantee, flight.policy()).with_clock_uncertainty(self.store.clock_uncertainty())
    }

    fn claim(&self, leader: &Leader, request: &Request, owner: Owner) -> Claim {
        let Request { scope, key, fingerprint, .. } = request.clone();
        let name = Name::identified(leader.id(), scope, key);
        Claim { name, fingerprint, guarantee: self.guarantee, owner, terms: self.terms(leader.flight()) }
    }

    /// Until when a lease that was requested at `asked` cannot have been taken over.
    fn held_until(&self, asked: Instant) -> Instant {
        surely(asked, self.lease)
    }

    /// The answer to `request` if it does not wait for the end of `flight`, or is a different request; `None` if
    /// `flight` turns out to have lost its lease, so that it says nothing about the key any more.
    ///
    /// Only a flight whose lease has not ended is known to hold the key, until its end is sent to the store. Any other
    /// flight may not have asked the store yet, may lose to another process, or may die before its transaction commits.
    /// So the record decides; and if there is none, nothing final can be said.
    async fn beside<T>(&self, id: RecordId, flight: &Flight, request: &Request) -> Result<Option<Answer<T>>, Error> {
        if flight.is_running() && flight.holds(Instant::now()) {
            let same = flight.fingerprint() == request.fingerprint;
            return Ok(Some(if same { Refused::InProgress } else { Refused::Mismatch }.into()));
        }
        let found = match self.found(id, request).await {
            // The store knows no more than this process.
            Err(Error::Store(error)) if error.retryable() && flight.lease().is_some() => {
                return Ok(Some(Refused::InProgress.into()));
            }
            found => found?,
        };
        let lease = flight.lease();
        let own = lease.is_some() && lease == found.as_ref().map(|found| found.record.lease());
        if lease.is_some() && !own && !flight.is_ending() {
            flight.lose();
            return Ok(None);
        }
        let answer = found.and_then(|found| self.answer_in(*found, request));
        Ok(Some(match answer {
            // Its run is alive, even if its lease has ended.
            Some(Answer::Refused(Refused::Unknown)) if own => Refused::InProgress.into(),
            Some(answer) => answer,
            None => Refused::InProgress.into(),
        }))
    }

    /// What the record means for a request that may not claim the key; `None` if the key is free or can be taken over.
    async fn recorded<T>(&self, id: RecordId, request: &Request) -> Result<Option<Answer<T>>, Error> {
        Ok(self.found(id, request).await?.and_then(|found| self.answer_in(*found, request)))
    }

    /// The record for `request`.
    async fn found(&self, id: RecordId, request: &Request) -> Result<Option<Box<HeldRecord>>, Error> {
        let asked = Instant::now();
        let At { value, now } = self.store.read(id).await?;
        let Some(record) = value else { return Ok(None) };
        check_owner(&record, request)?;
        Ok(Some(HeldRecord::new(At { value: record, now }, asked)))
    }

    fn answer_in<T>(&self, found: HeldRecord, request: &Request) -> Option<Answer<T>> {
        let HeldRecord { record, now, asked } = found;
        match machine::decide(Some(&record), request.fingerprint, now) {
            Decision::Run => None,
            Decision::Wait(_) => Some(Refused::InProgress.into()),
            Decision::Refuse(refusal) => Some(Refused::from(refusal).into()),
            Decision::Replay(_) => Final::of(record, now, asked).map(|found| {
                self.cache.keep(RecordId::of(&request.scope, &request.key), &found);
                Answer::Replayed(found)
            }),
        }
    }

    /// Keeps a final outcome for the waiting requests and for later ones.
    fn remember(&self, leader: &Leader, found: &Final) {
        self.cache.keep(leader.id(), found);
        leader.end_with(found.clone());
    }
}

/// `span` after `instant`, as far as the clock goes.
fn later(instant: Instant, span: Duration) -> Instant {
    /// Longer than any process lives, and within the range of every clock.
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    instant + span.min(FAR)
}

/// An instant by which at most `span` has passed on a store's clock that was read after `asked`.
fn surely(asked: Instant, span: Duration) -> Instant {
    /// What rounding may leave out when a store's clock is read.
    const PRECISION: Duration = Duration::from_millis(1);
    later(asked, span.saturating_sub(PRECISION))
}

/// A store that returns the record of another key is damaged: that answer must not reach this request.
fn check_owner(record: &Record, request: &Request) -> Result<(), Error> {
    if record.belongs_to(&request.scope, &request.key) {
        return Ok(());
    }
    let why = "a record of another scope or key is stored under this identity";
    Err(crate::store::Error::new(crate::store::ErrorKind::Corrupt, why).into())
}

/// A record that another owner holds, as [`drive`] found it.
struct HeldRecord {
    record: Record,
    now: Timestamp,
    /// When it was requested, on this process's clock: no later than `now` was read.
    asked: Instant,
}

impl HeldRecord {
    fn new(found: At<Record>, asked: Instant) -> Box<Self> {
        Box::new(Self { record: found.value, now: found.now, asked })
    }
}
