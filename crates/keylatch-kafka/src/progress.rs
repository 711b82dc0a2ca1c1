//! How far the partitions have come, for Kafka's own commit.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::partition::Partition;

/// The offsets that the broker has not been told.
///
/// They are for tools that show how far a group is behind. No consumer of this crate starts from them once it has a place.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<HashMap<Partition, i64>>);

impl Progress {
    /// The next offset of `partition` is `next`.
    pub(crate) fn set(&self, partition: &Partition, next: i64) {
        self.0.lock().insert(partition.clone(), next);
    }

    /// What is new since the last call.
    pub(crate) fn take(&self) -> Vec<(Partition, i64)> {
        self.0.lock().drain().collect()
    }
}
