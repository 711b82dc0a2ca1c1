//! Final outcomes that are kept in this process. A final outcome never changes, so the cache is never wrong. Only
//! claims must reach the store. An operator can take an answer away, in any process: so the store is asked again once the
//! cached answer has reached an age.

use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache as Lru, DefaultLifecycle};

use super::answer::{Final, Request};
use crate::RecordId;

/// A cache of final outcomes, bounded in bytes and in age.
#[derive(Debug)]
pub(super) struct Cache {
    entries: Option<Lru<RecordId, Final, Size, RandomState>>,
    age_max: Duration,
}

#[derive(Debug, Clone)]
struct Size;

impl Weighter<RecordId, Final> for Size {
    fn weight(&self, _: &RecordId, value: &Final) -> u64 {
        value.size()
    }
}

impl Cache {
    /// Keeps at most `bytes_max` bytes, none at all if that is zero, and gives an outcome until the store was asked for it
    /// `age_max` ago.
    pub(super) fn new(bytes_max: u64, age_max: Duration) -> Self {
        /// A common size of an API's answer, to size the tables.
        const TYPICAL_BYTES: u64 = 1024;
        let items = usize::try_from(bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX).max(16);
        let entries = (bytes_max > 0)
            .then(|| Lru::with(items, bytes_max, Size, RandomState::default(), DefaultLifecycle::default()));
        Self { entries, age_max }
    }

    /// The final outcome for `request`, if it is cached, not expired and not too old.
    pub(super) fn find(&self, id: &RecordId, request: &Request) -> Option<Final> {
        let found = self.entries.as_ref()?.get(id)?;
        let now = Instant::now();
        (found.answers(request, now) && found.age(now) < self.age_max).then_some(found)
    }

    /// Whether it keeps anything.
    pub(super) fn keeps(&self) -> bool {
        self.entries.is_some()
    }

    pub(super) fn keep(&self, id: RecordId, outcome: &Final) {
        if let Some(cache) = &self.entries {
            cache.insert(id, outcome.clone());
        }
    }
}
