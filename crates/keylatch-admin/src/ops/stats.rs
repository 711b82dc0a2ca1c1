//! Numbers, each counted no further than a bound.

use std::time::{Duration, Instant};

use keylatch::machine::{self, phase};
use keylatch::outbox::Backlog;
use keylatch::store::{At, Count, Durability};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Error, Operator, records};
use crate::view::{self, instant};

/// How far anything is counted.
pub(super) const COUNTED_MAX: u64 = 10_000;
/// Records in one step of counting.
const STEP: usize = 500;
/// How long runs that have lapsed are counted.
const COUNTING_MAX: Duration = Duration::from_millis(300);

/// Whose records to count, beside everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsOf {
    /// Count the records of this caller, for `operation`.
    pub caller: Option<String>,
    /// The operation of `caller`; if it is left out, the one without a name.
    pub operation: Option<String>,
}

/// How much there is. It counts no record of the store one by one, so that it takes no longer on a large store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// The store.
    pub store: StoreStats,
    /// Runs that nobody works on.
    pub lapsed: LapsedStats,
    /// The records of the scope that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<CountView>,
    /// The events; `null` if the store has no outbox.
    pub outbox: Option<OutboxStats>,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoreStats {
    /// Its clock.
    pub now: view::Instant,
    /// What an acknowledged write survives: `process` (nothing), `replica` (a crash of the process) or `disk`.
    pub durability: &'static str,
    /// How far apart two readings of its clock can be, in milliseconds.
    pub clock_uncertainty_ms: u64,
}

/// A number, counted up to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct CountView {
    /// How many there are for certain.
    pub count: u64,
    /// Whether there may be more.
    pub at_least: bool,
}

impl From<Count> for CountView {
    fn from(count: Count) -> Self {
        Self { count: count.at_least(), at_least: matches!(count, Count::AtLeast(_)) }
    }
}

/// Runs that nobody works on: their lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct LapsedStats {
    /// A retry takes over.
    pub abandoned: u64,
    /// Somebody must resolve them.
    pub unknown: u64,
    /// Whether there may be more.
    pub at_least: bool,
}

/// The events of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutboxStats {
    /// Events that wait to be published.
    pub waiting: CountView,
    /// Events that were refused and hold back their keys.
    pub refused: CountView,
    /// Events behind those.
    pub held: CountView,
    /// Events that were put aside.
    pub set_aside: CountView,
    /// When the first event that waits was written.
    pub oldest_at: Option<view::Instant>,
    /// How long it has waited, in milliseconds.
    pub oldest_ms: Option<u64>,
}

impl From<At<Backlog>> for OutboxStats {
    fn from(At { value, now }: At<Backlog>) -> Self {
        let waited = |oldest: keylatch::Timestamp| u64::try_from(oldest.until(now).as_millis()).unwrap_or(u64::MAX);
        Self {
            waiting: value.waiting.into(),
            refused: value.refused.into(),
            held: value.held.into(),
            set_aside: value.set_aside.into(),
            oldest_at: value.oldest.map(instant),
            oldest_ms: value.oldest.map(waited),
        }
    }
}

impl Operator {
    /// How much there is.
    ///
    /// # Errors
    ///
    /// If the request cannot be used, or the store fails.
    pub async fn stats(&self, of: StatsOf) -> Result<Stats, Error> {
        let (lapsed, now) = self.count_lapsed().await?;
        let records = match records::scope_of(of.caller, of.operation)? {
            Some(scope) => Some(self.store.count(scope, COUNTED_MAX).await?.into()),
            None => None,
        };
        let outbox = match &self.outbox {
            Some(outbox) => Some(outbox.backlog(COUNTED_MAX).await?.into()),
            None => None,
        };
        let durability = match self.store.durability() {
            Durability::Process => "process",
            Durability::Replica => "replica",
            Durability::Disk => "disk",
            _ => "other",
        };
        let uncertainty = self.store.clock_uncertainty().as_millis();
        let store = StoreStats {
            now: instant(now),
            durability,
            clock_uncertainty_ms: u64::try_from(uncertainty).unwrap_or(u64::MAX),
        };
        Ok(Stats { store, lapsed, records, outbox })
    }

    async fn count_lapsed(&self) -> Result<(LapsedStats, keylatch::Timestamp), Error> {
        let started = Instant::now();
        let mut stats = LapsedStats { abandoned: 0, unknown: 0, at_least: false };
        let mut after = None;
        loop {
            let At { value: page, now } = self.store.lapsed(after, STEP).await?;
            for record in &page.records {
                match phase(Some(record), now) {
                    machine::Phase::Abandoned => stats.abandoned += 1,
                    machine::Phase::Unknown => stats.unknown += 1,
                    _ => {}
                }
            }
            after = page.next;
            let is_enough = stats.abandoned + stats.unknown >= COUNTED_MAX || started.elapsed() >= COUNTING_MAX;
            if after.is_none() || is_enough {
                stats.at_least = after.is_some();
                return Ok((stats, now));
            }
        }
    }
}
