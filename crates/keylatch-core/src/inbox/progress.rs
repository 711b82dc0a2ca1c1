//! The bookkeeping of a consumer that finishes the messages of a partition out of order: pure.
//!
//! ```text
//!  offset        3    4    5    6    7    8    9
//!                done done open done open done
//!                          ▲                   ▲
//!                          mark                position: what is read next
//! ```
//!
//! Everything below the **mark** is done, so the place may follow it there, and no further. What is done above the mark is
//! remembered by the messages' records: whoever reads it again after a crash finds it known.

use std::collections::BTreeMap;

use super::place::{LastMessage, Step};
use crate::Fingerprint;

/// The messages of a partition that were read and are not all done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracker {
    /// The next offset of the place in the store.
    placed: i64,
    /// Above every message that was read.
    position: i64,
    /// The messages from `placed` on that were read.
    read: BTreeMap<i64, Message>,
    open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Message {
    digest: Fingerprint,
    is_done: bool,
}

/// A message that is not above those before it: the log was read again from an earlier offset, and whoever did so starts
/// with a new tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message at offset {offset} is behind offset {position}, up to which the partition has been read")]
pub struct Behind {
    /// Where the message is.
    pub offset: i64,
    /// What was to be read next.
    pub position: i64,
}

impl Tracker {
    /// For the owner of a place whose next offset is `next`.
    pub const fn new(next: i64) -> Self {
        Self { placed: next, position: next, read: BTreeMap::new(), open: 0 }
    }

    /// A message was read, and is open now.
    ///
    /// # Errors
    ///
    /// If it is not above all that were read before.
    pub fn read(&mut self, offset: i64, digest: Fingerprint) -> Result<(), Behind> {
        let position = self.position;
        if offset < position {
            return Err(Behind { offset, position });
        }
        self.position = offset + 1;
        self.open += 1;
        self.read.insert(offset, Message { digest, is_done: false });
        Ok(())
    }

    /// There is no message below `position` that was not read: the log has a gap there.
    pub fn skip_to(&mut self, position: i64) {
        self.position = self.position.max(position);
    }

    /// The message at `offset` is done for good: it has taken effect, or was buried. Returns whether it was open.
    pub fn done(&mut self, offset: i64) -> bool {
        match self.read.get_mut(&offset) {
            Some(message) if !message.is_done => {
                message.is_done = true;
                self.open -= 1;
                true
            }
            _ => false,
        }
    }

    /// The offset below which everything is done.
    pub fn mark(&self) -> i64 {
        self.read.iter().find(|(_, message)| !message.is_done).map_or(self.position, |(offset, _)| *offset)
    }

    /// The step that brings the place to the mark; `None` if it is there.
    pub fn step(&self) -> Option<Step> {
        let mark = self.mark();
        let last = self.read.range(..mark).next_back();
        let last = last.map(|(offset, message)| LastMessage { offset: *offset, digest: message.digest });
        (mark > self.placed).then_some(Step { from: Some(self.placed), to: mark, last })
    }

    /// The place has taken this step.
    pub fn stepped(&mut self, step: &Step) {
        self.placed = self.placed.max(step.to);
        self.read = self.read.split_off(&self.placed);
    }

    /// What is read next.
    pub const fn position(&self) -> i64 {
        self.position
    }

    /// How many messages are open.
    pub const fn open(&self) -> usize {
        self.open
    }

    /// How many messages would be read again after a crash: those that are open, and those above the mark or the place that
    /// are done. A bound on it bounds memory, and the work after a crash.
    pub fn kept(&self) -> usize {
        self.read.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Fingerprint {
        Fingerprint::of([b"message".as_slice()])
    }

    #[test]
    fn the_place_follows_what_is_done_without_a_gap() {
        let mut tracker = Tracker::new(3);
        (3..=8).for_each(|offset| tracker.read(offset, digest()).unwrap());
        assert_eq!((tracker.step(), tracker.open()), (None, 6));
        assert!([4, 6, 8, 3].into_iter().all(|offset| tracker.done(offset)));
        assert_eq!(tracker.mark(), 5);
        let step = tracker.step().unwrap();
        let last = Some(LastMessage { offset: 4, digest: digest() });
        assert_eq!(step, Step { from: Some(3), to: 5, last });
        tracker.stepped(&step);
        assert_eq!((tracker.step(), tracker.open(), tracker.kept()), (None, 2, 4));
        assert!(tracker.done(5) && tracker.done(7) && !tracker.done(7));
        assert_eq!(tracker.step().unwrap().to, 9);
    }

    #[test]
    fn gaps_of_the_log_are_passed_with_what_is_behind_them() {
        let mut tracker = Tracker::new(0);
        tracker.read(10, digest()).unwrap();
        assert_eq!(tracker.mark(), 10);
        tracker.done(10);
        tracker.skip_to(15);
        assert_eq!(
            tracker.step(),
            Some(Step { from: Some(0), to: 15, last: Some(LastMessage { offset: 10, digest: digest() }) })
        );
        assert_eq!(tracker.read(14, digest()), Err(Behind { offset: 14, position: 15 }));
    }

    #[test]
    fn a_message_that_was_never_read_is_not_done() {
        let mut tracker = Tracker::new(0);
        assert!(!tracker.done(0));
        assert_eq!(tracker.mark(), 0);
    }
}
