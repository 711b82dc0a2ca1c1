//! A place, and what becomes of it: pure.

use std::fmt;
use std::sync::Arc;

use crate::record::Owner;
use crate::store::{Cursor, Error, ErrorKind};
use crate::{Epoch, Fingerprint, Timestamp};

/// The name of a place: a consumer, and a partition of a topic that it reads.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlaceName(Arc<Fields>);

#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Fields {
    consumer: Box<str>,
    topic: Box<str>,
    partition: i32,
}

/// The longest name of a consumer: Kafka's limit for a group is larger, but nobody uses it.
pub const CONSUMER_BYTES_MAX: usize = 255;
/// The longest name of a topic: the limit of Kafka.
pub const TOPIC_BYTES_MAX: usize = 249;

/// Why something is not the name of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPlace {
    /// The consumer is empty, too long, or has a control character.
    #[error("the name of a consumer has 1 to {CONSUMER_BYTES_MAX} bytes and no control characters")]
    Consumer,
    /// The topic is empty, too long, or has a control character.
    #[error("the name of a topic has 1 to {TOPIC_BYTES_MAX} bytes and no control characters")]
    Topic,
    /// The partition is negative.
    #[error("the number of a partition is not negative")]
    Partition,
}

impl PlaceName {
    /// The place of `consumer` in a partition of `topic`.
    ///
    /// # Errors
    ///
    /// If a name is empty, too long or has a control character, or the partition is negative.
    pub fn new(consumer: &str, topic: &str, partition: i32) -> Result<Self, InvalidPlace> {
        let is_name =
            |text: &str, bytes_max| !text.is_empty() && text.len() <= bytes_max && !text.contains(char::is_control);
        match () {
            () if !is_name(consumer, CONSUMER_BYTES_MAX) => Err(InvalidPlace::Consumer),
            () if !is_name(topic, TOPIC_BYTES_MAX) => Err(InvalidPlace::Topic),
            () if partition < 0 => Err(InvalidPlace::Partition),
            () => Ok(Self(Arc::new(Fields { consumer: consumer.into(), topic: topic.into(), partition }))),
        }
    }

    /// Who consumes.
    pub fn consumer(&self) -> &str {
        &self.0.consumer
    }

    /// What it reads.
    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Which part of that.
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The cursor after this place, for a store that lists places in the order of their names.
    pub fn cursor(&self) -> Cursor {
        cursor(&(self.consumer(), self.topic(), self.partition()))
    }

    /// The name that [`cursor`](Self::cursor) was made of.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] if it is another cursor.
    pub fn of_cursor(cursor: &Cursor) -> Result<Self, Error> {
        let (consumer, topic, partition) = parts(cursor)?;
        Self::new(consumer, topic, partition).map_err(|error| Error::new(ErrorKind::Refused, error))
    }
}

/// A cursor made of `parts`.
pub(super) fn cursor(parts: &impl serde::Serialize) -> Cursor {
    let bytes = postcard::to_allocvec(parts).expect("a vector takes any number of bytes");
    Cursor::new(bytes).expect("names are short")
}

/// What a cursor was made of.
pub(super) fn parts<'c, T: serde::Deserialize<'c>>(cursor: &'c Cursor) -> Result<T, Error> {
    match postcard::take_from_bytes(cursor.as_bytes()) {
        Ok((parts, [])) => Ok(parts),
        _ => Err(Error::new(ErrorKind::Refused, "the cursor is not one of this list")),
    }
}

impl fmt::Display for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}/{}", self.consumer(), self.topic(), self.partition())
    }
}

impl fmt::Debug for PlaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlaceName({self})")
    }
}

/// How far a consumer has come in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Whose place it is.
    pub name: PlaceName,
    /// The fencing number: one higher with every [`take`] and every [`move_to`].
    pub epoch: Epoch,
    /// Who owns it; `None` once it was given back.
    pub owner: Option<Owner>,
    /// The next offset to apply; `None` until the first owner has said where it begins.
    pub next: Option<i64>,
    /// The last message that was passed. Read again, it tells whether the log is still the same.
    pub last: Option<LastMessage>,
    /// Whether the owner before this one has not given the place back: it may have died in a message at or after `next`.
    pub after_crash: bool,
    /// The message that is tried by itself, unless the place has passed it.
    pub tried: Option<Tried>,
    /// When it was last taken, moved or given back, or counted a try.
    pub changed_at: Timestamp,
}

