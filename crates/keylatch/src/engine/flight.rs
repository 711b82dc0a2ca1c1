//! The current runs in this process, and the requests that wait for them.
//!
//! There is one run for each record; its duplicates find it here, without asking the store. The map is sharded by
//! caller, so that one lock is enough to count a caller's running and waiting requests and to find duplicates.
//!
//! A run stays in the map until it ends, even if its lease has ended here without a renewal: until another owner is
//! known to have taken over, the run is alive, its lease is renewed as soon as the store can be reached, and no
//! duplicate takes its place. Only a run that is known to have lost its lease gives its place to the next request.

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
use super::telemetry::Counted;
use crate::recent::Parts;
use crate::{Fingerprint, Lease, Limits, Policy, Record, RecordId};

const SHARDS: usize = 64;

/// All current runs.
#[derive(Debug)]
pub(super) struct Flights {
    shards: Vec<Mutex<Shard>>,
    running: AtomicUsize,
    waiters: AtomicUsize,
    limits: Limits,
}

/// Some of the runs. All runs of one caller are in one shard.
#[derive(Debug, Default)]
struct Shard {
    flights: HashMap<RecordId, Arc<Flight>, RandomState>,
    /// How many requests of each caller wait, if any do.
    waiters: HashMap<u64, usize, RandomState>,
}

/// One current run.
#[derive(Debug)]
pub(super) struct Flight {
    caller: u64,
    fingerprint: Fingerprint,
    parts: Option<Parts>,
    /// The policy of the leading request's handle: handles of one engine may keep answers for different times.
    policy: Policy,
    /// What is known in this process of its lease, once it has one.
    hold: Mutex<Option<Hold>>,
    ended: OnceLock<End>,
    changed: Notify,
    lost: AtomicBool,
    /// Whether its end has been sent to the store: others may see it there before this process gets the reply.
    ending: AtomicBool,
    /// Whether its work has begun.
    begun: AtomicBool,
    token: OnceLock<CancellationToken>,
}

/// How a run ended, for the requests that wait for it.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// With this outcome.
    Final(Final),
    /// Its work began and ended without an outcome.
    Failed,
    /// Its work did not begin here, or its lease was lost: ask the store.
    Elsewhere,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    lease: Lease,
    /// Until when nobody else can have taken over.
    until: Instant,
    /// When the latest grant was requested.
    renewed: Instant,
    /// Whether a renewal is in progress.
    renewing: bool,
    /// Whether the latest renewal was not granted, or not yet.
    overdue: bool,
}

/// A renewal to do or in progress. When it is dropped, the next one may start.
#[derive(Debug)]
pub(super) struct Renewal {
    flight: Arc<Flight>,
    lease: Lease,
}

/// Why a request does not lead a run of its key.
pub(super) enum Elsewhere {
    /// It is running here.
    Follow(Arc<Flight>),
    /// Too many requests are running.
    Refused(Quota),
}

/// The request that runs. When it is dropped, for whatever reason, the waiting requests wake up.
#[derive(Debug)]
pub(super) struct Leader {
    flights: Arc<Flights>,
    id: RecordId,
    flight: Arc<Flight>,
    _counted: Counted,
}

impl Flights {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            running: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            limits,
        })
    }

    /// Joins the run of `id`, a record of `caller`: leads it if there is none, or if its lease was lost. The run uses
    /// `policy`.
    pub(super) fn join(
        self: &Arc<Self>,
        id: RecordId,
        caller: u64,
        (fingerprint, parts): (Fingerprint, Option<Parts>),
        policy: Policy,
    ) -> Result<Leader, Elsewhere> {
        let mut shard = self.shard(caller).lock();
        if let Some(flight) = shard.flights.get(&id).filter(|flight| !flight.is_lost()) {
            return Err(Elsewhere::Follow(flight.clone()));
        }
        // The caller can be at its limit only if the shard has that many runs, so its runs are seldom counted.
        let per_caller_max = self.limits.running_per_caller_max;
        let of_caller = || shard.flights.values().filter(|flight| flight.caller == caller).count();
        if shard.flights.len() >= per_caller_max && of_caller() >= per_caller_max {
            return Err(Elsewhere::Refused(Quota::RunningPerCaller));
        }
        if self.running.fetch_add(1, Ordering::Relaxed) >= self.limits.running_max {
            self.running.fetch_sub(1, Ordering::Relaxed);
            return Err(Elsewhere::Refused(Quota::Running));
        }
        let flight = Arc::new(Flight {
            caller,
            fingerprint,
            parts,
            policy,
            hold: Mutex::default(),
            ended: OnceLock::new(),
            changed: Notify::new(),
            lost: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            token: OnceLock::new(),
        });
        shard.flights.insert(id, flight.clone());
        Ok(Leader { flights: self.clone(), id, flight, _counted: Counted::running() })
    }

    /// Lets one more request of `caller` wait; `None` if too many wait already, of this caller or in total.
    pub(super) fn wait(self: &Arc<Self>, caller: u64) -> Option<Waiter> {
        if self.waiters.fetch_add(1, Ordering::Relaxed) >= self.limits.waiters_max {
            self.waiters.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let waiter = Waiter { flights: self.clone(), caller, _counted: Counted::waiting() };
        let of_caller = {
            let mut shard = self.shard(caller).lock();
            let waiters = shard.waiters.entry(caller).or_default();
            *waiters += 1;
            *waiters
        };
        (of_caller <= self.limits.waiters_per_caller_max).then_some(waiter)
    }

    /// The renewals of leases that were last renewed before `before` and are not being renewed now: first those whose
    /// latest renewal succeeded, then the others, the oldest first.
    ///
    /// Notifies runs whose lease has ended here by `now`. Also returns when the next lease ends unless it is renewed.
    pub(super) fn due(&self, now: Instant, before: Option<Instant>) -> (Vec<Renewal>, Option<Instant>) {
        let (mut due, mut next_end) = (Vec::new(), None);
        for shard in &self.shards {
            for flight in shard.lock().flights.values().filter(|flight| !flight.is_lost()) {
                let mut hold = flight.hold.lock();
                let Some(hold) = &mut *hold else { continue };
                if hold.until <= now {
                    flight.cancel();
                } else {
                    next_end = Some(next_end.map_or(hold.until, |end: Instant| end.min(hold.until)));
                }
                if Some(hold.renewed) <= before && !hold.renewing {
                    let order = (hold.overdue, hold.renewed);
                    (hold.renewing, hold.overdue) = (true, true);
                    due.push((order, Renewal { flight: flight.clone(), lease: hold.lease }));
                }
            }
        }
        due.sort_by_key(|(order, _)| *order);
        (due.into_iter().map(|(_, renewal)| renewal).collect(), next_end)
    }

    /// Whether the run with this record's lease is running here.
    pub(super) fn has(&self, record: &Record) -> bool {
        let lease = record.lease();
        let shard = self.shard(record.scope.caller_hash()).lock();
        shard.flights.get(&lease.id).is_some_and(|flight| !flight.is_lost() && flight.lease() == Some(lease))
    }

    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn shard(&self, caller: u64) -> &Mutex<Shard> {
        &self.shards[caller as usize % SHARDS]
    }
}

