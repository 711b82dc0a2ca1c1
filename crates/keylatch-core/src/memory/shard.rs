//! Some of the records, under one lock.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use super::misplaced;
use super::records::{Held, PlaceNo, Records};
use crate::machine::{self, Change, Claim, Claimed};
use crate::store::{Applied, Error, PageRequest, Swept};
use crate::{Record, RecordId, Scope, Timestamp};

/// Some of the records, chosen by their keys, so that one busy scope is spread over all shards.
#[derive(Default)]
pub(super) struct Shard {
    records: Records,
    /// How many of them each scope has.
    scopes: HashMap<[u8; 16], u64, RandomState>,
    /// The same records, those without end left out, by the instant at which a sweep has something to do; as they were
    /// at the last sweep.
    due: BTreeSet<(Timestamp, PlaceNo)>,
    /// The places that have changed since, each once: most records change twice between two sweeps.
    changed: Vec<PlaceNo>,
}

impl Shard {
    pub(super) fn claim(&mut self, id: RecordId, claim: &Claim, now: Timestamp) -> Result<Claimed, Error> {
        let place = self.records.find(&id);
        let previous = place.and_then(|place| self.records.at(place));
        if previous.is_some_and(|record| !record.belongs_to(claim.scope(), claim.key())) {
            return Err(misplaced());
        }
        let claimed = machine::claim(previous.cloned(), claim, now);
        if let Claimed::Won(record) = &claimed {
            self.put_in(place, id, record.clone());
        }
        Ok(claimed)
    }

    /// Makes the change that `decide` wants of the record, if there is one.
    pub(super) fn change(&mut self, id: RecordId, now: Timestamp, decide: impl FnOnce(&Record) -> Change) -> Applied {
        let Some(place) = self.records.find(&id) else { return Applied::Lost };
        match self.records.at(place).map_or(Change::None, decide) {
            Change::None => return Applied::Lost,
            Change::Remove => self.remove(place),
            Change::Write(record) => self.write(place, record),
        }
        Applied::Applied(now)
    }

    pub(super) fn read(&self, id: &RecordId) -> Option<Record> {
        self.records.get(id).cloned()
    }

    /// How many records of `scope` are here.
    pub(super) fn of_scope(&self, scope: &Scope) -> u64 {
        self.scopes.get(scope.digest()).copied().unwrap_or(0)
    }

    #[cfg(feature = "conformance")]
    pub(super) fn put(&mut self, id: RecordId, record: Record) {
        self.put_in(self.records.find(&id), id, record);
    }

    /// Writes a record in the place that it has, or in a new one.
    fn put_in(&mut self, place: Option<PlaceNo>, id: RecordId, record: Record) {
        match place {
            Some(place) => self.write(place, record),
            None => self.insert(id, record),
        }
    }

    fn insert(&mut self, id: RecordId, record: Record) {
        let place = self.records.insert(id, record);
        *self.scopes.entry(id.scope_digest()).or_default() += 1;
        self.changed(place);
    }

    fn write(&mut self, place: PlaceNo, record: Record) {
        if let Some(held) = &mut self.records.place_mut(place).held {
            held.record = record;
        }
        self.changed(place);
    }

    fn remove(&mut self, place: PlaceNo) {
        let Some(Held { id, .. }) = self.records.remove(place) else { return };
        if let Entry::Occupied(mut in_scope) = self.scopes.entry(id.scope_digest()) {
            *in_scope.get_mut() -= 1;
            if *in_scope.get() == 0 {
                in_scope.remove();
            }
        }
        self.changed(place);
    }

    fn changed(&mut self, no: PlaceNo) {
        let place = self.records.place_mut(no);
        if !place.changed {
            place.changed = true;
            self.changed.push(no);
        }
    }

    /// Brings `due` up to date.
    fn schedule(&mut self) {
        while let Some(no) = self.changed.pop() {
            let place = self.records.place_mut(no);
            let next = place.held.as_ref().and_then(|held| machine::due_at(&held.record));
            let before = std::mem::replace(&mut place.scheduled, next);
            place.changed = false;
            if before == next {
                continue;
            }
            if let Some(before) = before {
                self.due.remove(&(before, no));
            }
            if let Some(next) = next {
                self.due.insert((next, no));
            }
        }
    }

    pub(super) fn sweep(&mut self, limit: usize, now: Timestamp, swept: &mut Swept) {
        self.schedule();
        while swept.total() < limit {
            let Some(&(due, place)) = self.due.first().filter(|(due, _)| *due <= now) else { return };
            match self.records.at(place).map_or(Change::None, |record| machine::sweep(record, now)) {
                Change::None => unreachable!("a record that is due at {due} has something to sweep at {now}"),
                Change::Write(record) => {
                    self.write(place, record);
                    swept.buried += 1;
                }
                Change::Remove => {
                    self.remove(place);
                    swept.removed += 1;
                }
            }
            self.schedule();
        }
    }

    /// Merges this shard's part of the page into `first`, which holds the `limit` lowest so far.
    pub(super) fn list(
        &self,
        page: &PageRequest,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
        first: &mut BTreeMap<RecordId, Record>,
    ) {
        let (low, high) = page.scope.as_ref().map_or((LOWEST, HIGHEST), RecordId::range);
        let low = page.after.map_or(low, |after| low.max(after));
        let asked_for = |id: &RecordId| (low..=high).contains(id) && Some(*id) != page.after;
        for Held { id, record } in self.records.iter().filter(|held| asked_for(&held.id) && wanted(&held.record)) {
            if first.len() >= limit {
                match first.last_entry() {
                    Some(last) if *id < *last.key() => last.remove(),
                    _ => continue,
                };
            }
            first.insert(*id, record.clone());
        }
    }

    #[cfg(test)]
    pub(super) fn check_due(&mut self) {
        self.schedule();
        let due = self.records.iter().filter_map(|Held { id, record }| {
            Some((machine::due_at(record)?, self.records.find(id).expect("it is there")))
        });
        assert_eq!(self.due, due.collect());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.iter().count()
    }
}

const LOWEST: RecordId = RecordId::from_bytes([0; 32]);
const HIGHEST: RecordId = RecordId::from_bytes([0xff; 32]);
