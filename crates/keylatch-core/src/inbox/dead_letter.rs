//! A dead letter: a message that was given up.

use std::fmt;

use bytes::Bytes;

use super::place::{PlaceName, cursor, parts};
use crate::store::{Cursor, Error, ErrorKind};
use crate::{Fingerprint, RecordId, Timestamp};

/// Which dead letter: the place, the offset and the content of its message. The content belongs to it, because another
/// log may have another message at the offset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeadLetterId {
    /// Who has given the message up.
    pub place: PlaceName,
    /// Where it is.
    pub offset: i64,
    /// What it is.
    pub digest: Fingerprint,
}

impl DeadLetterId {
    /// The cursor after this dead letter, for a store that lists dead letters in the order of their identities.
    pub fn cursor(&self) -> Cursor {
        let Self { place, offset, digest } = self;
        cursor(&(place.consumer(), place.topic(), place.partition(), offset, digest.as_bytes()))
    }

    /// The identity that [`cursor`](Self::cursor) was made of.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] if it is another cursor.
    pub fn of_cursor(cursor: &Cursor) -> Result<Self, Error> {
        let (consumer, topic, partition, offset, digest) = parts(cursor)?;
        let place = PlaceName::new(consumer, topic, partition);
        let place = place.map_err(|error| Error::new(ErrorKind::Refused, error))?;
        Ok(Self { place, offset, digest: Fingerprint::from_bytes(digest) })
    }
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which one.
    pub id: DeadLetterId,
    /// Why, and what is known of it.
    pub trouble: Trouble,
    /// Whether an operator wants it to be applied after all, by the owner of the place.
    pub wanted: bool,
    /// When it was given up.
    pub buried_at: Timestamp,
}

/// Why a message was given up, and what is kept of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it is.
    pub digest: Fingerprint,
    /// Why.
    pub reason: Reason,
    /// The last error, of at most [`ERROR_BYTES_MAX`] bytes.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The trace in which it was produced (`traceparent`).
    pub trace: Option<String>,
    /// The record of its id, if it has one.
    pub record: Option<RecordId>,
    /// Its key.
    pub key: Option<Bytes>,
    /// The whole message as its consumer encodes it, if that is to be kept. The log may forget it first.
    pub message: Option<Bytes>,
}

/// The longest error of a dead letter; the rest is cut off.
pub const ERROR_BYTES_MAX: usize = 4_096;
/// The longest trace of a dead letter; a longer one is left out.
pub const TRACE_BYTES_MAX: usize = 256;
/// The largest message, and the largest key, that a dead letter keeps; a larger one is left out. Kafka's default limit
/// is 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler has rejected it for good.
    Rejected,
    /// It could not be decoded.
    Undecodable,
    /// It was tried as often as it may be.
    Exhausted,
    /// Its id belongs to another message or request.
    Reused,
    /// It is not known whether the operation of its id has taken effect.
    OutcomeUnknown,
}

/// What becomes of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// It is wanted: the owner of the place applies it.
    Replay,
    /// It is no longer wanted.
    Keep,
    /// It is removed.
    Discard,
}

/// Which dead letters a reader wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLettersRequest {
    /// Only this consumer's.
    pub consumer: Option<String>,
    /// Only those of this place.
    pub place: Option<PlaceName>,
    /// Only those from this offset on, of a place.
    pub offset_min: Option<i64>,
    /// Only those that are wanted.
    pub wanted: bool,
    /// Only those that were given up for this reason.
    pub reason: Option<Reason>,
    /// Only those whose error has this text in it.
    pub error: Option<String>,
    /// Only those with this key.
    pub key: Option<Bytes>,
    /// Only that whose id has this record: see [`RecordId::of`].
    pub record: Option<RecordId>,
    /// Only those that were given up at this time or later.
    pub from: Option<Timestamp>,
    /// Only those that were given up before this time.
    pub until: Option<Timestamp>,
    /// Where to go on: [`Listed::next`](super::Listed::next) of the page before, of the same request.
    pub after: Option<Cursor>,
    /// How many at most; [`PAGE_RECORDS_MAX`](crate::store::PAGE_RECORDS_MAX) is the limit.
    pub limit: usize,
}

