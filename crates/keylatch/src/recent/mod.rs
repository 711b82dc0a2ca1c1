//! What this process saw of its latest records: a bounded memory for the time line of one record.
//!
//! A store keeps what a record is, and not what came of each request. So a store cannot say how often a record was
//! replayed, who waited, or what differed in a request that was refused. A [`Recent`] remembers that, for a bounded
//! number of records, and only for requests that came to this process: other processes have their own, and it ends with
//! the process. It is never needed for an answer.
//!
//! It keeps identities, times and numbers, and nothing that a request said. To tell which part of a request differed it
//! keeps a hash of each part, with a key that is random for each process.

mod parts;

use std::collections::HashMap;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

pub(crate) use self::parts::Parts;
pub use self::parts::{Differs, Part};
use crate::{Clock, Epoch, Fingerprint, RecordId, Timestamp};

/// How many records a process remembers unless it says otherwise: 14 MB at most.
pub const RECENT_RECORDS: usize = 10_000;
/// How many events it remembers of each record. Equal events that follow each other are one.
pub const RECENT_EVENTS_MAX: usize = 24;

/// Locks that share the records, so that requests seldom wait for each other.
const SHARDS: usize = 16;

/// A memory of what this process saw of its latest records; clones share it.
///
/// An engine has none unless it gets one with [`Engine::with_recent`](crate::Engine::with_recent). Several engines may
/// share one.
#[derive(Clone)]
pub struct Recent(Arc<Inner>);

struct Inner {
    shards: Vec<Mutex<Shard>>,
    /// The records of one generation in one shard.
    generation_max: usize,
    clock: Clock,
    since: Timestamp,
}

/// Two generations: when the younger one is full, the older one is forgotten. A record that is seen again is young.
#[derive(Default)]
struct Shard {
    young: HashMap<RecordId, Entry, RandomState>,
    old: HashMap<RecordId, Entry, RandomState>,
}

/// What is remembered of one record.
#[derive(Default)]
struct Entry {
    /// The request that ran under the key or got its answer, as far as this process saw.
    owner: Option<(Fingerprint, Option<Parts>)>,
    events: VecDeque<Event>,
    forgotten: u64,
}

/// Something that this process saw, once or several times in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it was first seen, on this process's clock. The clock of the store may differ.
    pub first_at: Timestamp,
    /// When it was last seen.
    pub last_at: Timestamp,
    /// How often.
    pub times: u64,
    /// The longest time that one of these requests waited for a run of the same request; zero if none waited.
    pub waited_max: Duration,
    /// What it was.
    pub what: What,
}

/// What came of a request or of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A run began on a lease.
    Started {
        /// The epoch of its lease.
        epoch: Epoch,
        /// The attempt number for the same request, from 1.
        attempt: u32,
        /// Whether it took over from a run whose lease had ended without an outcome.
        takeover: bool,
    },
    /// A run began in a transaction. It may not commit.
    Began,
    /// The run ended, and its answer is recorded.
    Completed,
    /// The run ended without a recorded answer: its key is free, or in `AtMostOnce` its outcome may be unknown.
    NotRecorded,
    /// The run ended, and its record had another owner by then.
    LeaseLost,
    /// A request got the answer of an earlier run.
    Replayed,
    /// A request was refused, because the same request was running, or because the outcome of another one under its key
    /// was not known yet.
    InProgress,
    /// A request was refused, because its key belongs to another request.
    Mismatch {
        /// What differs from the request that this process last saw run or replayed under the key; `None` if it saw
        /// none, or if a service decides by itself which requests are the same.
        differs: Option<Differs>,
    },
    /// A request was refused, because the outcome is unknown.
    Unknown,
    /// A request was refused, because the retention of the answer is over.
    Expired,
    /// A request was refused, because a limit was reached.
    Quota,
    /// A request got no answer: the store failed, the handler misused its transaction, or the process shuts down.
    Failed,
}

/// What this process saw of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sightings {
    /// The events, the oldest first.
    pub events: Vec<Event>,
    /// How many earlier events are no longer remembered.
    pub forgotten: u64,
}

impl Recent {
    /// A memory of at most `records_max` records, and of [`RECENT_EVENTS_MAX`] events of each. It takes its memory as
    /// records come, at most about 1,400 bytes for each. Records that were not seen for the longest time go first, many
    /// at once.
    ///
    /// # Panics
    ///
    /// If `records_max` is less than 2. To remember nothing, give the engine none.
    pub fn new(records_max: usize) -> Self {
        assert!(records_max >= 2, "a `Recent` remembers at least 2 records; to remember nothing, leave it out");
        let shards = SHARDS.min(records_max / 2);
        let clock = Clock::system();
        let since = clock.now();
        Self(Arc::new(Inner {
            shards: std::iter::repeat_with(Mutex::default).take(shards).collect(),
            generation_max: records_max / shards / 2,
            clock,
            since,
        }))
    }

