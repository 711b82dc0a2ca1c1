//! Records by identity.

use std::hash::BuildHasher as _;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::{Record, RecordId, Timestamp};

/// Records by identity, in places that never move.
#[derive(Default)]
pub(super) struct Records {
    hasher: RandomState,
    /// Small entries: much of the table stays near the processor, and little moves when it grows.
    index: HashTable<Entry>,
    /// All of [`BLOCK_PLACES`], up to the last.
    blocks: Vec<Vec<Place>>,
    /// Places without a record.
    free: Vec<PlaceNo>,
}

pub(super) type PlaceNo = u32;

const BLOCK_PLACES: usize = 32;

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    place: PlaceNo,
}

impl Entry {
    /// The whole hash of a table, which looks at both of its ends.
    fn spread(hash: u32) -> u64 {
        u64::from(hash) << 32 | u64::from(hash)
    }
}

/// Where a record stands.
#[derive(Default)]
pub(super) struct Place {
    pub(super) held: Option<Held>,
    /// The instant under which it is among those that are due.
    pub(super) scheduled: Option<Timestamp>,
    /// Whether it has changed since then.
    pub(super) changed: bool,
}

/// A record, and the identity under which it is stored.
pub(super) struct Held {
    pub(super) id: RecordId,
    pub(super) record: Record,
}

impl Records {
    pub(super) fn find(&self, id: &RecordId) -> Option<PlaceNo> {
        let hash = self.hash(id);
        let found = self.index.find(Entry::spread(hash), |entry| entry.hash == hash && self.holds(entry.place, id))?;
        Some(found.place)
    }

    pub(super) fn get(&self, id: &RecordId) -> Option<&Record> {
        self.find(id).and_then(|place| self.at(place))
    }

    /// The record in a place.
    pub(super) fn at(&self, place: PlaceNo) -> Option<&Record> {
        self.place(place).held.as_ref().map(|held| &held.record)
    }

    pub(super) fn place(&self, place: PlaceNo) -> &Place {
        &self.blocks[place as usize / BLOCK_PLACES][place as usize % BLOCK_PLACES]
    }

    pub(super) fn place_mut(&mut self, place: PlaceNo) -> &mut Place {
        &mut self.blocks[place as usize / BLOCK_PLACES][place as usize % BLOCK_PLACES]
    }

    /// Writes the record of an identity that has none.
    pub(super) fn insert(&mut self, id: RecordId, record: Record) -> PlaceNo {
        let held = Some(Held { id, record });
        let place = match self.free.pop() {
            Some(place) => {
                self.place_mut(place).held = held;
                place
            }
            None => self.new_place(held),
        };
        let hash = self.hash(&id);
        self.index.insert_unique(Entry::spread(hash), Entry { hash, place }, |entry| Entry::spread(entry.hash));
        place
    }

    /// Removes the record in a place.
    pub(super) fn remove(&mut self, place: PlaceNo) -> Option<Held> {
        let held = self.place_mut(place).held.take()?;
        let hash = Entry::spread(self.hash(&held.id));
        if let Ok(entry) = self.index.find_entry(hash, |entry| entry.place == place) {
            entry.remove();
        }
        self.free.push(place);
        Some(held)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.blocks.iter().flatten().filter_map(|place| place.held.as_ref())
    }

    fn new_place(&mut self, held: Option<Held>) -> PlaceNo {
        if self.blocks.last().is_none_or(|block| block.len() == BLOCK_PLACES) {
            self.blocks.push(Vec::with_capacity(BLOCK_PLACES));
        }
        let before = self.blocks.len() - 1;
        let block = &mut self.blocks[before];
        block.push(Place { held, ..Place::default() });
        let place = before * BLOCK_PLACES + block.len() - 1;
        PlaceNo::try_from(place).expect("so many records do not fit into memory")
    }

    fn holds(&self, place: PlaceNo, id: &RecordId) -> bool {
        self.place(place).held.as_ref().is_some_and(|held| held.id == *id)
    }

    /// By a secret of this process, so that nobody can choose keys that stand in each other's way.
    fn hash(&self, id: &RecordId) -> u32 {
        self.hasher.hash_one(id) as u32
    }
}
