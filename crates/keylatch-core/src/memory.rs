//! The memory store, for tests and examples: a map of records, and an index of what is due.
//!
//! It is the reference for every other store. It forgets everything when the process ends, so use another store for
//! answers that must outlive it.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use crate::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use crate::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, PAGE_RECORDS_MAX, Page, PageRequest, Sweep,
    Swept,
};
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
    /// Those that run.
    running: HashSet<RecordId, RandomState>,
    /// All others, by when a sweep has something to do; some entries are outdated because the record has changed since.
    due: BinaryHeap<Reverse<(Timestamp, RecordId)>>,
    /// How many records each scope has.
    scopes: HashMap<Scope, u64, RandomState>,
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

    /// Applies the change that `decide` returns for the record, if there is one.
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

    fn write(&mut self, id: RecordId, mut record: Record) {
        match record.state {
            State::Running { .. } => drop(self.running.insert(id)),
            State::Completed { .. } => {
                self.running.remove(&id);
                if let Some(due) = machine::due_at(&record) {
                    self.due.push(Reverse((due, id)));
                }
            }
        }
        match self.by_id.entry(id) {
            Entry::Occupied(mut place) => **place.get_mut() = record,
            Entry::Vacant(place) => {
                let scope = self.scopes.entry(record.scope);
                // All records of a scope share its text.
                record.scope = scope.key().clone();
                *scope.or_default() += 1;
                place.insert(Box::new(record));
            }
        }
    }

    fn remove(&mut self, id: RecordId) {
        self.running.remove(&id);
        if let Some(record) = self.by_id.remove(&id)
            && let Entry::Occupied(mut count) = self.scopes.entry(record.scope)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn sweep(&mut self, limit: usize, now: Timestamp) -> Swept {
        let mut swept = Swept::default();
        // Looked at last: most sweeps reach their limit before.
        let mut running = None;
        while swept.total() < limit {
            let due = self.next_due(now);
            let running = || running.get_or_insert_with(|| self.running.iter().copied().collect::<Vec<_>>()).pop();
            let Some(id) = due.or_else(running) else { break };
            match self.by_id.get(&id).map_or(Change::None, |record| machine::sweep(record, now)) {
                Change::None => {}
                Change::Write(record) => {
                    self.write(id, record);
                    swept.tombstoned += 1;
                }
                Change::Remove => {
                    self.remove(id);
                    swept.removed += 1;
                }
            }
        }
        swept.within(limit)
    }

    /// Removes the first due record from the index.
    fn next_due(&mut self, now: Timestamp) -> Option<RecordId> {
        self.due.peek().filter(|Reverse((due, _))| *due <= now)?;
        self.due.pop().map(|Reverse((_, id))| id)
    }

    /// A page of `records`: the lowest that it asks for, in the order of their identities.
    fn page<'r>(
        page: &PageRequest,
        records: impl Iterator<Item = (&'r RecordId, &'r Box<Record>)>,
    ) -> Result<Page, Error> {
        let (low, high) = page.scope.as_ref().map_or((LOWEST, HIGHEST), RecordId::range);
        let after = page.after.as_ref().map(Cursor::id).transpose()?;
        let asked_for = |id: &RecordId| (low..=high).contains(id) && after.is_none_or(|after| *id > after);
        let mut found: Vec<_> = records.filter(|(id, _)| asked_for(id)).collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found.truncate(page.limit.min(PAGE_RECORDS_MAX));
        let records: Result<_, _> = found.into_iter().map(|(id, record)| checked(*id, record).cloned()).collect();
        Ok(Page::by_id(records?, page.limit))
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

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move { Ok(self.change(lease.id, |record, now| machine::forget(record, &lease, now))) })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let (found, now) = self.at(|records, now| (records.by_id.get(&id).map(|record| (**record).clone()), now));
            found.as_ref().map(|record| checked(id, record)).transpose()?;
            Ok(At { value: found, now })
        })
    }

    fn durability(&self) -> Durability {
        Durability::Process
    }

    fn clock_uncertainty(&self) -> Duration {
        Duration::ZERO
    }
}

impl Sweep for Store {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(async move { Ok(self.at(|records, now| records.sweep(limit, now))) })
    }
}

impl Inspect for Store {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(
            async move { self.at(|records, now| Ok(At { value: Records::page(&page, records.by_id.iter())?, now })) },
        )
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            self.at(|records, now| {
                let running = records.running.iter().map(|id| (id, &records.by_id[id]));
                let lapsed = running.filter(|(_, record)| match record.state {
                    State::Running { lease_ends_at, .. } => lease_ends_at <= now,
                    State::Completed { .. } => false,
                });
                let page = PageRequest { scope: None, after, limit };
                Ok(At { value: Records::page(&page, lapsed)?, now })
            })
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(async move {
            let count = self.at(|records, _| records.scopes.get(&scope).copied());
            Ok(Count::up_to(count.unwrap_or(0), limit))
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory::Store")
    }
}

#[cfg(test)]
mod tests;
