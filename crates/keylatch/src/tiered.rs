//! A cache of final outcomes in front of a store of truth.
//!
//! A final outcome never changes, so a copy of it is right until it expires, or an operator takes it away. Everything else
//! goes to the store of truth. A cache can be stale, empty, slow or unavailable, and no answer changes.
//!
//! ```text
//! claim, look, read     ─▶ cache: is there a final outcome? ─ yes ─▶ the record, without asking the store
//!                            │ no, or no reply in time, or it cannot be read
//!                            ▼
//!                          the store of truth ─▶ a final outcome is copied into the cache
//! ```
//!
//! **Expiry is exact.** The end of an answer is an instant on the store's clock. This process knows that clock from the
//! store's latest reply: if the reply has the time `t` and was requested at `a`, the clock shows at most `t` plus the
//! time that has passed since `a`. A copy is given only if it has not expired by that bound, and only if the latest
//! reply is younger than [`CLOCK_AGE_MAX`].
//!
//! **An answer that is forgotten is gone from the cache, too** ([`Store::forget`]): first from the store of truth, then from
//! the cache, for all processes that share it. If the cache cannot be told, that is an error, and the call can be sent
//! again. An answer that is forgotten in the store of truth alone, past the cache, may be given from a copy for up to
//! [`COPY_AGE_MAX`].
//!
//! Other regions may read the cache, too, and they know the time of this store only from how long a copy is kept. So one
//! that the cache does not confirm within [`CACHE_TIMEOUT`] is taken out again: it cannot arrive late.

use std::fmt::{Debug, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use keylatch_core::Cache;

use crate::engine::{OUTCOME_ALONE, surely, telemetry};
use crate::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use crate::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Page, PageRequest, Store, Sweep, Swept,
};
use crate::tx::{Seen, Start, Transacted, Transactional};
use crate::{Lease, Record, RecordId, Scope, State, Timestamp};

/// How old the latest reply of the store may be for its clock to be known. Clocks of two machines drift apart by less
/// than 1 ms in this time.
pub const CLOCK_AGE_MAX: Duration = Duration::from_secs(5);
/// How long a look-up in the cache may take. A slower cache is of no use.
pub const CACHE_TIMEOUT: Duration = Duration::from_millis(100);
/// How long the cache is not used after a failure, so that an unavailable cache does not slow down every call.
pub const CACHE_REST: Duration = Duration::from_secs(1);
/// How long a copy is kept, however long its answer is kept in the store: so long can a copy be given after its answer was
/// forgotten by a process that does not know of the cache. A client that repeats a request mostly does so within
/// seconds or minutes, and a later one costs one call of the store.
pub const COPY_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// How long an operator waits for the cache to remove a copy.
const FORGET_TIMEOUT: Duration = Duration::from_secs(5);

/// How many copies to the cache may be in progress. An outcome that finds no place is copied when it is read again.
const COPIES_MAX: usize = 256;
/// For how long no copy takes the place of one that was taken out. What was sent to the cache before arrives before that;
/// on another connection it may be later, by less than this.
const TAKEN_OUT: Duration = Duration::from_secs(2);

/// A store of truth `S` behind a cache `C`. A clone shares both.
#[derive(Debug, Clone)]
pub struct Tiered<S, C> {
    store: S,
    inner: Arc<Inner<C>>,
}

#[derive(Debug)]
struct Inner<C> {
    copies: Copies<C>,
    clock: Mutex<Option<Showed>>,
}

/// A cache, and the copies that are on their way there in the background. Clones share all of it.
#[derive(Debug)]
pub(crate) struct Copies<C: ?Sized> {
    cache: Arc<C>,
    places: Arc<Semaphore>,
    rests_until: Arc<Mutex<Option<Instant>>>,
}

impl<C: ?Sized> Clone for Copies<C> {
    fn clone(&self) -> Self {
        let Self { cache, places, rests_until } = self;
        Self { cache: cache.clone(), places: places.clone(), rests_until: rests_until.clone() }
    }
}

impl<C: Cache + ?Sized> Copies<C> {
    pub(crate) fn into(cache: Arc<C>) -> Self {
        Self { cache, places: Arc::new(Semaphore::new(COPIES_MAX)), rests_until: Arc::default() }
    }

