//! What the store counts: see the manual's page on [observability](https://docs.rs/keylatch/latest/keylatch/manual/observability/).

use std::time::Instant;

/// Counts one kind of batch.
pub(super) struct BatchMetrics {
    operation: &'static str,
}

impl BatchMetrics {
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation }
    }

    /// Notes a batch of this many records that began at `started`.
    pub(super) fn record(&self, records: usize, started: Instant) {
        let operation = self.operation;
        #[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred records")]
        metrics::histogram!("keylatch_batch_records", "operation" => operation).record(records as f64);
        metrics::histogram!("keylatch_batch_seconds", "operation" => operation).record(started.elapsed());
    }
}
