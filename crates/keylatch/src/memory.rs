//! The memory store: for tests and examples, and the reference for every other store.
//!
//! It forgets everything with the process, so an answer that must outlive one belongs elsewhere.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::machine::{self, Change, Claim, Claimed, Completion, End, Terms};
use crate::store::{Applied, At, Durability, Error, ErrorKind, PAGE_RECORDS_MAX, PageRequest, Swept};
use crate::{Clock, Lease, Record, RecordId, Scope, State, Timestamp};

/// A store in the memory of this process. A clone is the same store.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    clock: Clock,
    shards: [Mutex<Shard>; SHARDS],
    /// Where the next sweep begins, so that a small limit reaches every shard in turn.
    sweep_from: AtomicUsize,
}

/// Enough that threads rarely meet at one lock.
const SHARDS: usize = 64;

/// Some of the records, chosen by their keys, so that one busy scope is spread over all shards.
#[derive(Default)]
struct Shard {
    /// By hash, as claims come far more often than lists. Boxed, so that little moves when the map grows.
    records: HashMap<RecordId, Box<Record>, RandomState>,
    /// How many of them each scope has.
    scopes: HashMap<[u8; 16], u64, RandomState>,
    /// The same records, those without end left out, by the instant at which a sweep has something to do.
    due: BTreeSet<(Timestamp, RecordId)>,
}

impl Store {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(Clock::system())
    }

    /// An empty store on this clock.
    pub fn with_clock(clock: Clock) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self(Arc::new(Inner { clock, shards, sweep_from: AtomicUsize::new(0) }))
    }

    /// Puts a copy of the record `from` under the identity `to`, as a damaged store would; for the
    /// conformance suite.
    ///
    /// # Panics
    ///
    /// If there is no record `from`.
    #[cfg(feature = "conformance")]
    pub fn misplace(&self, from: RecordId, to: RecordId) {
        let record = self.shard(from).lock().records.get(&from).cloned().expect("there is a record to misplace");
        self.shard(to).lock().put(to, *record);
    }

    /// Does `write` on a shard at the store's now. The clock is read under the lock: of two writes to one
    /// record, the later one has the later time.
    fn at<T>(&self, id: RecordId, write: impl FnOnce(&mut Shard, Timestamp) -> T) -> T {
        let mut shard = self.shard(id).lock();
        let now = self.0.clock.now();
        write(&mut shard, now)
    }

    /// The lowest of the records that the page asks for and `wanted` wants.
    fn page(&self, page: &PageRequest, wanted: fn(&Record, Timestamp) -> bool) -> Result<At<Vec<Record>>, Error> {
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        let now = self.0.clock.now();
        let mut first = BTreeMap::new();
        for shard in &self.0.shards {
            shard.lock().list(page, limit, |record| wanted(record, now), &mut first);
        }
        if first.iter().any(|(id, record)| record.id() != *id) {
            return Err(misplaced());
        }
        Ok(At { value: first.into_values().collect(), now })
    }

    fn shard(&self, id: RecordId) -> &Mutex<Shard> {
        // The first half of an identity is the scope's, the second half the key's.
        &self.0.shards[usize::from(id.as_bytes()[16]) % SHARDS]
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory::Store")
    }
}

