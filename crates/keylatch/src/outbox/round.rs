//! One round of a relay: which events are handed out, and what their results mean. Pure.

use std::collections::HashSet;

use super::{Fate, Pending, Published, Refusals, Sent, Settled};

/// The longest reason that is kept.
const REASON_CHARS_MAX: usize = 500;

/// The events of one read.
#[derive(Debug)]
pub(super) struct Round {
    /// Those that may be published, in order, each with the hash of its key.
    free: Vec<(Pending, Option<i64>)>,
    /// What to settle: at first those behind a refused event, and those that cannot be read.
    settled: Vec<Settled>,
    /// The keys of which nothing more may be published in this round.
    stopped: HashSet<i64>,
    refusals: Refusals,
}

/// What a round has come to.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// What to settle.
    pub(super) settled: Vec<Settled>,
    /// Those that are published, and those that are to be tried again later.
    pub(super) went: Vec<Pending>,
    pub(super) later: Vec<Pending>,
    /// Why the first of these was not published.
    pub(super) reason: Option<String>,
    /// How many results came for events whose key had already stopped.
    pub(super) out_of_order: usize,
    /// The keys that have events which did not go. What was read of them meanwhile must not be published before those.
    pub(super) stopped: HashSet<i64>,
}

impl Round {
    pub(super) fn new(pending: Vec<Pending>, refusals: Refusals) -> Self {
        let mut round = Self { free: Vec::new(), settled: Vec::new(), stopped: HashSet::new(), refusals };
        // The keys of events that may be published.
        let mut free = HashSet::new();
        for pending in pending {
            let (place, key) = (pending.place(), pending.event.event.key_hash());
            let is_in = |keys: &HashSet<i64>| key.is_some_and(|key| keys.contains(&key));
            if pending.blocked {
                round.settled.push(Settled { place, fate: Fate::Held });
                round.stopped.extend(key);
            } else if is_in(&round.stopped) || pending.unreadable.is_some() && is_in(&free) {
                round.stopped.extend(key);
            } else if let Some(error) = pending.unreadable {
                round.settled.push(Settled { place, fate: round.refused(format!("it cannot be read: {error}")) });
                round.stopped.extend(key);
            } else {
                free.extend(key);
                round.free.push((pending, key));
            }
        }
        round
    }

    /// The numbers of all events of this round, until they are settled.
    pub(super) fn seqs(&self) -> impl Iterator<Item = u64> {
        let settled = self.settled.iter().map(|settled| settled.place.seq);
        self.free.iter().map(|(pending, _)| pending.seq).chain(settled)
    }

    fn refused(&self, reason: String) -> Fate {
        match self.refusals {
            Refusals::HoldBackTheKey => Fate::Refused(cut(reason)),
            Refusals::SetAside => Fate::SetAside(cut(reason)),
        }
    }

    /// The events to publish, in order.
    pub(super) fn events(&self) -> Vec<Published> {
        self.free.iter().map(|(pending, _)| pending.event.clone()).collect()
    }

    /// What the publisher's results mean. A result that is missing means "later".
    ///
    /// After an event that was not acknowledged, nothing of its key counts: it is handed out again, after it.
    pub(super) fn end(mut self, sent: Vec<Sent>) -> Results {
        let (free, settled) = (std::mem::take(&mut self.free), std::mem::take(&mut self.settled));
        let mut results = Results { settled, ..Results::default() };
        // Those of this round may have events before the one that stopped them.
        let mut stopped: HashSet<i64> = HashSet::new();
        let mut sent = sent.into_iter();
        for (pending, key) in free {
            let sent = sent.next().unwrap_or_else(|| Sent::Later("the publisher did not say".to_owned()));
            if key.is_some_and(|key| stopped.contains(&key)) {
                results.out_of_order += usize::from(!matches!(sent, Sent::Later(_)));
                continue;
            }
            if !matches!(sent, Sent::Acknowledged) {
                stopped.extend(key);
            }
            let place = pending.place();
            let fate = match sent {
                Sent::Acknowledged => {
                    results.went.push(pending);
                    Fate::Acknowledged
                }
                Sent::Refused(reason) => self.refused(reason),
                Sent::Later(reason) => {
                    results.reason.get_or_insert(reason);
                    results.later.push(pending);
                    continue;
                }
            };
            results.settled.push(Settled { place, fate });
        }
        stopped.extend(self.stopped);
        results.stopped = stopped;
        results
    }
}