/// A message of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LastMessage {
    /// Where it is.
    pub offset: i64,
    /// What it is.
    pub digest: Fingerprint,
}

/// How often a message was tried by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tried {
    /// Where it is.
    pub offset: i64,
    /// The tries that have begun.
    pub attempts: u32,
}

/// What the owner of a place holds: the condition of all its writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ownership {
    /// The place.
    pub place: PlaceName,
    /// Its epoch since this owner has it.
    pub epoch: Epoch,
    /// The owner.
    pub owner: Owner,
}

/// A move of the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Step {
    /// The next offset before it: a condition. `None` for a place that has none yet.
    pub from: Option<i64>,
    /// The next offset after it; not less than before.
    pub to: i64,
    /// The last message that it passes; `None` leaves the one before.
    pub last: Option<LastMessage>,
}

impl Step {
    /// Fails if it leads nowhere: back, to a negative offset, or past a message that it does not pass.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`].
    pub fn check(&self) -> Result<(), Error> {
        let passes = |last: LastMessage| (0..self.to).contains(&last.offset);
        if self.to < self.from.unwrap_or(0).max(0) || !self.last.is_none_or(passes) {
            return Err(Error::new(ErrorKind::Refused, "a place moves only forward, and past its last message"));
        }
        Ok(())
    }
}

/// Which places a reader wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacesRequest {
    /// Only this consumer's.
    pub consumer: Option<String>,
    /// Where to go on: [`Listed::next`](super::Listed::next) of the page before, of a request for the same consumer.
    pub after: Option<Cursor>,
    /// How many at most; [`PAGE_RECORDS_MAX`](crate::store::PAGE_RECORDS_MAX) is the limit.
    pub limit: usize,
}

impl Place {
    /// What its owner holds, if it has one.
    pub fn ownership(&self) -> Option<Ownership> {
        self.owner.map(|owner| Ownership { place: self.name.clone(), epoch: self.epoch, owner })
    }

    /// Whether these are its owner and epoch.
    pub fn is_of(&self, ownership: &Ownership) -> bool {
        self.name == ownership.place && self.epoch == ownership.epoch && self.owner == Some(ownership.owner)
    }
}

/// The place once `owner` has taken it. It is as before if that owner already has it.
pub fn take(previous: Option<&Place>, name: &PlaceName, owner: Owner, now: Timestamp) -> Place {
    match previous {
        Some(place) if place.owner == Some(owner) => place.clone(),
        Some(place) => Place {
            epoch: place.epoch.next(),
            owner: Some(owner),
            after_crash: place.owner.is_some(),
            changed_at: now,
            ..place.clone()
        },
        None => Place { owner: Some(owner), ..new(name, Epoch::FIRST, now) },
    }
}

fn new(name: &PlaceName, epoch: Epoch, now: Timestamp) -> Place {
    Place {
        name: name.clone(),
        epoch,
        owner: None,
        next: None,
        last: None,
        after_crash: false,
        tried: None,
        changed_at: now,
    }
}

/// The place after a step of its owner; `None` if it is not the owner's, or not where the step begins. It is as before if
/// it is where the step ends: then the step was sent again.
pub fn advance(place: &Place, ownership: &Ownership, step: &Step, now: Timestamp) -> Option<Place> {
    if !place.is_of(ownership) {
        return None;
    }
    if place.next == step.from {
        return Some(Place {
            next: Some(step.to),
            last: step.last.or(place.last),
            tried: place.tried.filter(|tried| step.to <= tried.offset),
            changed_at: now,
            ..place.clone()
        });
    }
    (place.next == Some(step.to) && step.last.is_none_or(|last| place.last == Some(last))).then(|| place.clone())
}

