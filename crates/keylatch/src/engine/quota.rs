//! How many live records a scope may have.
//!
//! A count of the store at every claim would cost more than the claim. So each count grants an allowance: a part
//! of what is left, to be used up before the scope is counted again. With several processes a few more records
//! than the limit may pass.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::store::{Error, Store};
use crate::{Limits, RecordId, Scope};

/// How long a scope that was found full is taken for full.
const FULL_FOR: Duration = Duration::from_secs(1);
/// What a scope may claim before its first count: most callers never reach it, and are never counted.
const UNSEEN_CLAIMS: u64 = 100;
/// Scopes remembered at once; past this all are counted anew.
const SCOPES_MAX: usize = 10_000;

/// What each scope may still claim before it is counted again.
#[derive(Debug)]
pub(super) struct Quotas {
    records_max: u64,
    scopes: Mutex<HashMap<[u8; 16], Allowance>>,
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

    /// Whether `scope` may have another record.
    pub(super) async fn admit(
        &self,
        store: &dyn Store,
        id: &RecordId,
        scope: &Scope,
        now: Instant,
    ) -> Result<bool, Error> {
        let mut name = [0; 16];
        name.copy_from_slice(&id.as_bytes()[..16]);
        if let Some(known) = self.known(name, now) {
            return Ok(known);
        }
        let records = store.count(scope.clone(), self.records_max).await?;
        let allowance = match self.records_max.saturating_sub(records) {
            0 => Allowance::FullSince(now),
            left => Allowance::Claims(left / 4),
        };
        self.scopes.lock().insert(name, allowance);
        Ok(matches!(allowance, Allowance::Claims(_)))
    }

    /// The answer, where it needs no count.
    fn known(&self, name: [u8; 16], now: Instant) -> Option<bool> {
        let mut scopes = self.scopes.lock();
        if scopes.len() >= SCOPES_MAX {
            scopes.clear();
        }
        let unseen = Allowance::Claims(UNSEEN_CLAIMS.min(self.records_max / 4));
        match scopes.entry(name).or_insert(unseen) {
            Allowance::Claims(left @ 1..) => {
                *left -= 1;
                Some(true)
            }
            Allowance::FullSince(since) if now < *since + FULL_FOR => Some(false),
            _ => None,
        }
    }
}
