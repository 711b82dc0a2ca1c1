//! A message as a dead letter keeps it, and as a topic of dead letters gets it.

use bytes::Bytes;
use keylatch_core::Timestamp;
use keylatch_core::inbox::{DeadLetterId, Trouble};
use keylatch_core::outbox::{Event, Events};

use crate::Message;

type Fields<'a> = (Option<i64>, Option<&'a [u8]>, Option<&'a [u8]>, Vec<(&'a str, Option<&'a [u8]>)>);

/// What is written first: another layout gets another number.
const FORMAT: u8 = 1;

/// The message, encoded.
pub(crate) fn encode(message: &Message) -> Bytes {
    let headers = message.headers().map(|(name, value)| (name, value.map(|value| &**value))).collect();
    let fields: Fields<'_> = (
        message.time().map(Timestamp::as_millis),
        message.key().map(|key| &**key),
        message.value().map(|value| &**value),
        headers,
    );
    postcard::to_extend(&fields, vec![FORMAT]).expect("bytes and texts can be encoded").into()
}

/// The message that was encoded, of the dead letter `id`; `None` if it cannot be read.
pub(crate) fn decode(id: &DeadLetterId, encoded: &[u8]) -> Option<Message> {
    let (&FORMAT, encoded) = encoded.split_first()? else { return None };
    let (time, key, value, headers): Fields<'_> = postcard::from_bytes(encoded).ok()?;
    let mut message = Message::new(id.place.topic(), id.place.partition(), id.offset);
    message = message.with_time(time.map(Timestamp::from_millis));
    if let Some(key) = key {
        message = message.with_key(Bytes::copy_from_slice(key));
    }
    if let Some(value) = value {
        message = message.with_value(Bytes::copy_from_slice(value));
    }
    for (name, value) in headers {
        message = message.with_nullable_header(name, value.map(Bytes::copy_from_slice));
    }
    Some(message)
}

/// The headers of a message in a topic of dead letters, beside those of the message itself.
const CONSUMER: &str = "dead-letter-consumer";
const TOPIC: &str = "dead-letter-topic";
const PARTITION: &str = "dead-letter-partition";
const OFFSET: &str = "dead-letter-offset";
const REASON: &str = "dead-letter-reason";
const ERROR: &str = "dead-letter-error";
const ATTEMPTS: &str = "dead-letter-attempts";
/// With this header, key, value and headers of the message are left out: it has no room in an event.
const INCOMPLETE: &str = "dead-letter-incomplete";

/// The event that brings the message to `topic`, because `consumer` has given it up.
pub(crate) fn event(topic: &str, consumer: &str, message: &Message, trouble: &Trouble) -> Events {
    let mut whole = Event::new(topic);
    if let Some(key) = message.key() {
        whole = whole.with_key(key.clone());
    }
    if let Some(value) = message.value() {
        whole = whole.with_value(value.clone());
    }
    for (name, value) in message.headers() {
        // An event has no headers that are null.
        whole = whole.with_header(name, value.cloned().unwrap_or_default());
    }
    let mut events = Events::default();
    if events.publish(told(whole, consumer, message, trouble)).is_err() {
        let bare = told(Event::new(topic), consumer, message, trouble).with_header(INCOMPLETE, "true");
        events.publish(bare).expect("it is small, and its topic was checked when the consumer was made");
    }
    events
}

/// The event with what became of the message.
fn told(event: Event, consumer: &str, message: &Message, trouble: &Trouble) -> Event {
    event
        .with_header(CONSUMER, consumer.to_owned())
        .with_header(TOPIC, message.topic().to_owned())
        .with_header(PARTITION, message.partition().to_string())
        .with_header(OFFSET, message.offset().to_string())
        .with_header(REASON, trouble.reason.name())
        .with_header(ERROR, trouble.error.clone())
        .with_header(ATTEMPTS, trouble.attempts.to_string())
}

#[cfg(test)]
mod tests {
    use keylatch_core::Fingerprint;
    use keylatch_core::inbox::{PlaceName, Reason};
    use keylatch_core::outbox::EVENT_BYTES_MAX;

    use super::*;

    #[test]
    fn an_event_has_the_message_and_what_became_of_it() {
        let message = Message::new("t", 3, 9).with_key("k").with_header("a", "1").with_nullable_header("a", None);
        let trouble = Trouble::new(message.digest(), Reason::Exhausted, "no stock", 16);
        let header = |events: &Events| {
            let headers = events.as_slice()[0].event.headers().iter();
            headers.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        let whole = event("dead", "inventory", &message, &trouble);
        let [published] = whole.as_slice() else { panic!("it is one event") };
        assert_eq!((published.event.topic(), published.event.key()), ("dead", message.key()));
        assert_eq!(published.event.value(), None);
        let about = [
            ("dead-letter-consumer", "inventory"),
            ("dead-letter-topic", "t"),
            ("dead-letter-partition", "3"),
            ("dead-letter-offset", "9"),
            ("dead-letter-reason", "exhausted"),
            ("dead-letter-error", "no stock"),
            ("dead-letter-attempts", "16"),
        ];
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes()));
        let expected: Vec<_> = [("a", "1"), ("a", "")].iter().chain(&about).map(own).collect();
        assert_eq!(header(&whole), expected);
        // What is too large for an event is in the table alone.
        let bare = event("dead", "inventory", &message.with_value(vec![0; EVENT_BYTES_MAX]), &trouble);
        let expected: Vec<_> = about.iter().chain(&[("dead-letter-incomplete", "true")]).map(own).collect();
        assert_eq!(header(&bare), expected);
        assert_eq!(bare.as_slice()[0].event.key(), None);
    }

    #[test]
    fn a_message_comes_back_whole() {
        let message = Message::new("t", 3, 9).with_time(Some(Timestamp::from_millis(7))).with_key(vec![0xff]);
        let message = message.with_header("a", "1").with_nullable_header("a", None);
        let place = PlaceName::new("c", "t", 3).unwrap();
        let id = DeadLetterId { place, offset: 9, digest: Fingerprint::from_bytes([0; 32]) };
        let encoded = encode(&message);
        assert!(decode(&id, &encoded).unwrap() == message);
        assert!(decode(&id, &[]).is_none() && decode(&id, &[9]).is_none());
        // It is stored, so it stays readable.
        assert_eq!(&encoded[..], [1, 1, 14, 1, 1, 0xff, 0, 2, 1, b'a', 1, 1, b'1', 1, b'a', 0]);
    }
}