impl DeadLettersRequest {
    /// Whether it asks for this dead letter, on whatever page.
    pub fn asks_for(&self, letter: &DeadLetter) -> bool {
        let DeadLetter { id: DeadLetterId { place, offset, .. }, trouble, wanted, buried_at } = letter;
        self.consumer.as_deref().is_none_or(|consumer| place.consumer() == consumer)
            && self.place.as_ref().is_none_or(|of| place == of)
            && self.offset_min.is_none_or(|min| *offset >= min)
            && (*wanted || !self.wanted)
            && self.reason.is_none_or(|reason| trouble.reason == reason)
            && self.error_text().is_none_or(|text| trouble.error.contains(&text))
            && self.key.as_ref().is_none_or(|key| trouble.key.as_ref() == Some(key))
            && self.record.is_none_or(|record| trouble.record == Some(record))
            && self.from.is_none_or(|from| *buried_at >= from)
            && self.until.is_none_or(|until| *buried_at < until)
    }

    /// The text that the error must have, as [`Trouble::error`] would have it.
    pub fn error_text(&self) -> Option<String> {
        self.error.as_ref().map(|text| without_zeros(text))
    }
}

/// Not every database stores a zero in a text.
fn without_zeros(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Trouble {
    /// A message with this digest, given up after so many `attempts`. The error is cut to [`ERROR_BYTES_MAX`].
    pub fn new(digest: Fingerprint, reason: Reason, error: &str, attempts: u32) -> Self {
        let mut error = without_zeros(error);
        if error.len() > ERROR_BYTES_MAX {
            let end = (0..=ERROR_BYTES_MAX).rev().find(|end| error.is_char_boundary(*end));
            error.truncate(end.unwrap_or_default());
        }
        Self { digest, reason, error, attempts, trace: None, record: None, key: None, message: None }
    }

    /// With its trace, unless that is longer than [`TRACE_BYTES_MAX`] or not plain text.
    #[must_use]
    pub fn with_trace(mut self, trace: &str) -> Self {
        let is_plain = trace.len() <= TRACE_BYTES_MAX && trace.bytes().all(|byte| byte.is_ascii_graphic());
        self.trace = is_plain.then(|| trace.to_owned());
        self
    }

    /// With the record of its id.
    #[must_use]
    pub fn with_record(mut self, record: RecordId) -> Self {
        self.record = Some(record);
        self
    }

    /// With its key, unless that is larger than [`MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn with_key(mut self, key: Bytes) -> Self {
        self.key = Some(key).filter(|key| key.len() <= MESSAGE_BYTES_MAX);
        self
    }

    /// With the whole message, unless that is larger than [`MESSAGE_BYTES_MAX`].
    #[must_use]
    pub fn with_message(mut self, message: Bytes) -> Self {
        self.message = Some(message).filter(|message| message.len() <= MESSAGE_BYTES_MAX);
        self
    }
}

/// Shows neither the error, which may quote the message, nor key and message.
impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trouble")
            .field("reason", &self.reason)
            .field("attempts", &self.attempts)
            .field("trace", &self.trace)
            .finish_non_exhaustive()
    }
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Rejected, Self::Undecodable, Self::Exhausted, Self::Reused, Self::OutcomeUnknown];

    /// Its name, to store it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Undecodable => "undecodable",
            Self::Exhausted => "exhausted",
            Self::Reused => "reused",
            Self::OutcomeUnknown => "outcome_unknown",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_the_identity_of_a_letter() {
        let place = PlaceName::new("inventory", "orders", 3).unwrap();
        let id = DeadLetterId { place: place.clone(), offset: i64::MAX, digest: Fingerprint::of([b"m".as_slice()]) };
        assert_eq!(DeadLetterId::of_cursor(&id.cursor()).unwrap(), id);
        assert_eq!(DeadLetterId::of_cursor(&place.cursor()).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn what_a_letter_keeps_is_bounded() {
        let digest = Fingerprint::of([b"m".as_slice()]);
        let trouble = Trouble::new(digest, Reason::Rejected, &"é\0".repeat(ERROR_BYTES_MAX), 1)
            .with_trace(&"t".repeat(TRACE_BYTES_MAX + 1))
            .with_message(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]));
        assert!(trouble.error.len() <= ERROR_BYTES_MAX && !trouble.error.contains('\0'));
        assert_eq!((trouble.trace, trouble.message), (None, None));
    }

    #[test]
    fn reasons_have_their_names() {
        assert!(Reason::ALL.into_iter().all(|reason| Reason::named(reason.name()) == Some(reason)));
    }
}
