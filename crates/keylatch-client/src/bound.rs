//! The keys of a client: what each is bound to, and which are in use.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::BuildHasher as _;

use foldhash::quality::RandomState;
use keylatch_core::Key;
use parking_lot::Mutex;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::request::Identity;

/// How many keys a client remembers, each with a hash of its request: less than 2 MB with keys of 36 characters.
const KEYS_BOUND_MAX: usize = 10_000;

pub(crate) struct Bound {
    /// The hashes never leave the process, and nobody chooses requests so that they collide: 64 bits are enough.
    requests: Cache<Key, u64, UnitWeighter, RandomState>,
    hasher: RandomState,
    running: Mutex<HashMap<Key, usize>>,
}

impl Default for Bound {
    fn default() -> Self {
        let hasher = RandomState::default();
        let lifecycle = DefaultLifecycle::default();
        let requests = Cache::with(KEYS_BOUND_MAX, KEYS_BOUND_MAX as u64, UnitWeighter, hasher.clone(), lifecycle);
        Self { requests, hasher, running: Mutex::default() }
    }
}

impl Bound {
    /// Binds `key` to the request. Returns whether it was free, or bound to the same request.
    pub(crate) fn bind(&self, key: &Key, request: &Identity<'_>) -> bool {
        let hash = self.hasher.hash_one(request);
        let Ok(bound) = self.requests.get_or_insert_with(key, || Ok::<_, Infallible>(hash));
        bound == hash
    }

    /// Marks `key` as in use until the guard is dropped.
    pub(crate) fn enter(&self, key: &Key) -> InUse<'_> {
        *self.running.lock().entry(key.clone()).or_default() += 1;
        InUse { bound: self, key: key.clone() }
    }

    /// Whether a call has `key` now.
    pub(crate) fn is_in_use(&self, key: &Key) -> bool {
        self.running.lock().contains_key(key)
    }
}

/// A key that a call has.
pub(crate) struct InUse<'b> {
    bound: &'b Bound,
    key: Key,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut running = self.bound.running.lock();
        if let Some(calls) = running.get_mut(&self.key) {
            *calls -= 1;
            if *calls == 0 {
                running.remove(&self.key);
            }
        }
    }
}
