//! How many live records a scope may have.
//!
//! To count the records at every claim would cost more than the claim. So a scope is first counted at a random claim,
//! one in [`CLAIMS_PER_FIRST_COUNT`], and each count grants an allowance: a part of what is left, to be used up before
//! the scope is counted again. A few records more than the limit may pass, and with several processes a few more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast;
use parking_lot::Mutex;

use crate::store::{Error, Store};
use crate::{Limits, Owner, Scope};

/// How long a scope that was found full counts as full.
const FULL_FOR: Duration = Duration::from_secs(1);
/// Of the claims in scopes without an allowance, one in this many counts its scope: most callers are never counted.
const CLAIMS_PER_FIRST_COUNT: u64 = 100;
/// Allowances remembered at once; beyond this, all are forgotten.
const SCOPES_MAX: usize = 10_000;

/// What each scope may still claim before it is counted again.
#[derive(Debug)]
pub(super) struct Quotas {
    records_max: u64,
    scopes: Mutex<HashMap<[u8; 16], Allowance, fast::RandomState>>,
}

#[derive(Debug, Clone, Copy)]
enum Allowance {
    Claims(u64),
    FullSince(Instant),
}

impl Quotas {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { records_max: limits.records_per_scope_max, scopes: Mutex::default() }
    }

    /// Whether `scope` may have another record, for a claim by `owner`.
    pub(super) async fn admit(&self, store: &dyn Store, scope: &Scope, owner: Owner) -> Result<bool, Error> {
        let name = *scope.digest();
        if let Some(known) = self.known(name, owner) {
            return Ok(known);
        }
        let now = Instant::now();
        let records = store.count(scope.clone(), self.records_max).await?.at_least();
        let allowance = match self.records_max.saturating_sub(records) {
            0 => Allowance::FullSince(now),
            left => Allowance::Claims(left / 4),
        };
        let mut scopes = self.scopes.lock();
        if scopes.len() >= SCOPES_MAX {
            scopes.clear();
        }
        scopes.insert(name, allowance);
        Ok(matches!(allowance, Allowance::Claims(_)))
    }

    /// The answer, if it needs no count.
    fn known(&self, name: [u8; 16], owner: Owner) -> Option<bool> {
        match self.scopes.lock().get_mut(&name) {
            None if self.counts(owner) => None,
            None => Some(true),
            Some(Allowance::Claims(left @ 1..)) => {
                *left -= 1;
                Some(true)
            }
            Some(Allowance::FullSince(since)) if since.elapsed() < FULL_FOR => Some(false),
            Some(_) => None,
        }
    }

    /// Whether this claim counts its scope. If the limit is low, every claim does. Callers choose their keys, but
    /// cannot predict which claims count, because an owner is random.
    fn counts(&self, owner: Owner) -> bool {
        let one_in = CLAIMS_PER_FIRST_COUNT.min(self.records_max / 4).max(1);
        let [low, high, ..] = *owner.as_bytes();
        u64::from(u16::from_le_bytes([low, high])).is_multiple_of(one_in)
    }
}