fn cut(reason: String) -> String {
    match reason.char_indices().nth(REASON_CHARS_MAX) {
        Some((end, _)) => reason[..end].to_owned(),
        None => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::outbox::{Event, EventId, Place};

    fn pending(seq: u64, key: Option<&str>, blocked: bool) -> Pending {
        let event = Event::new("t");
        let event = match key {
            Some(key) => event.with_key(key.to_owned()),
            None => event,
        };
        let event = Published { id: EventId::from_bytes([u8::try_from(seq).unwrap(); 16]), event };
        Pending { seq, event, created_at: Timestamp::from_millis(0), blocked, unreadable: None }
    }

    fn settled(seq: u8, fate: Fate) -> Settled {
        Settled { place: Place { seq: seq.into(), id: EventId::from_bytes([seq; 16]) }, fate }
    }

    fn no() -> String {
        "no".to_owned()
    }

    #[test]
    fn each_key_goes_on_up_to_its_first_event_that_did_not() {
        let read = vec![
            pending(1, Some("a"), false),
            pending(2, Some("b"), false),
            pending(3, Some("held"), true),
            pending(4, None, false),
            pending(5, Some("a"), false),
            pending(6, Some("b"), false),
            pending(7, None, false),
            pending(8, Some("a"), false),
        ];
        let round = Round::new(read, Refusals::HoldBackTheKey);
        assert_eq!(round.events().len(), 7, "what is held back is not handed out");
        let sent = vec![
            Sent::Acknowledged,
            Sent::Refused(no()),
            Sent::Later(no()),
            Sent::Later(no()),
            // A publisher that does not keep the order is not believed.
            Sent::Acknowledged,
            Sent::Acknowledged,
            Sent::Refused(no()),
        ];
        let results = round.end(sent);
        let expected = [
            settled(3, Fate::Held),
            settled(1, Fate::Acknowledged),
            settled(2, Fate::Refused(no())),
            settled(7, Fate::Acknowledged),
        ];
        assert_eq!(results.settled, expected);
        assert_eq!(results.later.iter().map(|pending| pending.seq).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(results.went.iter().map(|pending| pending.seq).collect::<Vec<_>>(), [1, 7]);
        assert_eq!((results.out_of_order, results.reason), (2, Some(no())));
    }

    #[test]
    fn a_refused_event_is_set_aside_by_choice() {
        let round = Round::new(vec![pending(1, Some("a"), false), pending(2, Some("a"), false)], Refusals::SetAside);
        let sent = vec![Sent::Refused("é".repeat(REASON_CHARS_MAX + 1)), Sent::Later(no())];
        let results = round.end(sent);
        assert_eq!(results.settled, [settled(1, Fate::SetAside("é".repeat(REASON_CHARS_MAX)))]);
        assert!(results.later.is_empty(), "the next round has the second");
    }

    #[test]
    fn an_event_that_cannot_be_read_stops_its_key_alone() {
        let unreadable = |seq, key| {
            let unreadable = Some(keylatch_core::DecodeError::UnknownFormat(9));
            Pending { unreadable, ..pending(seq, key, false) }
        };
        let read = || {
            vec![
                unreadable(1, Some("a")),
                pending(2, Some("a"), false),
                pending(3, Some("b"), false),
                // Not yet: the one before it may fail, and is not to wait for it.
                unreadable(4, Some("b")),
                pending(5, Some("b"), false),
                unreadable(6, None),
                pending(7, None, false),
            ]
        };
        let reason = "it cannot be read: stored in format 9, which this version does not know; upgrade this process";
        let seqs = |pending: &[Pending]| pending.iter().map(|pending| pending.seq).collect::<Vec<_>>();
        for (refusals, fate) in [
            (Refusals::HoldBackTheKey, Fate::Refused(reason.to_owned())),
            (Refusals::SetAside, Fate::SetAside(reason.to_owned())),
        ] {
            let round = Round::new(read(), refusals);
            let free: Vec<u64> = round.free.iter().map(|(pending, _)| pending.seq).collect();
            assert_eq!(free, [3, 7]);
            assert_eq!(round.seqs().collect::<Vec<_>>(), [3, 7, 1, 6], "4 is read again");
            let results = round.end(vec![Sent::Later(no()), Sent::Acknowledged]);
            let expected = [settled(1, fate.clone()), settled(6, fate), settled(7, Fate::Acknowledged)];
            assert_eq!(results.settled, expected);
            assert_eq!(seqs(&results.later), [3]);
        }
    }

    #[test]
    fn a_missing_result_means_later() {
        let round = Round::new(vec![pending(1, None, false), pending(2, None, false)], Refusals::HoldBackTheKey);
        let results = round.end(vec![Sent::Acknowledged]);
        assert_eq!((results.went.len(), results.later.len()), (1, 1));
    }
}
