//! The memory store, for tests and examples: a map of records, and an index of what is due.
//!
//! It is the reference for every other store. It forgets everything with the process, so an answer that must outlive one
//! belongs elsewhere.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use crate::store::{Applied, At, Durability, Error, ErrorKind, PAGE_RECORDS_MAX, PageRequest, Swept};
use crate::{Clock, Lease, Record, RecordId, Scope, State, Timestamp};

/// A store in the memory of this process. A clone is the same store.
#[derive(Clone, Default)]
pub struct Store {
    clock: Clock,
    records: Arc<Mutex<Records>>,
}

#[derive(Default)]
struct Records {
    by_id: HashMap<RecordId, Box<Record>, RandomState>,
    /// How many of them each scope has.
    counts: HashMap<[u8; 16], u64, RandomState>,
    /// When a sweep looks at which records. Each record stands here at the instant at which it is due, or before it.
    due: BTreeMap<Timestamp, Vec<RecordId>>,
}

impl Store {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store on this clock.
    pub fn with_clock(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Does `call` at the store's now. The clock is read under the lock: of two writes, the later one has the later time.
    fn at<T>(&self, call: impl FnOnce(&mut Records, Timestamp) -> T) -> T {
        let mut records = self.records.lock();
        let now = self.clock.now();
        call(&mut records, now)
    }

    /// Makes the change that `decide` wants of the record, if there is one.
    fn change(&self, id: RecordId, decide: impl FnOnce(&Record, Timestamp) -> Change) -> Applied {
        self.at(|records, now| {
            match records.by_id.get(&id).map_or(Change::None, |record| decide(record, now)) {
                Change::None => return Applied::Lost,
                Change::Write(record) => records.write(id, record),
                Change::Remove => records.remove(id),
            }
            Applied::Applied(now)
        })
    }
}

impl Records {
    fn claim(&mut self, claim: &Claim, now: Timestamp) -> Result<Claimed, Error> {
        let previous = self.by_id.get(&claim.id());
        if previous.is_some_and(|record| !record.belongs_to(claim.scope(), claim.key())) {
            return Err(misplaced());
        }
        let claimed = machine::claim(previous.map(|record| (**record).clone()), claim, now);
        if let Claimed::Won(record) = &claimed {
            self.write(claim.id(), record.clone());
        }
        Ok(claimed)
    }

    fn write(&mut self, id: RecordId, record: Record) {
        let due = machine::due_at(&record);
        let stands_at = match self.by_id.entry(id) {
            Entry::Occupied(mut place) => machine::due_at(&std::mem::replace(place.get_mut(), record)),
            Entry::Vacant(place) => {
                place.insert(Box::new(record));
                *self.counts.entry(id.scope_digest()).or_default() += 1;
                None
            }
        };
        // One that is due later than before stays where it stands: a long run is renewed often.
        if let Some(due) = due.filter(|due| stands_at.is_none_or(|at| *due < at)) {
            self.due.entry(due).or_default().push(id);
        }
    }

    fn remove(&mut self, id: RecordId) {
        self.by_id.remove(&id);
        if let Entry::Occupied(mut count) = self.counts.entry(id.scope_digest()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn sweep(&mut self, limit: usize, now: Timestamp) -> Swept {
        let mut swept = Swept::default();
        while swept.total() < limit {
            let Some(mut first) = self.due.first_entry().filter(|first| *first.key() <= now) else { break };
            let Some(id) = first.get_mut().pop() else {
                first.remove();
                continue;
            };
            let Some(record) = self.by_id.get_mut(&id) else { continue };
            match machine::sweep(record, now) {
                Change::None => {}
                Change::Write(tombstone) => {
                    **record = tombstone;
                    swept.buried += 1;
                }
                Change::Remove => {
                    self.remove(id);
                    swept.removed += 1;
                    continue;
                }
            }
            if let Some(due) = machine::due_at(record) {
                self.due.entry(due).or_default().push(id);
            }
        }
        swept.within(limit)
    }

    /// The lowest of the records that the page asks for and that are `wanted`.
    fn page(&self, page: &PageRequest, wanted: impl Fn(&Record) -> bool) -> Result<Vec<Record>, Error> {
        let (low, high) = page.scope.as_ref().map_or((LOWEST, HIGHEST), RecordId::range);
        let asked_for = |id: &RecordId| (low..=high).contains(id) && page.after.is_none_or(|after| *id > after);
        let mut found: Vec<_> = self.by_id.iter().filter(|(id, record)| asked_for(id) && wanted(record)).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        found.into_iter().take(limit).map(|(id, record)| checked(*id, record).cloned()).collect()
    }
}

const LOWEST: RecordId = RecordId::from_bytes([0; 32]);
const HIGHEST: RecordId = RecordId::from_bytes([0xff; 32]);

/// The record, if it is the one that belongs under this identity.
fn checked(id: RecordId, record: &Record) -> Result<&Record, Error> {
    if record.id() == id { Ok(record) } else { Err(misplaced()) }
}

fn misplaced() -> Error {
    Error::new(ErrorKind::Corrupt, "a record of another scope or key is stored under this identity")
}

impl crate::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move { self.at(|records, now| Ok(At { value: records.claim(&claim, now)?, now })) })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            Ok(self.change(lease.id, |record, now| {
                machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
            }))
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Ok(self.change(lease.id, |record, now| {
                machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
            }))
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move { Ok(self.change(lease.id, |record, now| machine::release(record, &lease, end, now))) })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(
            async move { Ok(self.change(lease.id, |record, now| machine::resolve(record, &lease, &resolution, now))) },
        )
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(async move { Ok(self.at(|records, now| records.sweep(limit, now))) })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let (found, now) = self.at(|records, now| (records.by_id.get(&id).map(|record| (**record).clone()), now));
            found.as_ref().map(|record| checked(id, record)).transpose()?;
            Ok(At { value: found, now })
        })
    }

    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        Box::pin(async move { self.at(|records, now| Ok(At { value: records.page(&page, |_| true)?, now })) })
    }

    fn lapsed(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        let page = PageRequest { scope: None, after, limit };
        Box::pin(async move {
            self.at(|records, now| {
                let lapsed = |record: &Record| match record.state {
                    State::Running { lease_ends_at, .. } => lease_ends_at <= now,
                    State::Completed { .. } => false,
                };
                Ok(At { value: records.page(&page, lapsed)?, now })
            })
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move {
            let count = self.at(|records, _| records.counts.get(scope.digest()).copied());
            Ok(count.unwrap_or(0).min(limit))
        })
    }

    fn durability(&self) -> Durability {
        Durability::Process
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory::Store")
    }
}

#[cfg(test)]
mod tests;
