//! Which events wait before they are tried again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Event, Pending, Skip};

/// The first and the longest pause before an event is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// From how many waiting keys of one topic on the whole topic waits: the topic is what fails.
const KEYS_OF_A_TOPIC_MAX: usize = 50;
/// How many can wait at once. Then the relay reads nothing more until one of them is due: nearly everything fails.
const WAITING_MAX: usize = 2_000;

/// What waits, each with its own pause.
#[derive(Debug, Default)]
pub(super) struct Deferred(HashMap<What, Wait>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum What {
    /// A key of this topic, by its hash; an event without a key, by its number.
    Key(String, i64),
    Event(String, u64),
    Topic(String),
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    due: Instant,
    pause: Duration,
}

impl What {
    fn of(event: &Event, seq: u64) -> Self {
        match event.key_hash() {
            Some(hash) => Self::Key(event.topic().to_owned(), hash),
            None => Self::Event(event.topic().to_owned(), seq),
        }
    }

    fn topic(&self) -> &str {
        match self {
            Self::Key(topic, _) | Self::Event(topic, _) | Self::Topic(topic) => topic,
        }
    }
}

impl Deferred {
    /// The event's try has failed: its key waits, or its topic with all keys.
    pub(super) fn defer(&mut self, pending: &Pending, now: Instant) {
        let event = &pending.event.event;
        let topic = What::Topic(event.topic().to_owned());
        if let Some(wait) = self.0.get_mut(&topic) {
            // Once for each of its turns.
            if wait.due <= now {
                *wait = wait.longer(now);
            }
            return;
        }
        let what = What::of(event, pending.seq);
        let first = Wait { due: now + PAUSE.0, pause: PAUSE.0 };
        self.0.entry(what).and_modify(|wait| *wait = wait.longer(now)).or_insert(first);
        let of_topic = || self.0.iter().filter(|(what, _)| what.topic() == event.topic());
        if of_topic().count() > KEYS_OF_A_TOPIC_MAX {
            let longest = of_topic().map(|(_, wait)| *wait).max_by_key(|wait| wait.pause).unwrap_or(first);
            self.0.retain(|what, _| what.topic() != event.topic());
            self.0.insert(topic, longest);
        }
    }

    /// The event is published: its key and its topic need not wait.
    pub(super) fn went(&mut self, pending: &Pending) {
        if !self.0.is_empty() {
            let event = &pending.event.event;
            self.0.remove(&What::of(event, pending.seq));
            self.0.remove(&What::Topic(event.topic().to_owned()));
        }
    }

    /// What to pass over now; `None` if nothing is to be read before the [next](Self::next_due) is due.
    pub(super) fn skip(&self, now: Instant) -> Option<Skip> {
        let mut skip = Skip::default();
        for (what, _) in self.0.iter().filter(|(_, wait)| now < wait.due) {
            match what {
                What::Key(_, hash) => skip.keys.push(*hash),
                What::Event(_, seq) => skip.seqs.push(*seq),
                What::Topic(topic) => skip.topics.push(topic.clone()),
            }
        }
        (skip.keys.len() + skip.seqs.len() + skip.topics.len() < WAITING_MAX).then_some(skip)
    }

    /// Forgets what was due so long ago that it would have been tried: an operator has removed it.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        self.0.retain(|_, wait| now < wait.due + PAUSE.1);
    }

    /// When the next of those that wait is due.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|wait| wait.due).filter(|due| now < *due).min()
    }
}

impl Wait {
    fn longer(self, now: Instant) -> Self {
        let pause = (self.pause * 2).min(PAUSE.1);
        Self { due: now + pause, pause }
    }
}

#[cfg(test)]
mod tests {
    use keylatch_core::outbox::{EventId, Published};

    use super::*;
    use crate::Timestamp;

    fn pending(topic: &str, key: Option<&str>, seq: u64) -> Pending {
        let event = Event::new(topic);
        let event = match key {
            Some(key) => event.with_key(key.to_owned()),
            None => event,
        };
        let event = Published { id: EventId::from_bytes([0; 16]), event };
        Pending { seq, event, created_at: Timestamp::from_millis(0), blocked: false, unreadable: None }
    }

    #[test]
    fn a_key_waits_longer_each_time_until_it_goes() {
        let (mut deferred, mut now) = (Deferred::default(), Instant::now());
        let one = pending("t", Some("k"), 1);
        let key = one.event.event.key_hash().unwrap();
        let mut pause = PAUSE.0;
        for _ in 0..20 {
            deferred.defer(&one, now);
            assert_eq!(deferred.skip(now).unwrap().keys, [key]);
            assert_eq!(deferred.next_due(now), Some(now + pause));
            now += pause;
            assert_eq!(deferred.skip(now), Some(Skip::default()));
            pause = (pause * 2).min(PAUSE.1);
        }
        assert_eq!(pause, PAUSE.1);
        deferred.went(&one);
        deferred.defer(&one, now);
        assert_eq!(deferred.next_due(now), Some(now + PAUSE.0));
    }

    #[test]
    fn an_event_without_a_key_waits_alone() {
        let (mut deferred, now) = (Deferred::default(), Instant::now());
        deferred.defer(&pending("t", None, 7), now);
        assert_eq!(deferred.skip(now), Some(Skip { seqs: vec![7], ..Skip::default() }));
    }

    #[test]
    fn a_topic_of_which_everything_fails_waits_as_a_whole() {
        let (mut deferred, now) = (Deferred::default(), Instant::now());
        deferred.defer(&pending("other", Some("k"), 0), now);
        for n in 0..=KEYS_OF_A_TOPIC_MAX {
            deferred.defer(&pending("t", Some(&n.to_string()), n as u64), now);
        }
        let skip = deferred.skip(now).unwrap();
        assert_eq!((skip.topics, skip.keys.len()), (vec!["t".to_owned()], 1));
        let then = now + PAUSE.0;
        for n in 0..5 {
            deferred.defer(&pending("t", Some(&n.to_string()), n), then);
        }
        assert_eq!(deferred.next_due(then), Some(then + PAUSE.0 * 2), "once for each turn");
        deferred.went(&pending("t", Some("0"), 0));
        assert!(deferred.skip(then).unwrap().topics.is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_waits() {
        let (mut deferred, now) = (Deferred::default(), Instant::now());
        for n in 0..WAITING_MAX {
            assert!(deferred.skip(now).is_some());
            deferred.defer(&pending(&format!("t-{n}"), Some("k"), 0), now);
        }
        assert_eq!(deferred.skip(now), None);
        let due = deferred.next_due(now).unwrap();
        assert!(deferred.skip(due).is_some());
        deferred.forget_gone(due + PAUSE.1);
        assert_eq!(deferred.next_due(now), None);
    }
}