    pub(crate) fn cache(&self) -> &C {
        &self.cache
    }

    /// Copies `record` in the background. The copy ends at `until`, by this process's clock: so one that is not known to be
    /// there in time is taken out again. Each one that does not get there is counted.
    pub(crate) fn copy(&self, record: Record, until: Instant) {
        let place = if self.rest(Instant::now()) { None } else { self.places.clone().try_acquire_owned().ok() };
        let Some(place) = place else { return telemetry::copy_missed() };
        let (copies, id) = (self.clone(), record.id());
        drop(tokio::spawn(async move {
            let keep = until.saturating_duration_since(Instant::now()).min(COPY_AGE_MAX);
            if !keep.is_zero() {
                match timeout(CACHE_TIMEOUT, copies.cache.keep(record, keep)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => copies.take_out(id, &error).await,
                    Err(_) => copies.take_out(id, &"no reply in time").await,
                }
            }
            drop(place);
        }));
    }

    /// The copy may still be on its way, and its time would count from when it arrives. This comes after it.
    async fn take_out(&self, id: RecordId, why: &(dyn Display + Sync)) {
        telemetry::copy_missed();
        self.failed(why);
        let _ = timeout(CACHE_TIMEOUT, self.cache.forget(id, TAKEN_OUT)).await;
    }

    /// Whether the cache has failed a short time ago.
    fn rest(&self, now: Instant) -> bool {
        self.rests_until.lock().is_some_and(|until| now < until)
    }

    fn failed(&self, why: &dyn Display) {
        tracing::warn!(%why, "the cache failed; the store is asked meanwhile");
        *self.rests_until.lock() = Some(Instant::now() + CACHE_REST);
    }
}

/// What the store's clock showed, at some time after `asked`.
#[derive(Debug, Clone, Copy)]
struct Showed {
    now: Timestamp,
    asked: Instant,
}

impl<S, C: Cache> Tiered<S, C> {
    /// Puts `cache` in front of `store`.
    pub fn new(store: S, cache: C) -> Self {
        let inner = Inner { copies: Copies::into(Arc::new(cache)), clock: Mutex::new(None) };
        Self { store, inner: Arc::new(inner) }
    }

    /// The store of truth.
    pub const fn store(&self) -> &S {
        &self.store
    }
}

impl<C: Cache> Inner<C> {
    /// The final outcome that the cache has under `id`, if it has not expired, and the latest time that the store's
    /// clock can show.
    async fn find(&self, id: RecordId) -> Option<At<Record>> {
        let asked = Instant::now();
        self.latest(asked)?;
        if self.copies.rest(asked) {
            return None;
        }
        let record = match timeout(CACHE_TIMEOUT, self.copies.cache().find(id)).await {
            Ok(Ok(found)) => found?,
            Ok(Err(error)) => {
                if error.retryable() {
                    self.copies.failed(&error);
                } else {
                    tracing::warn!(%error, "the cache has a value that is not a record; the store is asked");
                }
                return None;
            }
            Err(_) => {
                self.copies.failed(&"no reply in time");
                return None;
            }
        };
        // The clock as it is now, because the look-up itself took time.
        let now = self.latest(Instant::now())?;
        (record.id() == id && is_given(&record, now)).then_some(At { value: record, now })
    }

    /// The latest time that the store's clock can show.
    fn latest(&self, at: Instant) -> Option<Timestamp> {
        let Showed { now, asked } = (*self.clock.lock())?;
        let since = at.saturating_duration_since(asked);
        // Rounded up to whole milliseconds.
        (since < CLOCK_AGE_MAX).then(|| now + since + Duration::from_millis(1))
    }

    /// Notes the time in a reply of the store.
    fn saw(&self, now: Timestamp, asked: Instant) {
        *self.clock.lock() = Some(Showed { now, asked });
    }

    /// Copies `record` into the cache in the background, if it is final and has not expired at the store's `now`, which was
    /// read no earlier than `asked`.
    fn copy(&self, record: &Record, now: Timestamp, asked: Instant) {
        let State::Completed { expires_at, .. } = record.state else { return };
        if is_given(record, now) {
            self.copies.copy(record.clone(), surely(asked, now.until(expires_at)));
        }
    }

