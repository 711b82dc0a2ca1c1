//! Events, and how they wait in a transaction.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::outcome::DecodeError;
use crate::record::Owner;
use crate::{Clock, Timestamp};

/// The longest name of a topic: Kafka's.
pub const TOPIC_BYTES_MAX: usize = 249;
/// The most headers of an event: more than any convention needs.
pub const HEADERS_MAX: usize = 64;
/// The largest event, with its topic, key and headers. Brokers of Kafka take messages of 1,048,576 bytes unless they are told
/// otherwise; this leaves room for what a producer adds.
pub const EVENT_BYTES_MAX: usize = 1_000_000;
/// The most events of one transaction: two for each message of a consumer's largest batch. They are all written in one
/// statement, while their keys are locked.
pub const EVENTS_MAX: usize = 1_000;
/// The most bytes of all events of one transaction: they wait in memory, and go to the database as one parameter.
pub const EVENTS_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// Format 1 of headers: postcard, whose encoding is fixed by <https://postcard.jamesmunns.com/wire-format>.
const FORMAT: u8 = 1;

/// Something that has happened, to be published if and only if the transaction commits.
///
/// ```
/// use keylatch_core::outbox::Event;
///
/// let event = Event::new("orders").with_key("user-7").with_value(r#"{"order":"o-1"}"#).with_header("type", "order.created");
/// assert_eq!(event.topic(), "orders");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    topic: String,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
}

impl Event {
    /// An event for `topic`, without key, value and headers. A topic has 1 to 249 of the characters `a` to `z`, `A` to `Z`,
    /// `0` to `9`, `.`, `_` and `-`, which is checked when it is published.
    pub fn new(topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), key: None, value: None, headers: Vec::new() }
    }

    /// With this key: the events of one topic and one key are published in the order of their transactions. Events without
    /// a key have no order.
    #[must_use]
    pub fn with_key(self, key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// With this value.
    #[must_use]
    pub fn with_value(self, value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..self }
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its key.
    pub fn key(&self) -> Option<&Bytes> {
        self.key.as_ref()
    }

    /// Its value.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// Its headers, in the order in which they were added.
    pub fn headers(&self) -> &[(String, Bytes)] {
        &self.headers
    }

    /// The size of its topic, key, value and headers.
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.topic.len() + self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }

    /// A hash of topic and key, which stores look keys up by; `None` without a key. It is the same in every version.
    pub fn key_hash(&self) -> Option<i64> {
        let key = self.key.as_ref()?;
        let hash = Sha256::new().chain_update((self.topic.len() as u64).to_le_bytes());
        let hash = hash.chain_update(&self.topic).chain_update(key).finalize();
        hash.first_chunk().map(|eight| i64::from_le_bytes(*eight))
    }

    /// Whether the other has the same topic and the same key, and both have one: then their order counts.
    pub fn is_in_order_with(&self, other: &Self) -> bool {
        self.key.is_some() && self.key == other.key && self.topic == other.topic
    }

    /// The headers, to store them; `None` for none.
    pub fn encode_headers(&self) -> Option<Vec<u8>> {
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        let encoded = || postcard::to_extend(&headers, vec![FORMAT]).expect("texts and bytes can be encoded");
        (!headers.is_empty()).then(encoded)
    }

    /// An event that was stored. If its headers cannot be read, it is without them, and the error says why: topic and
    /// key are what puts it in order.
    pub fn decode(
        topic: String,
        key: Option<Bytes>,
        value: Option<Bytes>,
        headers: Option<&[u8]>,
    ) -> (Self, Option<DecodeError>) {
        let (headers, error) = match headers.map_or(Ok(Vec::new()), decode_headers) {
            Ok(headers) => (headers, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        (Self { topic, key, value, headers }, error)
    }

    fn check(&self) -> Result<(), InvalidEvent> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_topic = (1..=TOPIC_BYTES_MAX).contains(&self.topic.len()) && self.topic.bytes().all(known);
        if !is_topic || self.topic == "." || self.topic == ".." {
            return Err(InvalidEvent::Topic);
        }
        if self.headers.len() > HEADERS_MAX {
            return Err(InvalidEvent::Headers(self.headers.len()));
        }
        if self.bytes() > EVENT_BYTES_MAX {
            return Err(InvalidEvent::TooLarge(self.bytes()));
        }
        Ok(())
    }
}

