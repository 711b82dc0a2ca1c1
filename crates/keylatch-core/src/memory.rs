//! The memory store: for tests and examples, and the reference for every other store.
//!
//! It forgets everything with the process, so an answer that must outlive one belongs elsewhere.

mod records;
mod shard;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use self::shard::Shard;
use crate::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
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
        let record = self.shard(from).lock().read(&from).expect("there is a record to misplace");
        self.shard(to).lock().put(to, record);
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

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Ok(self.at(lease.id, |shard, now| {
                shard.change(lease.id, now, |record| machine::resolve(record, &lease, &resolution, now))
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
            Ok(swept.within(limit))
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let (found, now) = self.at(id, |shard, now| (shard.read(&id), now));
            match found {
                Some(record) if record.id() != id => Err(misplaced()),
                value => Ok(At { value, now }),
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
            let of_scope = |shard: &Mutex<Shard>| shard.lock().of_scope(&scope);
            Ok(self.0.shards.iter().map(of_scope).sum::<u64>().min(limit))
        })
    }

    fn durability(&self) -> Durability {
        Durability::Process
    }
}

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
                1 => store.release(lease, End::Free(Duration::ZERO)),
                2 => store.release(lease, End::Unknown),
                _ => store.renew(lease, Terms::of(Guarantee::Fenced, &policy), None),
            };
            assert_eq!(applied.now_or_never().unwrap().unwrap(), Applied::Applied(clock.now()));
        }
        for shard in &store.0.shards {
            shard.lock().check_due();
        }

        clock.advance(policy.retention);
        let swept = |limit| store.sweep(limit).now_or_never().unwrap().unwrap();
        assert_eq!(swept(30), Swept { buried: 30, removed: 0, more: true });
        assert_eq!(swept(1_000), Swept { buried: 70, removed: 0, more: false });
        clock.advance(policy.tombstone + policy.lease);
        assert_eq!(swept(1_000), Swept { buried: 0, removed: 200, more: false });
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
        let used = store.0.shards.iter().filter(|shard| shard.lock().len() > 0).count();
        assert_eq!(used, SHARDS);
    }
}
