//! A message as a dead letter keeps it.

use bytes::Bytes;
use keylatch_core::Timestamp;
use keylatch_core::inbox::DeadLetterId;

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

#[cfg(test)]
mod tests {
    use keylatch_core::Fingerprint;
    use keylatch_core::inbox::PlaceName;

    use super::*;

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
