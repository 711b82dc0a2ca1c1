//! The contract of an outbox: two lists, under the lock of the records.

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, ready};
use keylatch_core::outbox::{Backlog, Events, Fate, Outbox, Pending, Place, Published, Settled, Skip, Stuck, Why};
use keylatch_core::store::{Applied, At, Count, Error, ErrorKind};
use keylatch_core::{DecodeError, Lease, State, Timestamp};

use crate::{Mistake, Store};

/// The outbox.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Vec<Pending>,
    stuck: Vec<Stuck>,
    latest: u64,
    /// The events that cannot be read, by their numbers.
    damaged: BTreeMap<u64, DecodeError>,
    /// Where a mistaken reader goes on.
    read_to: u64,
}

impl Queue {
    /// Adds the events of a transaction.
    pub(crate) fn extend(&mut self, events: &Events, now: Timestamp) {
        for event in events.as_slice() {
            self.latest += 1;
            let event = event.clone();
            let (blocked, unreadable) = (false, None);
            self.waiting.push(Pending { seq: self.latest, event, created_at: now, blocked, unreadable });
        }
    }

    fn damage(&mut self, seq: u64, event: Published, error: DecodeError) {
        let pending = self.waiting.iter_mut().find(|pending| pending.seq == seq).expect("the event waits");
        (pending.event, pending.unreadable) = (event, Some(error));
        self.damaged.insert(seq, error);
    }

    fn is_blocked(&self, event: &Published) -> bool {
        let holds =
            |stuck: &Stuck| matches!(stuck.why, Why::Refused(_)) && stuck.event.event.is_in_order_with(&event.event);
        self.stuck.iter().any(holds)
    }

    fn settle(&mut self, Settled { place, fate }: Settled, now: Timestamp, by_number: bool) {
        let is_it = |pending: &Pending| pending.place() == place || by_number && pending.seq == place.seq;
        let Some(at) = self.waiting.iter().position(is_it) else { return };
        let why = match fate {
            Fate::Acknowledged => return drop(self.waiting.remove(at)),
            Fate::Refused(reason) => Why::Refused(reason),
            Fate::Held if !self.is_blocked(&self.waiting[at].event) => return,
            Fate::Held => Why::Held,
            Fate::SetAside(reason) => Why::SetAside(reason),
        };
        let Pending { seq, event, created_at, .. } = self.waiting.remove(at);
        self.stuck.push(Stuck { seq, event, created_at, stuck_at: now, why });
        self.stuck.sort_by_key(|stuck| stuck.seq);
    }

    fn release(&mut self, place: Place, again: bool) -> bool {
        let is_it = |stuck: &Stuck| stuck.place() == place && stuck.why != Why::Held;
        let Some(at) = self.stuck.iter().position(is_it) else { return false };
        let released = self.stuck.remove(at);
        let mut back = Vec::new();
        if matches!(released.why, Why::Refused(_)) {
            let follows =
                |stuck: &Stuck| stuck.why == Why::Held && stuck.event.event.is_in_order_with(&released.event.event);
            let (held, stuck) = std::mem::take(&mut self.stuck).into_iter().partition(follows);
            (back, self.stuck) = (held, stuck);
        }
        if again {
            back.push(released);
        }
        let damaged = &self.damaged;
        self.waiting.extend(back.into_iter().map(|Stuck { seq, event, created_at, .. }| Pending {
            seq,
            event,
            created_at,
            blocked: false,
            unreadable: damaged.get(&seq).copied(),
        }));
        self.waiting.sort_by_key(|pending| pending.seq);
        true
    }
}

impl Store {
    /// Leaves `event` of the one with this number, which waits and cannot be read for this reason, as a damaged store
    /// would.
    ///
    /// # Panics
    ///
    /// If there is no such event.
    pub fn damage_event(&self, seq: u64, event: Published, error: DecodeError) {
        self.state.lock().queue.damage(seq, event, error);
    }
}

type Reply<T> = BoxFuture<'static, Result<T, Error>>;

fn reply<T: Send + 'static>(value: T) -> Reply<T> {
    Box::pin(ready(Ok(value)))
}

impl Outbox for Store {
    fn pending(&self, limit: usize, bytes: usize, skip: Skip) -> BoxFuture<'_, Result<Vec<Pending>, Error>> {
        let state = &mut *self.state.lock();
        let queue = &mut state.queue;
        let after = if self.makes(Mistake::CursorScans) { queue.read_to } else { 0 };
        let skips = |Pending { seq, event, .. }: &Pending| {
            let key = event.event.key_hash();
            *seq <= after
                || skip.seqs.contains(seq)
                || skip.topics.iter().any(|topic| topic == event.event.topic())
                || key.is_some_and(|key| skip.keys.contains(&key))
        };
        let mut before = 0;
        let mut found = Vec::new();
        for pending in queue.waiting.iter().filter(|pending| !skips(pending)) {
            if found.len() == limit || before >= bytes {
                break;
            }
            if pending.unreadable.is_some() && self.makes(Mistake::UnreadableStopsAll) {
                return Box::pin(ready(Err(Error::new(ErrorKind::Corrupt, "an event cannot be read"))));
            }
            before += pending.event.event.bytes();
            let blocked = queue.is_blocked(&pending.event) && !self.makes(Mistake::RefusedHoldsBackNothing);
            found.push(Pending { blocked, ..pending.clone() });
        }
        queue.read_to = queue.read_to.max(found.last().map_or(0, |last| last.seq));
        reply(found)
    }

    fn settle(&self, lease: Lease, settled: Vec<Settled>) -> BoxFuture<'_, Result<Applied, Error>> {
        let (state, now) = (&mut *self.state.lock(), self.clock.now());
        let record = state.records.get(&lease.id);
        let ours = record.is_some_and(|record| {
            record.epoch == lease.epoch && record.owner == lease.owner && matches!(record.state, State::Running { .. })
        });
        if !ours && !self.makes(Mistake::SettlesWithoutLease) {
            return reply(Applied::Lost);
        }
        for settled in settled {
            state.queue.settle(settled, now, self.makes(Mistake::SettlesByNumber));
        }
        reply(Applied::Applied(now))
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.published.notified())
    }

    fn wake(&self) {
        self.published.notify_one();
    }

    fn stuck(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Stuck>, Error>> {
        let after = |stuck: &&Stuck| after.is_none_or(|after| stuck.seq > after);
        reply(self.state.lock().queue.stuck.iter().filter(after).take(limit).cloned().collect())
    }

    fn retry(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        reply(self.state.lock().queue.release(place, true))
    }

    fn discard(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        reply(self.state.lock().queue.release(place, false))
    }

    fn backlog(&self, limit: u64) -> BoxFuture<'_, Result<At<Backlog>, Error>> {
        let queue = &self.state.lock().queue;
        let count = |is: fn(&Why) -> bool| {
            Count::up_to(queue.stuck.iter().filter(|stuck| is(&stuck.why)).count() as u64, limit)
        };
        let value = Backlog {
            waiting: Count::up_to(queue.waiting.len() as u64, limit),
            refused: count(|why| matches!(why, Why::Refused(_))),
            held: count(|why| *why == Why::Held),
            set_aside: count(|why| matches!(why, Why::SetAside(_))),
            oldest: queue.waiting.first().map(|first| first.created_at),
        };
        reply(At { value, now: self.clock.now() })
    }
}
