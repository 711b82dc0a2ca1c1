//! What a consumer has done so far.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::telemetry::{self, Added};

/// What a consumer has done since it was made, in this process. A clone sees the same.
#[derive(Debug, Clone, Default)]
pub struct Stats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    counts: [AtomicU64; COUNTS],
    stopped: Mutex<Vec<Stopped>>,
    stopped_counted: Mutex<Added>,
}

const COUNTS: usize = 10;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Messages whose effect was committed.
    Applied,
    /// Messages that were passed, because their ids were known.
    Known,
    /// Messages without an id among those that were applied: the same message sent twice takes effect twice.
    WithoutId,
    /// Tries that failed and were followed by another.
    Retried,
    /// Messages that became dead letters.
    Buried,
    /// Dead letters that were applied after all.
    Replayed,
    /// Batches that were not committed, because somebody else has the place.
    Fenced,
    /// Places that were taken and had not been given back.
    TakenOver,
    /// Times that the last message was read again and was the same.
    SameLog,
    /// Clients that were replaced after a fatal error.
    Clients,
}

/// A partition that stands still until an operator acts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Why, and how to go on.
    pub why: String,
}

impl Stats {
    /// How often it has happened.
    pub fn of(&self, count: Count) -> u64 {
        self.0.counts[count as usize].load(Ordering::Relaxed)
    }

    /// The partitions of this process that stand still at the moment.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.0.stopped.lock().clone()
    }

    pub(crate) fn add(&self, count: Count, times: usize) {
        self.0.counts[count as usize].fetch_add(times as u64, Ordering::Relaxed);
        telemetry::counted(count, times as u64);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    pub(crate) fn set_stopped(&self, stopped: Vec<Stopped>) {
        self.0.stopped_counted.lock().set(telemetry::stopped(), stopped.len() as f64);
        *self.0.stopped.lock() = stopped;
    }
}
