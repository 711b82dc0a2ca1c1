//! How an engine is made, and what its handle can do beside answering.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::cache::Cache;
use super::cleaner::{self, Cleanup};
use super::flight::Flights;
use super::quota::Quotas;
use super::transaction::Transact;
use super::{Engine, Error, Inner, telemetry};
#[cfg(feature = "http")]
use super::{Final, Request};
#[cfg(feature = "http")]
use crate::RecordId;
use crate::recent::Recent;
use crate::store::{Durability, Store, Swept};
#[cfg(feature = "http")]
use crate::tiered::Copies;
use crate::tx::Transactional;
use crate::{Guarantee, InvalidPolicy, Limits, Policy};

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
            cache: Cache::new(cache_bytes_max, limits.cache_age_max),
            flights: Flights::new(limits),
            quotas: Quotas::new(&limits),
            tracker: TaskTracker::new(),
            closing: AtomicBool::new(false),
            renewing: Mutex::default(),
            cleaner: Mutex::default(),
            withdrawals: Arc::new(Semaphore::new(limits.running_max.min(Semaphore::MAX_PERMITS))),
            recent: OnceLock::new(),
            shared: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner), policy, resolver: None })
    }

    /// Cleans the store in this way from now on, instead of the default [`Cleanup`]. All handles of the engine share
    /// it.
    #[must_use]
    pub fn with_cleanup(self, cleanup: Cleanup) -> Self {
        cleaner::set(&self.inner, cleanup);
        self
    }

    /// Remembers in `recent` what comes of its requests from now on, for operators who look at one record. All handles
    /// of the engine share it, and only the first one counts. It costs a few hundred nanoseconds for each request.
    #[must_use]
    pub fn with_recent(self, recent: Recent) -> Self {
        let _ = self.inner.recent.set(recent);
        self
    }

    /// What it remembers of its requests, if it does.
    pub fn recent(&self) -> Option<&Recent> {
        self.inner.recent.get()
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
        if let Some(recent) = self.recent() {
            let _ = engine.inner.recent.set(recent.clone());
        }
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

    /// The final outcome for `request`, if this process has cached it.
    #[cfg(feature = "http")]
    pub(crate) fn cached(&self, id: &RecordId, request: &Request) -> Option<Final> {
        self.inner.cache.find(id, request)
    }

    /// Keeps a final outcome that another region has told.
    #[cfg(feature = "http")]
    pub(crate) fn keep(&self, id: RecordId, outcome: &Final) {
        self.inner.keep(id, outcome);
    }

    /// Copies all final outcomes that this engine learns of to where other regions look for them, from now on.
    #[cfg(feature = "http")]
    pub(crate) fn share(&self, copies: Copies<dyn keylatch_core::Cache>) {
        let _ = self.inner.shared.set(copies);
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