/// The place after an operator has moved it; `None` if it is not as the operator has seen it. It is as before if it was
/// moved already.
pub fn move_to(
    previous: Option<&Place>,
    name: &PlaceName,
    seen: Option<Epoch>,
    next: i64,
    now: Timestamp,
) -> Option<Place> {
    let epoch = seen.map_or(Epoch::FIRST, Epoch::next);
    let moved = Place { next: Some(next), ..new(name, epoch, now) };
    if previous.map(|place| place.epoch) == seen {
        return Some(moved);
    }
    previous.filter(|place| Place { changed_at: now, ..(*place).clone() } == moved).cloned()
}

/// Whether an operator who has seen the place with this epoch may remove it. A place that is not there was removed before.
pub fn may_remove(found: Option<&Place>, seen: Epoch) -> bool {
    found.is_none_or(|place| place.epoch == seen)
}

/// The place after its owner has given it back; `None` if it is not the owner's. It is as before if this owner has given
/// it back already.
pub fn give_back(place: &Place, ownership: &Ownership, now: Timestamp) -> Option<Place> {
    if place.name == ownership.place && place.epoch == ownership.epoch && place.owner.is_none() {
        return Some(place.clone());
    }
    place.is_of(ownership).then(|| Place { owner: None, after_crash: false, changed_at: now, ..place.clone() })
}

/// The place after its owner has begun another try of the message at `offset`; `None` if it is not the owner's.
pub fn begin_try(place: &Place, ownership: &Ownership, offset: i64, now: Timestamp) -> Option<Place> {
    let before = place.tried.filter(|tried| tried.offset == offset).map_or(0, |tried| tried.attempts);
    let tried = Some(Tried { offset, attempts: before.saturating_add(1) });
    place.is_of(ownership).then(|| Place { tried, changed_at: now, ..place.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PlaceName {
        PlaceName::new("inventory", "orders", 3).unwrap()
    }

    #[test]
    fn a_cursor_is_the_name_of_a_place() {
        assert_eq!(PlaceName::of_cursor(&name().cursor()).unwrap(), name());
        let longest = PlaceName::new(&"c".repeat(CONSUMER_BYTES_MAX), &"t".repeat(TOPIC_BYTES_MAX), i32::MAX).unwrap();
        assert_eq!(PlaceName::of_cursor(&longest.cursor()).unwrap(), longest);
        for other in [Cursor::new([]).unwrap(), Cursor::new([0xff; 40]).unwrap()] {
            assert_eq!(PlaceName::of_cursor(&other).unwrap_err().kind(), ErrorKind::Refused);
        }
    }

    #[test]
    fn what_is_not_a_name_says_why() {
        assert_eq!(PlaceName::new("", "t", 0), Err(InvalidPlace::Consumer));
        assert_eq!(PlaceName::new("a\n", "t", 0), Err(InvalidPlace::Consumer));
        assert_eq!(PlaceName::new("a", &"t".repeat(TOPIC_BYTES_MAX + 1), 0), Err(InvalidPlace::Topic));
        assert_eq!(PlaceName::new("a", "t", -1), Err(InvalidPlace::Partition));
    }

    #[test]
    fn a_step_leads_forward() {
        let last = |offset| Some(LastMessage { offset, digest: Fingerprint::of([b"m".as_slice()]) });
        let step = |from, to, last| Step { from, to, last }.check().is_ok();
        assert!(step(Some(5), 5, None) && step(Some(5), 9, last(8)) && step(None, 0, None));
        assert!(!step(Some(5), 4, None) && !step(Some(5), 9, last(9)) && !step(None, -1, None));
    }

    #[test]
    fn tries_are_forgotten_when_the_place_has_passed_their_message() {
        let now = Timestamp::from_millis(1);
        let owner = Owner::random();
        let place = take(None, &name(), owner, now);
        let ours = place.ownership().unwrap();
        let step = |from, to| Step { from, to, last: None };
        let place = advance(&place, &ours, &step(None, 7), now).unwrap();
        let place = begin_try(&place, &ours, 7, now).unwrap();
        let place = begin_try(&place, &ours, 7, now).unwrap();
        assert_eq!(place.tried, Some(Tried { offset: 7, attempts: 2 }));
        assert_eq!(advance(&place, &ours, &step(Some(7), 8), now).unwrap().tried, None);
    }
}