impl crate::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            let id = claim.id();
            self.at(id, |shard, now| Ok(At { value: shard.claim(id, &claim, now)?, now }))
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            Ok(self.at(lease.id, |shard, now| {
                shard.change(lease.id, now, |record| {
                    machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
                })
            }))
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Ok(self.at(lease.id, |shard, now| {
                shard.change(lease.id, now, |record| {
                    machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
                })
            }))
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Ok(self.at(lease.id, |shard, now| {
                shard.change(lease.id, now, |record| machine::release(record, &lease, end, now))
            }))
        })
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(async move {
            let from = self.0.sweep_from.fetch_add(1, Ordering::Relaxed);
            let mut swept = Swept::default();
            for shard in (from..from + SHARDS).map(|at| &self.0.shards[at % SHARDS]) {
                let mut shard = shard.lock();
                let now = self.0.clock.now();
                shard.sweep(limit, now, &mut swept);
            }
            Ok(swept)
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let (found, now) = self.at(id, |shard, now| (shard.records.get(&id).cloned(), now));
            match found {
                Some(record) if record.id() != id => Err(misplaced()),
                found => Ok(At { value: found.map(|record| *record), now }),
            }
        })
    }

    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        Box::pin(async move { self.page(&page, |_, _| true) })
    }

    fn lapsed(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        let lapsed = |record: &Record, now| match record.state {
            State::Running { lease_ends_at, .. } => lease_ends_at <= now,
            State::Completed { .. } => false,
        };
        Box::pin(async move { self.page(&PageRequest { scope: None, after, limit }, lapsed) })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let of_scope = |shard: &Mutex<Shard>| shard.lock().scopes.get(scope.digest()).copied().unwrap_or(0);
            Ok(self.0.shards.iter().map(of_scope).sum::<u64>().min(limit))
        })
    }

    fn durability(&self) -> Durability {
        Durability::Process
    }
}

impl Shard {
    fn claim(&mut self, id: RecordId, claim: &Claim, now: Timestamp) -> Result<Claimed, Error> {
        let entry = self.records.entry(id);
        let (previous, due) = match &entry {
            Entry::Occupied(entry) if !entry.get().belongs_to(claim.scope(), claim.key()) => return Err(misplaced()),
            Entry::Occupied(entry) => (Some(Record::clone(entry.get())), machine::due_at(entry.get())),
            Entry::Vacant(_) => (None, None),
        };
        let claimed = machine::claim(previous, claim, now);
        if let Claimed::Won(record) = &claimed {
            match entry {
                Entry::Occupied(mut entry) => **entry.get_mut() = record.clone(),
                Entry::Vacant(entry) => {
                    entry.insert(Box::new(record.clone()));
                    *self.scopes.entry(id.scope_digest()).or_default() += 1;
                }
            }
            self.reschedule(id, due, machine::due_at(record));
        }
        Ok(claimed)
    }

    /// Makes the change that `decide` wants of the record, if there is one.
    fn change(&mut self, id: RecordId, now: Timestamp, decide: impl FnOnce(&Record) -> Change) -> Applied {
        let Entry::Occupied(mut entry) = self.records.entry(id) else { return Applied::Lost };
        let due = machine::due_at(entry.get());
        match decide(entry.get()) {
            Change::None => return Applied::Lost,
            Change::Remove => {
                entry.remove();
                self.removed(id);
                self.reschedule(id, due, None);
            }
            Change::Write(record) => {
                let next = machine::due_at(&record);
                **entry.get_mut() = record;
                self.reschedule(id, due, next);
            }
        }
        Applied::Applied(now)
    }

    #[cfg(feature = "conformance")]
    fn put(&mut self, id: RecordId, record: Record) {
        let next = machine::due_at(&record);
        let previous = self.records.insert(id, Box::new(record));
        if previous.is_none() {
            *self.scopes.entry(id.scope_digest()).or_default() += 1;
        }
        self.reschedule(id, previous.and_then(|record| machine::due_at(&record)), next);
    }

    /// Counts a record that has gone.
    fn removed(&mut self, id: RecordId) {
        if let Entry::Occupied(mut in_scope) = self.scopes.entry(id.scope_digest()) {
            *in_scope.get_mut() -= 1;
            if *in_scope.get() == 0 {
                in_scope.remove();
            }
        }
    }

