//! The keys of a client: what each is bound to, and which are in use.

use std::collections::HashMap;

use keylatch_core::{Fingerprint, Key};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

/// How many keys a client remembers, each with the fingerprint of its request: about 2 MB with keys of 36 characters.
const KEYS_BOUND_MAX: usize = 10_000;

pub(crate) struct Bound {
    requests: Cache<Key, Fingerprint>,
    running: Mutex<HashMap<Key, usize>>,
}

impl Default for Bound {
    fn default() -> Self {
        Self { requests: Cache::new(KEYS_BOUND_MAX), running: Mutex::default() }
    }
}

impl Bound {
    /// Binds `key` to the request with this fingerprint, and marks it as in use until the guard is dropped. `None` if it
    /// is bound to another request.
    pub(crate) fn enter(&self, key: &Key, fingerprint: Fingerprint) -> Option<InUse<'_>> {
        let bound = self.requests.get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(fingerprint));
        let Ok(bound) = bound;
        if bound != fingerprint {
            return None;
        }
        *self.running.lock().entry(key.clone()).or_default() += 1;
        Some(InUse { bound: self, key: key.clone() })
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