fn decode_headers(stored: &[u8]) -> Result<Vec<(String, Bytes)>, DecodeError> {
    let headers: Vec<(String, Vec<u8>)> = match stored {
        [FORMAT, encoded @ ..] => postcard::from_bytes(encoded).map_err(|_| DecodeError::Malformed)?,
        [format, ..] => return Err(DecodeError::UnknownFormat(*format)),
        [] => return Err(DecodeError::Malformed),
    };
    Ok(headers.into_iter().map(|(name, value)| (name, value.into())).collect())
}

/// Shows the topic and sizes only.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({}, {} bytes)", self.topic, self.bytes())
    }
}

/// Why an event was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// Its topic cannot be the name of one.
    #[error(
        "a topic has 1 to {TOPIC_BYTES_MAX} of the characters a-z, A-Z, 0-9, '.', '_' and '-', and is not '.' or '..'"
    )]
    Topic,
    /// It has so many headers.
    #[error("an event has at most {HEADERS_MAX} headers, and this one has {0}")]
    Headers(usize),
    /// It has so many bytes.
    #[error("an event has at most {EVENT_BYTES_MAX} bytes, and this one has {0}")]
    TooLarge(usize),
    /// The transaction has as many events as it may.
    #[error("a transaction publishes at most {EVENTS_MAX} events")]
    TooMany,
    /// All events of the transaction would be too large together.
    #[error("a transaction publishes at most {EVENTS_BYTES_MAX} bytes of events")]
    TooManyBytes,
}

/// The id of an event: a UUID of version 7. It is made when the event is published, and stays the same however often it is
/// delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 16]);

impl EventId {
    /// A new id, made at this time (RFC 9562, section 5.7): 48 bits of milliseconds, 74 bits by chance.
    pub(crate) fn new(now: Timestamp) -> Self {
        let mut bytes = *Owner::random().as_bytes();
        bytes[..6].copy_from_slice(&now.as_millis().to_be_bytes()[2..]);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// An id that was stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// An id that was stored. If it does not have 16 bytes, it cannot be read, and the error says so. Then this is what
    /// there is of it, cut or filled up with zeros to 16 bytes, so that the event can be named; a store finds the event by
    /// this name.
    pub fn decode(stored: &[u8]) -> (Self, Option<DecodeError>) {
        let mut id = [0; 16];
        let fits = stored.len().min(id.len());
        id[..fits].copy_from_slice(&stored[..fits]);
        (Self(id), (stored.len() != id.len()).then_some(DecodeError::Malformed))
    }

    /// The 16 bytes, to store them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// As a UUID is written.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// A text that is no id of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of an event is a UUID, written in lower case with hyphens")]
pub struct InvalidEventId;

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
        let mut id = [0; 16];
        let (pairs, []) = digits.as_chunks::<2>() else { return Err(InvalidEventId) };
        if pairs.len() != id.len() {
            return Err(InvalidEventId);
        }
        for (byte, pair) in id.iter_mut().zip(pairs) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidEventId);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).map_err(|_| InvalidEventId)?;
        }
        let id = Self(id);
        if id.to_string() == text { Ok(id) } else { Err(InvalidEventId) }
    }
}

/// An event with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its id.
    pub id: EventId,
    /// The event.
    pub event: Event,
}

/// The events of a transaction, which wait for its end.
#[derive(Debug, Clone, Default)]
pub struct Events {
    waiting: Vec<Published>,
    bytes: usize,
}

impl Events {
    /// Adds an event, and returns its id. With the feature `opentelemetry`, it gets the headers of the current span's
    /// trace, `traceparent` and `tracestate`, unless it names a trace itself.
    ///
    /// # Errors
    ///
    /// If the event is invalid, or the transaction has as many events as it may. Then it is not added.
    pub fn publish(&mut self, event: Event) -> Result<EventId, InvalidEvent> {
        event.check()?;
        #[cfg(feature = "opentelemetry")]
        let event = crate::propagation::traced(event);
        if self.waiting.len() >= EVENTS_MAX {
            return Err(InvalidEvent::TooMany);
        }
        let bytes = self.bytes + event.bytes();
        if bytes > EVENTS_BYTES_MAX {
            return Err(InvalidEvent::TooManyBytes);
        }
        let id = EventId::new(Clock::system().now());
        self.bytes = bytes;
        self.waiting.push(Published { id, event });
        Ok(id)
    }