    fn reschedule(&mut self, id: RecordId, from: Option<Timestamp>, to: Option<Timestamp>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.due.remove(&(from, id));
        }
        if let Some(to) = to {
            self.due.insert((to, id));
        }
    }

    fn sweep(&mut self, limit: usize, now: Timestamp, swept: &mut Swept) {
        while swept.total() < limit {
            let Some(&(due, id)) = self.due.first().filter(|(due, _)| *due <= now) else { return };
            match self.records.get(&id).map_or(Change::None, |record| machine::sweep(record, now)) {
                Change::None => unreachable!("a record that is due at {due} has something to sweep at {now}"),
                Change::Write(record) => {
                    self.reschedule(id, Some(due), machine::due_at(&record));
                    self.records.insert(id, Box::new(record));
                    swept.buried += 1;
                }
                Change::Remove => {
                    self.reschedule(id, Some(due), None);
                    self.records.remove(&id);
                    self.removed(id);
                    swept.removed += 1;
                }
            }
        }
    }

    /// Merges this shard's part of the page into `first`, which holds the `limit` lowest so far.
    fn list(
        &self,
        page: &PageRequest,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
        first: &mut BTreeMap<RecordId, Record>,
    ) {
        let (low, high) = page.scope.as_ref().map_or((LOWEST, HIGHEST), RecordId::range);
        let low = page.after.map_or(low, |after| low.max(after));
        let asked_for = |id: &RecordId| (low..=high).contains(id) && Some(*id) != page.after;
        for (id, record) in self.records.iter().filter(|(id, record)| asked_for(id) && wanted(record)) {
            if first.len() >= limit {
                match first.last_entry() {
                    Some(last) if *id < *last.key() => last.remove(),
                    _ => continue,
                };
            }
            first.insert(*id, Record::clone(record));
        }
    }
}

const LOWEST: RecordId = RecordId::from_bytes([0; 32]);
const HIGHEST: RecordId = RecordId::from_bytes([0xff; 32]);

fn misplaced() -> Error {
    Error::new(ErrorKind::Corrupt, "a record of another scope or key is stored under this identity")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::store::Store as _;
    use crate::{Fingerprint, Guarantee, Key, Outcome, Policy};

    fn claimed(store: &Store, scope: &Scope, key: usize) -> Record {
        let key = Key::new(&key.to_string()).unwrap();
        let fingerprint = Fingerprint::of([b"request".as_slice()]);
        let claim = Claim::new(scope.clone(), key, fingerprint, Guarantee::Fenced, &Policy::default());
        match store.claim(claim).now_or_never().unwrap().unwrap().value {
            Claimed::Won(record) => record,
            Claimed::Held(record) => panic!("held: {record:?}"),
        }
    }

    #[test]
    fn the_due_index_follows_every_write() {
        let clock = Clock::manual(Timestamp::from_millis(0));
        let store = Store::with_clock(clock.clone());
        let scope = Scope::new("caller").unwrap();
        let policy = Policy::default();
        let records: Vec<_> = (0..400).map(|key| claimed(&store, &scope, key)).collect();
        for (at, record) in records.iter().enumerate() {
            let lease = record.lease();
            let applied = match at % 4 {
                0 => store.complete(lease, Completion::new(Outcome::bytes("answer"), &policy)),
                1 => store.release(lease, End::Free),
                2 => store.release(lease, End::Unknown),
                _ => store.renew(lease, Terms::of(Guarantee::Fenced, &policy), None),
            };
            assert_eq!(applied.now_or_never().unwrap().unwrap(), Applied::Applied(clock.now()));
        }
        for shard in &store.0.shards {
            let shard = shard.lock();
            let due = shard.records.iter().filter_map(|(id, record)| Some((machine::due_at(record)?, *id)));
            assert_eq!(shard.due, due.collect());
        }

        clock.advance(policy.retention);
        let swept = |limit| store.sweep(limit).now_or_never().unwrap().unwrap();
        assert_eq!(swept(30), Swept { buried: 30, removed: 0 });
        assert_eq!(swept(1_000), Swept { buried: 70, removed: 0 });
        clock.advance(policy.tombstone + policy.lease);
        assert_eq!(swept(1_000), Swept { buried: 0, removed: 200 });
        let unknown = store.count(scope, u64::MAX).now_or_never().unwrap().unwrap();
        assert_eq!(unknown, 100, "what is not known is kept");
        clock.advance(Duration::from_secs(u32::MAX.into()));
        assert_eq!(swept(1_000), Swept::default());
    }

    #[test]
    fn a_busy_scope_is_spread_over_the_shards() {
        let store = Store::new();
        let scope = Scope::new("caller").unwrap();
        for key in 0..1_000 {
            let _ = claimed(&store, &scope, key);
        }
        let used = store.0.shards.iter().filter(|shard| !shard.lock().records.is_empty()).count();
        assert_eq!(used, SHARDS);
    }
}