    /// What this process saw of the record `id`; `None` if nothing is remembered.
    pub fn of(&self, id: RecordId) -> Option<Sightings> {
        let shard = self.shard(id).lock();
        let Entry { events, forgotten, .. } = shard.young.get(&id).or_else(|| shard.old.get(&id))?;
        Some(Sightings { events: events.iter().copied().collect(), forgotten: *forgotten })
    }

    /// Since when it has been remembering, on this process's clock.
    pub fn since(&self) -> Timestamp {
        self.0.since
    }

    /// How many records are remembered.
    pub fn records(&self) -> usize {
        let records = |shard: &Mutex<Shard>| {
            let shard = shard.lock();
            shard.young.len() + shard.old.len()
        };
        self.0.shards.iter().map(records).sum()
    }

    /// Notes what came of a run.
    pub(crate) fn saw(&self, id: RecordId, what: What) {
        let now = self.0.clock.now();
        self.change(id, |entry| entry.push(what, Duration::ZERO, now));
    }

    /// Notes that a run of the request with `fingerprint` and `parts` begins.
    pub(crate) fn begins(&self, id: RecordId, (fingerprint, parts): (Fingerprint, Option<Parts>), what: What) {
        let now = self.0.clock.now();
        self.change(id, |entry| {
            entry.owner = Some((fingerprint, parts));
            entry.push(what, Duration::ZERO, now);
        });
    }

    /// Notes what a request with `fingerprint` and `parts` got.
    pub(crate) fn answered(
        &self,
        id: RecordId,
        (fingerprint, parts): (Fingerprint, Option<&Parts>),
        what: What,
        waited: Duration,
    ) {
        let now = self.0.clock.now();
        self.change(id, |entry| {
            let what = match what {
                What::Mismatch { .. } => What::Mismatch { differs: entry.differs(fingerprint, parts) },
                What::Replayed | What::Unknown | What::Expired => {
                    // The record says that this is its request.
                    if entry.owner.as_ref().is_none_or(|(owner, _)| *owner != fingerprint) {
                        entry.owner = Some((fingerprint, parts.copied()));
                    }
                    what
                }
                what => what,
            };
            entry.push(what, waited, now);
        });
    }

    fn shard(&self, id: RecordId) -> &Mutex<Shard> {
        // The last bytes are of a digest over the key too, so the records of one scope are in all shards.
        let [.., last] = *id.as_bytes();
        &self.0.shards[usize::from(last) % self.0.shards.len()]
    }

    fn change(&self, id: RecordId, change: impl FnOnce(&mut Entry)) {
        let mut shard = self.shard(id).lock();
        if let Some(entry) = shard.young.get_mut(&id) {
            return change(entry);
        }
        let mut entry = shard.old.remove(&id).unwrap_or_default();
        change(&mut entry);
        let forgotten = if shard.young.len() < self.0.generation_max {
            None
        } else {
            let young = std::mem::take(&mut shard.young);
            Some(std::mem::replace(&mut shard.old, young))
        };
        shard.young.insert(id, entry);
        drop(shard);
        // Freed after the lock.
        drop(forgotten);
    }
}

impl Entry {
    fn push(&mut self, what: What, waited: Duration, now: Timestamp) {
        if let Some(last) = self.events.back_mut().filter(|last| last.what == what) {
            last.last_at = last.last_at.max(now);
            last.times = last.times.saturating_add(1);
            last.waited_max = last.waited_max.max(waited);
            return;
        }
        if self.events.len() >= RECENT_EVENTS_MAX {
            let oldest = self.events.pop_front();
            self.forgotten = self.forgotten.saturating_add(oldest.map_or(0, |oldest| oldest.times));
        }
        self.events.push_back(Event { first_at: now, last_at: now, times: 1, waited_max: waited, what });
    }

    /// What differs between the owner of the key and a request that was refused for it.
    fn differs(&self, fingerprint: Fingerprint, parts: Option<&Parts>) -> Option<Differs> {
        let (owner, of_owner) = self.owner.as_ref()?;
        // With the same fingerprint, the owner has changed elsewhere since this process saw it.
        if *owner == fingerprint {
            return None;
        }
        Some(of_owner.as_ref()?.differ(parts?)).filter(|differs| !differs.is_empty())
    }
}

impl What {
    /// A name for it, which does not change between versions: `started`, `replayed` and so on.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Began => "began",
            Self::Completed => "completed",
            Self::NotRecorded => "not-recorded",
            Self::LeaseLost => "lease-lost",
            Self::Replayed => "replayed",
            Self::InProgress => "in-progress",
            Self::Mismatch { .. } => "mismatch",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Quota => "quota",
            Self::Failed => "failed",
        }
    }
}

/// Shows how much it holds, and no identities.
impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("records", &self.records()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