    /// Adds the events of a part of the transaction, in their order. All or none.
    ///
    /// # Errors
    ///
    /// If they would be more than a transaction may have.
    pub fn append(&mut self, part: Self) -> Result<(), InvalidEvent> {
        if self.waiting.len() + part.waiting.len() > EVENTS_MAX {
            return Err(InvalidEvent::TooMany);
        }
        if self.bytes + part.bytes > EVENTS_BYTES_MAX {
            return Err(InvalidEvent::TooManyBytes);
        }
        self.bytes += part.bytes;
        self.waiting.extend(part.waiting);
        Ok(())
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The events, in the order in which they were published.
    pub fn as_slice(&self) -> &[Published] {
        &self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_of_version_7() {
        let id = EventId::new(Timestamp::from_millis(0x0001_8bcf_e568_1234));
        let text = id.to_string();
        assert!(text.starts_with("8bcfe568-1234-7") && text.len() == 36, "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_ne!(EventId::new(Timestamp::from_millis(7)), EventId::new(Timestamp::from_millis(7)));
        for wrong in ["", &text[1..], &text.replace('-', ""), &text.to_uppercase(), &format!("{text}0")] {
            assert_eq!(wrong.parse::<EventId>(), Err(InvalidEventId), "{wrong}");
        }
    }

    #[test]
    fn an_id_that_cannot_be_read_has_a_name_even_so() {
        let id = EventId::new(Timestamp::from_millis(7));
        assert_eq!(EventId::decode(id.as_bytes()), (id, None));
        let damaged = |bytes| (EventId::from_bytes(bytes), Some(DecodeError::Malformed));
        assert_eq!(EventId::decode(&[]), damaged([0; 16]));
        assert_eq!(EventId::decode(&[1, 2]), damaged([1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(EventId::decode(&[7; 17]), damaged([7; 16]));
    }

    #[test]
    fn headers_come_back() {
        let event = Event::new("t").with_header("a", "1").with_header("a", vec![0xff]).with_header("", "");
        let encoded = event.encode_headers();
        assert_eq!(Event::decode("t".into(), None, None, encoded.as_deref()), (event, None));
        assert_eq!(Event::new("t").encode_headers(), None);
        let decode = |headers| Event::decode("t".into(), None, None, Some(headers));
        let without = |error| (Event::new("t"), Some(error));
        assert_eq!(decode(&[9]), without(DecodeError::UnknownFormat(9)));
        assert_eq!((decode(&[]), decode(&[1, 9])), (without(DecodeError::Malformed), without(DecodeError::Malformed)));
    }

    #[test]
    fn keys_are_told_apart_by_topic_and_key() {
        let hash = |topic: &str, key: &str| Event::new(topic).with_key(key.to_owned()).key_hash().unwrap();
        assert_eq!(hash("ab", "c"), hash("ab", "c"));
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
        assert_ne!(hash("a", ""), hash("b", ""));
        assert_eq!(Event::new("a").key_hash(), None);
        // It is stored, so it never changes.
        assert_eq!(hash("orders", "user-7"), ORDERS_USER_7);
    }

    const ORDERS_USER_7: i64 = 71_531_582_744_220_781;

    #[test]
    fn everything_about_an_event_is_bounded() {
        let mut events = Events::default();
        for topic in ["", ".", "..", "a b", "ä", &"a".repeat(TOPIC_BYTES_MAX + 1)] {
            assert_eq!(events.publish(Event::new(topic)), Err(InvalidEvent::Topic), "{topic}");
        }
        let headers = (0..=HEADERS_MAX).fold(Event::new("t"), |event, _| event.with_header("h", ""));
        assert_eq!(events.publish(headers), Err(InvalidEvent::Headers(HEADERS_MAX + 1)));
        let sized = |bytes: usize| Event::new("t").with_value(vec![0; bytes - 1]);
        assert_eq!(events.publish(sized(EVENT_BYTES_MAX + 1)), Err(InvalidEvent::TooLarge(EVENT_BYTES_MAX + 1)));
        assert!(events.is_empty());
        let whole = EVENTS_BYTES_MAX / EVENT_BYTES_MAX;
        for _ in 0..whole {
            events.publish(sized(EVENT_BYTES_MAX)).unwrap();
        }
        events.publish(sized(EVENTS_BYTES_MAX - whole * EVENT_BYTES_MAX)).unwrap();
        assert_eq!(events.publish(Event::new("t")), Err(InvalidEvent::TooManyBytes));
        let mut more = Events::default();
        for _ in 0..EVENTS_MAX {
            more.publish(Event::new("a.B-9_")).unwrap();
        }
        assert_eq!(more.publish(Event::new("t")), Err(InvalidEvent::TooMany));
        assert_eq!(more.append(events), Err(InvalidEvent::TooMany));
        assert_eq!(more.as_slice().len(), EVENTS_MAX);
    }

    #[test]
    fn nothing_of_an_event_is_shown() {
        let event = Event::new("t").with_key("secret").with_value("secret").with_header("secret", "secret");
        assert!(!format!("{event:?}").contains("secret"));
    }
}
