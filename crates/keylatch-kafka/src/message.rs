//! A message as a handler sees it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use keylatch_core::{Fingerprint, Hasher, Timestamp};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// A message of a topic.
///
/// A clone is cheap: key, value and headers are shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Arc<Fields>);

#[derive(PartialEq, Eq)]
struct Fields {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    time: Option<Timestamp>,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
    /// Kafka's headers have names of UTF-8.
    readable: bool,
}

impl Message {
    /// A message that no broker sent, for the tests of a handler.
    pub fn new(topic: &str, partition: i32, offset: i64) -> Self {
        let (topic, headers) = (Arc::from(topic), Vec::new());
        let fields = Fields { topic, partition, offset, time: None, key: None, value: None, headers, readable: true };
        Self(Arc::new(fields))
    }

    /// With this key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        self.with(|fields| fields.key = Some(key.into()))
    }

    /// With this value.
    #[must_use]
    pub fn with_value(self, value: impl Into<Bytes>) -> Self {
        self.with(|fields| fields.value = Some(value.into()))
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(self, name: &str, value: impl Into<Bytes>) -> Self {
        self.with(|fields| fields.headers.push((name.to_owned(), Some(value.into()))))
    }

    pub(crate) fn with_nullable_header(self, name: &str, value: Option<Bytes>) -> Self {
        self.with(|fields| fields.headers.push((name.to_owned(), value)))
    }

    pub(crate) fn with_time(self, time: Option<Timestamp>) -> Self {
        self.with(|fields| fields.time = time)
    }

    fn with(self, change: impl FnOnce(&mut Fields)) -> Self {
        let mut fields = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Fields {
            topic: shared.topic.clone(),
            key: shared.key.clone(),
            value: shared.value.clone(),
            headers: shared.headers.clone(),
            ..*shared
        });
        change(&mut fields);
        Self(Arc::new(fields))
    }

    pub(crate) fn received(topic: Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        let headers = || {
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            headers.map(|header| (header.key.to_owned(), header.value.map(Bytes::copy_from_slice))).collect()
        };
        // The client panics if a name is not UTF-8, which a broker does not check.
        let headers = catch_unwind(AssertUnwindSafe(headers));
        Self(Arc::new(Fields {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            time: message.timestamp().to_millis().map(Timestamp::from_millis),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            readable: headers.is_ok(),
            headers: headers.unwrap_or_default(),
        }))
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// The partition of the topic.
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The offset in the partition.
    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// When it was sent or appended, as the topic is configured. Senders can set it.
    pub fn time(&self) -> Option<Timestamp> {
        self.0.time
    }

    /// The key. `None` is null, which is not the same as empty.
    pub fn key(&self) -> Option<&Bytes> {
        self.0.key.as_ref()
    }

    /// The value. `None` is null, which deletes the key in a compacted topic.
    pub fn value(&self) -> Option<&Bytes> {
        self.0.value.as_ref()
    }

    /// The headers, in their order. A name may occur several times.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.0.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref()))
    }

    /// The last header of this name that is not null.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.0.headers.iter().rev().filter(|(other, _)| other == name).find_map(|(_, value)| value.as_ref())
    }

    /// Whether the client could read its headers.
    pub(crate) fn is_readable(&self) -> bool {
        self.0.readable
    }

    /// How many bytes it has.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.0.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Bytes::len));
        self.0.key.as_ref().map_or(0, Bytes::len) + self.0.value.as_ref().map_or(0, Bytes::len) + headers.sum::<usize>()
    }

    /// What stays the same when a message is sent again: key and value.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = Hasher::default();
        hasher.optional(self.key().map(|key| &**key));
        hasher.optional(self.value().map(|value| &**value));
        hasher.finish()
    }

    /// What tells that this is the same message of the same log: everything but its offset.
    pub(crate) fn digest(&self) -> Fingerprint {
        let mut hasher = Hasher::default();
        hasher.optional(self.key().map(|key| &**key));
        hasher.optional(self.value().map(|value| &**value));
        hasher.field(&self.time().map_or(-1, Timestamp::as_millis).to_be_bytes());
        for (name, value) in self.headers() {
            hasher.field(name.as_bytes());
            hasher.optional(value.map(|value| &**value));
        }
        hasher.finish()
    }
}

/// Without key, value and headers, which do not belong in a log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}/{} at {}, {} bytes)", self.topic(), self.partition(), self.offset(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_is_not_an_empty_value() {
        let null = Message::new("t", 0, 7);
        let empty = null.clone().with_value("");
        assert_eq!(null.value(), None);
        assert_eq!(empty.value(), Some(&Bytes::new()));
        assert_ne!(null.fingerprint(), empty.fingerprint());
        assert_ne!(null.digest(), empty.digest());
    }

    #[test]
    fn the_last_of_several_headers_counts() {
        let message = Message::new("t", 0, 7).with_header("a", "1").with_header("b", "2").with_header("a", "3");
        assert_eq!(message.header("a"), Some(&Bytes::from("3")));
        assert_eq!(message.headers().count(), 3);
        assert_eq!(message.header("c"), None);
    }

    #[test]
    fn debug_keeps_key_and_value_to_itself() {
        let message = Message::new("t", 3, 7).with_key("secret").with_value("secret");
        assert_eq!(format!("{message:?}"), "Message(t/3 at 7, 12 bytes)");
    }
}
