//! The metrics of consumers. The [manual](crate#metrics) has the same table.
//!
//! A label is a word of this crate, or a topic with which the consumer was made.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use metrics::{Gauge, Unit, counter, gauge};
use parking_lot::Mutex;
use rdkafka::statistics::Statistics;

use crate::Count;
use crate::partition::Partition;

/// How often the client tells how far behind it is, in milliseconds.
pub(crate) const STATISTICS_MS: &str = "10000";

/// A metric: its name, its kind, and its meaning.
const METRICS: [(&str, &str, &str); 4] = [
    ("keylatch_messages_total", "counter", "Messages of consumers, by what became of them."),
    (
        "keylatch_places_lost_total",
        "counter",
        "Places that another consumer has taken, counted by the one who notices it.",
    ),
    ("keylatch_partitions_stopped", "gauge", "Partitions of this process that stand still until an operator acts."),
    ("keylatch_consumer_lag", "gauge", "Messages that are still to be applied, in the partitions of this process."),
];

/// Describes the metrics, and begins the counters at zero: in a series that begins with its first event, a monitoring
/// system sees no increase.
pub(crate) fn begin() {
    for (name, kind, help) in METRICS {
        if kind == "gauge" {
            metrics::describe_gauge!(name, Unit::Count, help);
        } else {
            metrics::describe_counter!(name, Unit::Count, help);
        }
    }
    for count in
        [Count::Applied, Count::Known, Count::Retried, Count::Buried, Count::Replayed, Count::Fenced, Count::TakenOver]
    {
        counted(count, 0);
    }
}

/// Counts what has happened to messages or to places.
pub(crate) fn counted(count: Count, times: u64) {
    let counter = match count {
        Count::Applied => counter!("keylatch_messages_total", "result" => "applied"),
        Count::Known => counter!("keylatch_messages_total", "result" => "known"),
        Count::Retried => counter!("keylatch_messages_total", "result" => "retried"),
        Count::Buried => counter!("keylatch_messages_total", "result" => "dead_letter"),
        Count::Replayed => counter!("keylatch_messages_total", "result" => "replayed"),
        Count::Fenced => counter!("keylatch_places_lost_total", "noticed_by" => "loser"),
        Count::TakenOver => counter!("keylatch_places_lost_total", "noticed_by" => "taker"),
        Count::WithoutId | Count::SameLog | Count::Clients => return,
    };
    counter.increment(times);
}

/// A number in a gauge, to which the consumers of a process add up. It goes with its owner.
#[derive(Default)]
pub(crate) struct Added(Option<(Gauge, f64)>);

impl Added {
    /// The number is now `value`; `gauge` is where it counts.
    pub(crate) fn set(&mut self, gauge: Gauge, value: f64) {
        self.take_back();
        gauge.increment(value);
        self.0 = Some((gauge, value));
    }

    /// What was counted goes back to the recorder that counted it.
    fn take_back(&mut self) {
        if let Some((gauge, value)) = self.0.take() {
            gauge.decrement(value);
        }
    }
}

impl Drop for Added {
    fn drop(&mut self) {
        self.take_back();
    }
}

impl fmt::Debug for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Added")
    }
}

/// Partitions of this process that stand still.
pub(crate) fn stopped() -> Gauge {
    gauge!("keylatch_partitions_stopped")
}

/// How far behind the partitions of a client are.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// The offset from which each assigned partition was read: Kafka's own commit may be older, or none.
    from: Mutex<HashMap<Partition, i64>>,
    counted: Mutex<HashMap<Arc<str>, Added>>,
}

impl Lag {
    /// The partition is read from this offset.
    pub(crate) fn reads(&self, partition: &Partition, from: i64) {
        self.from.lock().insert(partition.clone(), from);
    }

    /// The partition is not read any more.
    pub(crate) fn ends(&self, partition: &Partition) {
        self.from.lock().remove(partition);
    }

    /// Counts what the client tells of the ends of its partitions.
    #[expect(clippy::cast_precision_loss, reason = "no topic has so many messages")]
    pub(crate) fn count(&self, statistics: &Statistics) {
        let from = self.from.lock();
        let mut counted = self.counted.lock();
        for (topic, of_topic) in &statistics.topics {
            let behind = of_topic.partitions.values().filter_map(|told| {
                let partition = Partition { topic: topic.as_str().into(), number: told.partition };
                let next = from.get(&partition)?.max(&told.committed_offset);
                // Without transactions of producers, both ends are the same.
                let end = if told.ls_offset >= 0 { told.ls_offset } else { told.hi_offset };
                Some((end - next).max(0))
            });
            let behind: i64 = behind.sum();
            let added = counted.entry(topic.as_str().into()).or_default();
            added.set(gauge!("keylatch_consumer_lag", "topic" => topic.clone()), behind as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_metric_and_its_meaning() {
        let page = include_str!("manual.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `keylatch_"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), METRICS.len());
        for (row, (name, kind, help)) in rows.iter().zip(&METRICS) {
            assert_eq!((row[1], row[2], row[4]), (format!("`{name}`").as_str(), *kind, *help));
        }
    }
}
