//! What the store counts: see the table of all names in `engine/telemetry.rs`.

use std::time::Instant;

use metrics::Histogram;

/// Handles made once, for one kind of batch.
pub(super) struct BatchMetrics {
    records: Histogram,
    seconds: Histogram,
}

impl BatchMetrics {
    pub(super) fn new(operation: &'static str) -> Self {
        Self {
            records: metrics::histogram!("keylatch_batch_records", "operation" => operation),
            seconds: metrics::histogram!("keylatch_batch_seconds", "operation" => operation),
        }
    }

    /// Notes a batch of so many records that was begun at `started`.
    pub(super) fn record(&self, records: usize, started: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred records")]
        self.records.record(records as f64);
        self.seconds.record(started.elapsed());
    }
}
