//! The contract of a store: each write asks the machine, under one lock.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use keylatch_core::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch_core::store::{
    self, Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, PAGE_RECORDS_MAX, Page, PageRequest,
    Sweep, Swept,
};
use keylatch_core::{Lease, Record, RecordId, Scope, State, Timestamp};

use crate::Store;

impl Store {
    /// Replaces a record by what `write` returns.
    fn change(&self, lease: Lease, write: impl FnOnce(&Record, Timestamp) -> Change) -> Reply<Applied> {
        let records = &mut self.state.lock().records;
        let now = self.clock.now();
        let applied = match records.get(&lease.id).map_or(Change::None, |record| write(record, now)) {
            Change::None => Applied::Lost,
            Change::Write(record) => {
                records.insert(lease.id, record);
                Applied::Applied(now)
            }
            Change::Remove => {
                records.remove(&lease.id);
                Applied::Applied(now)
            }
        };
        reply(Ok(applied))
    }

    fn page(&self, page: &PageRequest, wanted: impl Fn(&Record, Timestamp) -> bool) -> Reply<At<Page>> {
        let (records, now) = (&self.state.lock().records, self.clock.now());
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        let after = match page.after.as_ref().map(Cursor::id).transpose() {
            Ok(after) => after,
            Err(error) => return reply(Err(error)),
        };
        let mut found = Vec::new();
        for (id, record) in records.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)) {
            let record = match own(*id, record) {
                Ok(record) => record,
                Err(error) => return reply(Err(error)),
            };
            let of_scope = page.scope.as_ref().is_none_or(|scope| record.scope == *scope);
            if found.len() < limit && of_scope && wanted(record, now) {
                found.push(record.clone());
            }
        }
        reply(Ok(At { value: Page::by_id(found, limit), now }))
    }

    /// Stores a copy of the record `from` under `to`, as a damaged store would.
    pub fn misplace(&self, from: RecordId, to: RecordId) {
        let records = &mut self.state.lock().records;
        let record = records[&from].clone();
        records.insert(to, record);
    }
}

type Reply<T> = BoxFuture<'static, Result<T, Error>>;

fn reply<T: Send + 'static>(result: Result<T, Error>) -> Reply<T> {
    Box::pin(ready(result))
}

/// The record, if it is the one that belongs under `id`.
pub(crate) fn own(id: RecordId, record: &Record) -> Result<&Record, Error> {
    if record.id() == id { Ok(record) } else { Err(Error::new(ErrorKind::Corrupt, "another's record")) }
}

impl store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        let (records, id) = (&mut self.state.lock().records, claim.id());
        let now = self.clock.now();
        let previous = match records.get(&id).map(|record| own(id, record)).transpose() {
            Ok(previous) => previous.cloned(),
            Err(error) => return reply(Err(error)),
        };
        let value = machine::claim(previous, &claim, now);
        if let Claimed::Won(record) = &value {
            records.insert(id, record.clone());
        }
        reply(Ok(At { value, now }))
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
        self.change(lease, |record, now| {
            machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        self.change(lease, |record, now| {
            machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        self.change(lease, |record, now| machine::release(record, &lease, end, now))
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        self.change(lease, |record, now| machine::resolve(record, &lease, &resolution, now))
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        self.change(lease, |record, now| machine::forget(record, &lease, now))
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        let (records, now) = (&self.state.lock().records, self.clock.now());
        let found = records.get(&id).map(|record| own(id, record)).transpose();
        reply(found.map(|record| At { value: record.cloned(), now }))
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
        let records = &mut self.state.lock().records;
        let (now, mut swept) = (self.clock.now(), Swept::default());
        let ids: Vec<_> = records.keys().copied().collect();
        for id in ids {
            if swept.total() == limit {
                break;
            }
            match machine::sweep(&records[&id], now) {
                Change::None => {}
                Change::Write(record) => {
                    records.insert(id, record);
                    swept.tombstoned += 1;
                }
                Change::Remove => {
                    records.remove(&id);
                    swept.removed += 1;
                }
            }
        }
        reply(Ok(swept.within(limit)))
    }
}

impl Inspect for Store {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.page(&page, |_, _| true)
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.page(&PageRequest { scope: None, after, limit }, |record, now| match record.state {
            State::Running { lease_ends_at, .. } => lease_ends_at <= now,
            State::Completed { .. } => false,
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        let of_scope = self.state.lock().records.values().filter(|record| record.scope == scope).count();
        reply(Ok(Count::up_to(of_scope as u64, limit)))
    }
}