    /// Removes the copy under `id`, for all processes. None that is under way takes its place: it would be kept for as
    /// long as the place is blocked, at most.
    async fn forget(&self, id: RecordId) -> Result<(), Error> {
        let why = match timeout(FORGET_TIMEOUT, self.copies.cache().forget(id, COPY_AGE_MAX)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no reply in time".to_owned(),
        };
        Err(Error::new(
            ErrorKind::NotKnown,
            format!(
                "the answer is gone from the store, but the cache was not told ({why}) and may give its copy for {} \
                 minutes; send this again",
                COPY_AGE_MAX.as_secs() / 60
            ),
        ))
    }
}

/// Whether `record` has an answer that has not expired at `now`.
fn is_given(record: &Record, now: Timestamp) -> bool {
    matches!(&record.state, State::Completed { outcome: Some(_), expires_at } if now < *expires_at)
}

impl<S: Store, C: Cache> Store for Tiered<S, C> {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            if let Some(At { value, now }) = self.inner.find(claim.id()).await
                && value.belongs_to(claim.scope(), claim.key())
            {
                return Ok(At { value: Claimed::Held(value), now });
            }
            let asked = Instant::now();
            let claimed = self.store.claim(claim).await?;
            self.inner.saw(claimed.now, asked);
            if let Claimed::Held(record) = &claimed.value {
                self.inner.copy(record, claimed.now, asked);
            }
            Ok(claimed)
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        self.store.renew(lease, terms, step)
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        self.store.complete(lease, completion)
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        self.store.release(lease, end)
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        self.store.resolve(lease, resolution)
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let applied = self.store.forget(lease).await?;
            // Also if it was forgotten before: the cache may not have been told then.
            if let Applied::Applied(_) = applied {
                self.inner.forget(lease.id).await?;
            }
            Ok(applied)
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            // A copy that was made of the outcome alone does not say whose it is: for that, the store is asked.
            if let Some(At { value, now }) = self.inner.find(id).await
                && value.owner != OUTCOME_ALONE
            {
                return Ok(At { value: Some(value), now });
            }
            let asked = Instant::now();
            let read = self.store.read(id).await?;
            self.inner.saw(read.now, asked);
            if let Some(record) = &read.value {
                self.inner.copy(record, read.now, asked);
            }
            Ok(read)
        })
    }

    fn durability(&self) -> Durability {
        self.store.durability()
    }

    fn clock_uncertainty(&self) -> Duration {
        self.store.clock_uncertainty()
    }
}

impl<S: Store, C: Cache> Sweep for Tiered<S, C> {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        self.store.sweep(limit)
    }
}

impl<S: Store, C: Cache> Inspect for Tiered<S, C> {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.store.list(page)
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.store.lapsed(after, limit)
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        self.store.count(scope, limit)
    }
}

impl<S: Transactional, C: Cache> Transactional for Tiered<S, C> {
    type Database = S::Database;

    fn look(&self, claim: &Claim) -> BoxFuture<'_, Result<At<Seen>, Error>> {
        let claim = claim.clone();
        Box::pin(async move {
            if let Some(At { value: record, now }) = self.inner.find(claim.id()).await
                && record.belongs_to(claim.scope(), claim.key())
            {
                return Ok(At { value: Seen { record: Some(record), busy: false }, now });
            }
            let asked = Instant::now();
            let seen = self.store.look(&claim).await?;
            self.inner.saw(seen.now, asked);
            if let Some(record) = &seen.value.record {
                self.inner.copy(record, seen.now, asked);
            }
            Ok(seen)
        })
    }

    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        start: Start<Self::Database>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>> {
        Box::pin(async move {
            let asked = Instant::now();
            let transacted = self.store.transact(claim, seen, start).await?;
            self.inner.saw(transacted.now, asked);
            if let Transacted::Committed(record) = &transacted.value {
                self.inner.copy(record, transacted.now, asked);
            }
            Ok(transacted)
        })
    }
}
