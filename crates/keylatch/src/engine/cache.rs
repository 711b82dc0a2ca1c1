//! Final outcomes that are kept in this process. A final outcome never changes, so the cache is never wrong. Only
//! claims must reach the store.

use std::time::Instant;

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache as Lru, DefaultLifecycle};

use super::answer::{Final, Request};
use crate::RecordId;

/// A cache of final outcomes, bounded in bytes.
#[derive(Debug)]
pub(super) struct Cache(Option<Lru<RecordId, Final, Size, RandomState>>);

#[derive(Debug, Clone)]
struct Size;

impl Weighter<RecordId, Final> for Size {
    fn weight(&self, _: &RecordId, value: &Final) -> u64 {
        value.size()
    }
}

impl Cache {
    /// Keeps at most `bytes_max` bytes; none at all if that is zero.
    pub(super) fn new(bytes_max: u64) -> Self {
        /// A common size of an API's answer, to size the tables.
        const TYPICAL_BYTES: u64 = 1024;
        let items = usize::try_from(bytes_max / TYPICAL_BYTES).unwrap_or(usize::MAX).max(16);
        Self(
            (bytes_max > 0)
                .then(|| Lru::with(items, bytes_max, Size, RandomState::default(), DefaultLifecycle::default())),
        )
    }

    /// The final outcome for `request`, if it is cached and not expired.
    pub(super) fn find(&self, id: &RecordId, request: &Request) -> Option<Final> {
        self.0.as_ref()?.get(id).filter(|found| found.answers(request, Instant::now()))
    }

    /// Whether it keeps anything.
    pub(super) fn keeps(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn keep(&self, id: RecordId, outcome: &Final) {
        if let Some(cache) = &self.0 {
            cache.insert(id, outcome.clone());
        }
    }
}