impl Flight {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// What is known of its request.
    pub(super) fn request(&self) -> (Fingerprint, Option<Parts>) {
        (self.fingerprint, self.parts)
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether no other owner can have taken over by `now`.
    pub(super) fn holds(&self, now: Instant) -> bool {
        !self.is_lost() && self.hold.lock().is_none_or(|hold| now < hold.until)
    }

    /// Whether the store has granted it a lease and cannot have its outcome yet.
    pub(super) fn is_running(&self) -> bool {
        !self.ending.load(Ordering::Acquire) && self.hold.lock().is_some()
    }

    /// Its lease, once it has one.
    pub(super) fn lease(&self) -> Option<Lease> {
        self.hold.lock().map(|hold| hold.lease)
    }

    /// Whether its end has been sent to the store.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Notes that its work begins.
    pub(super) fn begins(&self) {
        self.begun.store(true, Ordering::Release);
    }

    /// Notes that its end is now sent to the store.
    pub(super) fn ends(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Notes that the store granted or renewed `lease`, which nobody can take over before `until`.
    pub(super) fn held(&self, lease: Lease, until: Instant, asked: Instant) {
        let mut hold = self.hold.lock();
        let hold = hold.get_or_insert(Hold { lease, until, renewed: asked, renewing: false, overdue: false });
        // The replies of two renewals may arrive in the wrong order.
        hold.until = hold.until.max(until);
        hold.renewed = hold.renewed.max(asked);
        hold.overdue = false;
    }

    /// Notes that another owner has the record. The waiting requests then ask the store.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.cancel();
        self.changed.notify_waiters();
    }

    /// Tells the run that another owner may have taken over.
    fn cancel(&self) {
        // Either this side sees the new token, or the side that creates it sees that it must be cancelled.
        fence(Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Cancelled when the lease is lost, or has ended here without a renewal.
    pub(super) fn token(&self) -> CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new).clone();
        fence(Ordering::SeqCst);
        if !self.holds(Instant::now()) {
            token.cancel();
        }
        token
    }

    /// Waits until the run ends or is known to have lost its lease.
    pub(super) async fn ended(&self) -> End {
        loop {
            let changed = self.changed.notified();
            match self.ended.get() {
                Some(End::Final(ended)) => return End::Final(ended.clone()),
                _ if self.is_lost() => return End::Elsewhere,
                Some(ended) => return ended.clone(),
                None => changed.await,
            }
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

    /// Whether anybody but the leader holds the run.
    pub(super) fn is_followed(&self) -> bool {
        Arc::strong_count(&self.flight) > 2
    }

    /// Gives the final outcome to the waiting requests.
    pub(super) fn end_with(&self, outcome: Final) {
        let _ = self.flight.ended.set(End::Final(outcome));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(self.flight.caller).lock();
        // A run that lost its lease may have been replaced by another.
        if let Entry::Occupied(entry) = shard.flights.entry(self.id)
            && Arc::ptr_eq(entry.get(), &self.flight)
        {
            entry.remove();
        }
        drop(shard);
        let alone = Arc::strong_count(&self.flight) == 1;
        self.flights.running.fetch_sub(1, Ordering::Relaxed);
        // Out of the map, it finds no more followers: then there is nobody to be told.
        if !alone {
            let begun = self.flight.begun.load(Ordering::Acquire);
            let _ = self.flight.ended.set(if begun { End::Failed } else { End::Elsewhere });
            self.flight.changed.notify_waiters();
        }
    }
}

impl Renewal {
    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(hold) = &mut *self.flight.hold.lock() {
            hold.renewing = false;
        }
    }
}

/// A place among those who wait.
#[derive(Debug)]
pub(super) struct Waiter {
    flights: Arc<Flights>,
    caller: u64,
    _counted: Counted,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Entry::Occupied(mut waiters) = self.flights.shard(self.caller).lock().waiters.entry(self.caller) {
            *waiters.get_mut() -= 1;
            if *waiters.get() == 0 {
                waiters.remove();
            }
        }
        self.flights.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}
