//! The name of a partition.

use std::fmt;
use std::sync::Arc;

use rdkafka::topic_partition_list::TopicPartitionListElem;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Partition {
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
}

impl Partition {
    pub(crate) fn of(element: &TopicPartitionListElem<'_>) -> Self {
        Self { topic: element.topic().into(), number: element.partition() }
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}
