//! The runs under way in this process, and those who wait for them.
//!
//! One run per record leads; its duplicates find it here, without asking the store. The map is split by scope,
//! so that one lock counts what a scope has running and finds its duplicates.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::answer::{Final, Quota};
use super::telemetry::Metrics;
use crate::{Fingerprint, Lease, Limits, RecordId};

const SHARDS: usize = 64;

/// All runs under way.
#[derive(Debug)]
pub(super) struct Flights {
    shards: Vec<Mutex<Shard>>,
    running: AtomicUsize,
    waiters: AtomicUsize,
    limits: Limits,
    metrics: Metrics,
}

/// Some of the runs, chosen by their scopes: all runs of a scope are in one shard.
type Shard = HashMap<RecordId, Arc<Flight>, RandomState>;

/// One run under way.
#[derive(Debug)]
pub(super) struct Flight {
    fingerprint: Fingerprint,
    /// What is known here of its lease, once it has one.
    hold: Mutex<Option<Hold>>,
    ended: OnceLock<Option<Final>>,
    changed: Notify,
    lost: AtomicBool,
    /// Whether its outcome is on its way to the store: others may have it from there sooner than this process hears.
    ending: AtomicBool,
    /// Whether its work has begun in a transaction.
    begun: AtomicBool,
    token: OnceLock<CancellationToken>,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    lease: Lease,
    /// Until when nobody else can have taken over.
    until: Instant,
    renewed: Instant,
}

/// How a request takes part.
pub(super) enum Joined {
    /// Nobody runs it here: this request does.
    Leader(Leader),
    /// It is running here.
    Follower(Arc<Flight>),
    /// Too much is running.
    Refused(Quota),
}

/// The one that runs. Its end, whatever ends it, wakes those who wait.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Arc<Flights>,
    id: RecordId,
    flight: Arc<Flight>,
}

impl Flights {
    pub(super) fn new(limits: Limits, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            running: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            limits,
            metrics,
        })
    }

    /// Takes part in the run of `id`: leads it if there is none, or if its lease has run out unrenewed.
    pub(super) fn join(self: &Arc<Self>, id: RecordId, fingerprint: Fingerprint) -> Joined {
        let mut shard = self.shard(&id).lock();
        if let Some(flight) = shard.get(&id).filter(|flight| flight.holds(Instant::now())) {
            return Joined::Follower(flight.clone());
        }
        // The scope is full only if the shard is, so that it is seldom counted.
        let per_scope_max = self.limits.running_per_scope_max;
        let of_scope = || shard.keys().filter(|run| run.scope_digest() == id.scope_digest()).count();
        if shard.len() >= per_scope_max && of_scope() >= per_scope_max {
            return Joined::Refused(Quota::RunningPerScope);
        }
        if self.running.fetch_add(1, Ordering::Relaxed) >= self.limits.running_max {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Joined::Refused(Quota::Running);
        }
        self.metrics.running.increment(1.0);
        let flight = Arc::new(Flight {
            fingerprint,
            hold: Mutex::default(),
            ended: OnceLock::new(),
            changed: Notify::new(),
            lost: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            token: OnceLock::new(),
        });
        shard.insert(id, flight.clone());
        Joined::Leader(Leader { flights: self.clone(), id, flight })
    }

    /// Lets one more wait; `None` if too many do.
    pub(super) fn wait(self: &Arc<Self>) -> Option<Waiter> {
        let waiter = Waiter(self.clone());
        self.metrics.waiters.increment(1.0);
        (self.waiters.fetch_add(1, Ordering::Relaxed) < self.limits.waiters_max).then_some(waiter)
    }

    /// The leases that were last renewed before `before`.
    pub(super) fn due(&self, before: Instant) -> Vec<(Arc<Flight>, Lease)> {
        let mut due = Vec::new();
        for shard in &self.shards {
            for flight in shard.lock().values() {
                let hold = *flight.hold.lock();
                if let Some(hold) = hold.filter(|hold| hold.renewed <= before && !flight.is_lost()) {
                    due.push((flight.clone(), hold.lease));
                }
            }
        }
        due
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn shard(&self, id: &RecordId) -> &Mutex<Shard> {
        &self.shards[usize::from(id.as_bytes()[0]) % SHARDS]
    }
}

impl Flight {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether nobody else can have taken over by `now`.
    pub(super) fn holds(&self, now: Instant) -> bool {
        !self.is_lost() && self.hold.lock().is_none_or(|hold| now < hold.until)
    }

    /// Whether the store has granted it a lease, and cannot have its outcome yet.
    pub(super) fn is_running(&self) -> bool {
        !self.ending.load(Ordering::Acquire) && self.hold.lock().is_some()
    }

    /// Whether it has won the key: until then it may lose to another process.
    pub(super) fn has_won(&self) -> bool {
        self.begun.load(Ordering::Acquire) || self.hold.lock().is_some()
    }

    /// Notes that its work begins in a transaction, which has the key.
    pub(super) fn begins(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Notes that its outcome goes to the store now.
    pub(super) fn ends(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Notes that the store granted or renewed `lease`, which nobody takes over until `until`.
    pub(super) fn held(&self, lease: Lease, until: Instant, asked: Instant) {
        *self.hold.lock() = Some(Hold { lease, until, renewed: asked });
    }

    /// Notes that another owner has the record. Those who wait here look for themselves.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        // Either this side sees a token that is being made, or its maker sees the loss.
        fence(Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
        self.changed.notify_waiters();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Cancelled when the lease is lost.
    pub(super) fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new).clone();
        fence(Ordering::SeqCst);
        if self.is_lost() {
            token.cancel();
        }
        token
    }

    /// Waits for the end of the run: its final outcome, or `None` if it ended without one, or lost its lease.
    pub(super) async fn ended(&self) -> Option<Final> {
        loop {
            let changed = self.changed.notified();
            if let Some(ended) = self.ended.get() {
                return ended.clone();
            }
            if self.is_lost() {
                return None;
            }
            changed.await;
        }
    }
}

impl Leader {
    pub(super) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    pub(super) fn id(&self) -> RecordId {
        self.id
    }

    /// Whether anybody but the leader has an eye on the run.
    pub(super) fn is_followed(&self) -> bool {
        Arc::strong_count(&self.flight) > 2
    }

    /// Leaves the final outcome to those who wait.
    pub(super) fn end_with(&self, outcome: Final) {
        let _ = self.flight.ended.set(Some(outcome));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.id).lock();
        // A run whose lease ran out may have been replaced by another.
        if let Entry::Occupied(entry) = shard.entry(self.id)
            && Arc::ptr_eq(entry.get(), &self.flight)
        {
            entry.remove();
        }
        drop(shard);
        let alone = Arc::strong_count(&self.flight) == 1;
        self.flights.running.fetch_sub(1, Ordering::Relaxed);
        self.flights.metrics.running.decrement(1.0);
        // Out of the map, it finds no more followers: then there is nobody to be told.
        if !alone {
            let _ = self.flight.ended.set(None);
            self.flight.changed.notify_waiters();
        }
    }
}

/// A place among those who wait.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Flights>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.waiters.decrement(1.0);
    }
}
