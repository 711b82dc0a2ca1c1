//! The relay: one for an outbox at a time, it hands events to a publisher, and deletes those that are acknowledged.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keylatch_core::failpoint::{self, Point};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::deferred::Deferred;
use super::round::{Results, Round};
use super::{Fate, Outbox, Pending, Published, Publisher, Sent, Settled, Skip, telemetry};
use crate::leader::{Candidate, Held, LEADER_LEASE_MS_MIN};
use crate::store::{self, Applied};
use crate::{Key, Scope};

/// The default lease. If a relay's process dies, the next one begins after at most so long.
pub const RELAY_LEASE: Duration = Duration::from_secs(15);
/// The shortest lease, in milliseconds: a publisher needs time to say what became of a batch.
pub const RELAY_LEASE_MS_MIN: u64 = LEADER_LEASE_MS_MIN;
/// The default of the most events in one batch.
pub const BATCH_EVENTS: usize = 1_000;
/// The default of the most bytes in one batch, but for its last event.
pub const BATCH_BYTES: usize = 4 * 1_024 * 1_024;
/// The default of the longest pause between two looks at an outbox in which nothing waits. A commit in the same process
/// ends it at once; this is for those of other processes.
pub const POLL_MAX: Duration = Duration::from_millis(500);

/// The scope and the key of the lease. Scopes of HTTP requests have an operation that begins with a method, so none is the
/// same.
const SCOPE: (&str, &str) = ("keylatch", "outbox");
const KEY: &str = "relay";

/// The first pause after the last event; each is twice as long as the one before.
const POLL_MIN: Duration = Duration::from_millis(5);
/// The first and the longest pause after the store has failed.
const STORE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often the events are counted, for the metrics, and how far.
const COUNTED_EACH: Duration = Duration::from_secs(10);
const COUNTED_MAX: u64 = 10_000;

/// What becomes of an event that can never be published as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Refusals {
    /// It holds back the events behind it with the same topic and key, until an operator
    /// [retries](Outbox::retry) or [discards](Outbox::discard) it. Other keys go on.
    #[default]
    HoldBackTheKey,
    /// It is put aside for an operator, and its key goes on without it.
    SetAside,
}

/// A setting of a relay that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRelay {
    /// The lease is too short.
    #[error("the lease of a relay is at least {RELAY_LEASE_MS_MIN} ms")]
    Lease,
    /// A batch would have no event.
    #[error("a batch of a relay has at least one event and one byte")]
    Batch,
}

/// Publishes the events of an outbox.
///
/// Start one in each process of a service. One of them has a lease, which is a record in the same store, and publishes; the
/// others stand by. Everything that it writes carries epoch and owner of the lease, so a relay that was paused past its
/// lease changes nothing.
///
/// An event is handed out at least once, and again if its acknowledgement was lost: always with the same id. The events of
/// one topic and one key are handed out in the order of their transactions, each after the one before was acknowledged. If
/// one has to be tried again, its key waits for a pause that grows up to 30 s, and others go on.
#[derive(Debug)]
pub struct Relay {
    store: Arc<dyn Outbox>,
    publisher: Arc<dyn Publisher>,
    lease: Duration,
    refusals: Refusals,
    batch_events: usize,
    batch_bytes: usize,
    poll_max: Duration,
}

impl Relay {
    /// A relay from the outbox in `store` to `publisher`.
    pub fn new(store: impl Outbox, publisher: impl Publisher) -> Self {
        Self {
            store: Arc::new(store),
            publisher: Arc::new(publisher),
            lease: RELAY_LEASE,
            refusals: Refusals::default(),
            batch_events: BATCH_EVENTS,
            batch_bytes: BATCH_BYTES,
            poll_max: POLL_MAX,
        }
    }

    /// With this lease. All relays of an outbox should have the same. A publisher must know what became of a batch within
    /// less than half of it.
    ///
    /// # Errors
    ///
    /// If it is shorter than [`RELAY_LEASE_MS_MIN`].
    pub fn with_lease(self, lease: Duration) -> Result<Self, InvalidRelay> {
        if lease < Duration::from_millis(RELAY_LEASE_MS_MIN) {
            return Err(InvalidRelay::Lease);
        }
        Ok(Self { lease, ..self })
    }

    /// With this treatment of events that can never be published.
    #[must_use]
    pub fn with_refusals(self, refusals: Refusals) -> Self {
        Self { refusals, ..self }
    }

    /// With at most so many events in a batch, of which all before the last have fewer than so many bytes together. Two
    /// batches are in memory at once: one that is published, and the next.
    ///
    /// # Errors
    ///
    /// If either is zero.
    pub fn with_batch(self, events: usize, bytes: usize) -> Result<Self, InvalidRelay> {
        if events == 0 || bytes == 0 {
            return Err(InvalidRelay::Batch);
        }
        Ok(Self { batch_events: events, batch_bytes: bytes, ..self })
    }

    /// With at most this pause between two looks at an outbox in which nothing waits, and at least 5 ms.
    #[must_use]
    pub fn with_poll_max(self, poll_max: Duration) -> Self {
        Self { poll_max: poll_max.max(POLL_MIN), ..self }
    }

    /// Starts it on a task of its own, which ends when the returned handle is dropped.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> RunningRelay {
        let stopping = CancellationToken::new();
        let task = AbortOnDropHandle::new(tokio::spawn(run(self, stopping.clone())));
        RunningRelay { stopping, task }
    }
}

/// A relay that has started.
#[derive(Debug)]
pub struct RunningRelay {
    stopping: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl RunningRelay {
    /// Stops it: it hands out nothing more, settles what it has handed out, and gives its lease back, within this time.
    /// Returns whether it has done so; otherwise it was cut off, its lease ends by itself, and some events may be published
    /// twice.
    pub async fn stop(self, within: Duration) -> bool {
        let Self { stopping, mut task } = self;
        stopping.cancel();
        matches!(timeout(within, &mut task).await, Ok(Ok(())))
    }
}

/// Why a relay does not go on with its lease.
enum Ended {
    Stopping,
    Lost,
}

async fn run(relay: Relay, stopping: CancellationToken) {
    let scope = Scope::new(SCOPE.0).and_then(|scope| scope.for_operation(SCOPE.1)).expect("it is a valid scope");
    let key = Key::new(KEY).expect("it is a valid key");
    let candidate = Candidate::new(relay.store.clone(), scope, key, relay.lease);
    let mut failing = false;
    while !stopping.is_cancelled() {
        match candidate.win().await {
            Ok(Some(held)) => {
                failing = false;
                tracing::info!(epoch = held.lease().epoch.as_u64(), "this process publishes the events of the outbox");
                let _active = Active::begin();
                match Work::new(&relay, &held, &stopping).go_on().await {
                    Ended::Stopping => return candidate.release(held).await,
                    Ended::Lost => tracing::warn!("another process has taken over the outbox; this one stands by"),
                }
            }
            Ok(None) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the outbox cannot be reached; the relay keeps trying");
                }
                failing = true;
            }
        }
        let _ = timeout(candidate.pause(), stopping.cancelled()).await;
    }
}

/// Counts as active until it is dropped, also by being cut off.
struct Active;

impl Active {
    fn begin() -> Self {
        telemetry::active(true);
        Self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        telemetry::active(false);
    }
}

/// A relay at work on its lease.
///
/// While a batch is published, the results of the one before are written, and the next one is read.
struct Work<'w> {
    relay: &'w Relay,
    held: &'w Held,
    stopping: &'w CancellationToken,
    deferred: Deferred,
    /// The next batch.
    ahead: Batch,
    /// What became of the batch before, if that is not written yet. Only if there is something ahead.
    settled: Vec<Settled>,
    poll: Duration,
    store_pause: Duration,
    failing: bool,
    count_at: Instant,
}

/// Events that were read together, and are published together.
#[derive(Default)]
struct Batch {
    pending: Vec<Pending>,
    /// Whether a batch is full, so that more may wait.
    more: bool,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Those of other keys. What is left out is read again, behind the events that come before it.
    fn without(self, keys: &HashSet<i64>) -> Self {
        let Self { mut pending, more } = self;
        if !keys.is_empty() {
            pending.retain(|pending| pending.event.event.key_hash().is_none_or(|key| !keys.contains(&key)));
        }
        Self { pending, more }
    }
}

impl<'w> Work<'w> {
    fn new(relay: &'w Relay, held: &'w Held, stopping: &'w CancellationToken) -> Self {
        Self {
            relay,
            held,
            stopping,
            deferred: Deferred::default(),
            ahead: Batch::default(),
            settled: Vec::new(),
            poll: POLL_MIN,
            store_pause: STORE_PAUSE.0,
            failing: false,
            count_at: Instant::now(),
        }
    }

    /// Publishes until the lease is lost or the relay is to stop.
    async fn go_on(mut self) -> Ended {
        loop {
            if let Err(ended) = self.turn().await {
                return ended;
            }
        }
    }

    /// Publishes one batch, or waits.
    async fn turn(&mut self) -> Result<(), Ended> {
        if self.held.is_lost() {
            return Err(Ended::Lost);
        }
        if self.stopping.is_cancelled() {
            self.settle().await?;
            return Err(Ended::Stopping);
        }
        let now = Instant::now();
        let Some(until) = self.held.until(now, self.relay.lease) else {
            self.wait(self.relay.lease, self.held.renewed()).await;
            return Ok(());
        };
        self.count(now).await;
        let Some(skip) = self.deferred.skip(now) else {
            self.settle().await?;
            self.ahead = Batch::default();
            let due = self.deferred.next_due(now).unwrap_or(now);
            self.wait(due - now, std::future::pending()).await;
            return Ok(());
        };
        if self.ahead.is_empty() {
            self.read_first(skip.clone(), now).await;
        }
        if self.ahead.is_empty() {
            return Ok(());
        }
        self.publish(skip, until).await?;
        if self.ahead.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    async fn count(&mut self, now: Instant) {
        if self.count_at <= now {
            self.count_at = now + COUNTED_EACH;
            if let Ok(backlog) = self.relay.store.backlog(COUNTED_MAX).await {
                telemetry::backlog(&backlog);
            }
        }
    }

    /// Reads the first events, or waits if there are none or they cannot be read.
    async fn read_first(&mut self, skip: Skip, now: Instant) {
        match self.read(skip).await {
            Ok(read) if read.is_empty() => {
                self.deferred.forget_gone(now);
                let pause = self.deferred.next_due(now).map_or(self.poll, |due| self.poll.min(due - now));
                let woken = self.wait(pause, self.relay.store.woken()).await;
                self.poll = if woken { POLL_MIN } else { (self.poll * 2).min(self.relay.poll_max) };
                self.store_pause = STORE_PAUSE.0;
            }
            Ok(read) => {
                self.ahead = read;
                self.poll = POLL_MIN;
                self.store_pause = STORE_PAUSE.0;
            }
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read; the relay keeps trying");
                self.wait(self.store_pause, std::future::pending()).await;
                self.store_pause = (self.store_pause * 2).min(STORE_PAUSE.1);
            }
        }
    }

    async fn read(&self, skip: Skip) -> Result<Batch, store::Error> {
        let Relay { store, batch_events, batch_bytes, .. } = self.relay;
        let pending = store.pending(*batch_events, *batch_bytes, skip).await?;
        let bytes: usize = pending.iter().map(|pending| pending.event.event.bytes()).sum();
        Ok(Batch { more: pending.len() >= *batch_events || bytes >= *batch_bytes, pending })
    }

    /// Publishes what is ahead. What is read meanwhile is ahead then, without the keys of which something did not go.
    async fn publish(&mut self, skip: Skip, until: Instant) -> Result<(), Ended> {
        let Batch { pending, more } = std::mem::take(&mut self.ahead);
        let round = Round::new(pending, self.relay.refusals);
        let events = round.events();
        let settled = std::mem::take(&mut self.settled);
        let beside = async {
            self.write(settled).await?;
            if !more {
                return Ok(Batch::default());
            }
            let mut skip = skip;
            skip.seqs.extend(round.seqs());
            // After an error, it is read again once nothing is ahead, and the error is reported then.
            Ok(self.read(skip).await.unwrap_or_default())
        };
        let (sent, read) = tokio::join!(self.hand_out(&events, until), beside);
        let (sent, read) = (sent.ok_or(Ended::Lost)?, read?);
        failpoint::hit(Point::AfterAcknowledgement);
        let results = round.end(sent);
        report(&results, &mut self.failing);
        let now = Instant::now();
        results.went.iter().for_each(|went| self.deferred.went(went));
        results.later.iter().for_each(|later| self.deferred.defer(later, now));
        self.ahead = read.without(&results.stopped);
        self.settled = results.settled;
        Ok(())
    }

    /// Waits for `pause`, for `event`, or for a reason to stop. Returns whether it was `event`.
    async fn wait(&self, pause: Duration, event: impl Future<Output = ()>) -> bool {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => false,
            () = self.held.lost() => false,
            () = event => true,
            () = sleep(pause) => false,
        }
    }

    /// What the publisher says of these events; `None` if the lease was lost meanwhile.
    async fn hand_out(&self, events: &[Published], until: Instant) -> Option<Vec<Sent>> {
        if events.is_empty() {
            return Some(Vec::new());
        }
        let begun = Instant::now();
        let publishing = pin!(self.relay.publisher.publish(events, until));
        let sent = tokio::select! {
            sent = publishing => sent,
            () = self.held.lost() => return None,
            () = sleep_until(until.into()) => {
                tracing::warn!("the publisher took too long; what it was given is tried again");
                Vec::new()
            }
        };
        telemetry::publish_took(begun.elapsed());
        Some(sent)
    }

    /// Writes what became of the batch before.
    async fn settle(&mut self) -> Result<(), Ended> {
        let settled = std::mem::take(&mut self.settled);
        self.write(settled).await
    }

    /// Writes what became of events, and tries until it is known that this was written: otherwise they would all be published
    /// again.
    async fn write(&self, settled: Vec<Settled>) -> Result<(), Ended> {
        if settled.is_empty() {
            return Ok(());
        }
        let mut pause = STORE_PAUSE.0;
        loop {
            match self.relay.store.settle(self.held.lease(), settled.clone()).await {
                Ok(Applied::Applied(_)) => {
                    telemetry::settled(&settled);
                    return Ok(());
                }
                Ok(Applied::Lost) => return Err(Ended::Lost),
                Err(error) => tracing::warn!(%error, "the outbox cannot be written; the relay keeps trying"),
            }
            self.wait(pause, std::future::pending()).await;
            if self.held.is_lost() {
                return Err(Ended::Lost);
            }
            if self.stopping.is_cancelled() {
                return Err(Ended::Stopping);
            }
            pause = (pause * 2).min(STORE_PAUSE.1);
        }
    }
}

/// Logs what an operator has to know: each refusal, and when tries begin and cease to fail.
fn report(results: &Results, failing: &mut bool) {
    for Settled { place, fate } in &results.settled {
        if let Fate::Refused(reason) | Fate::SetAside(reason) = fate {
            let holds_back = matches!(fate, Fate::Refused(_));
            tracing::error!(seq = place.seq, id = %place.id, reason, holds_back, "an event cannot be published");
        }
    }
    if results.out_of_order > 0 {
        tracing::error!(events = results.out_of_order, "the publisher does not keep the order of keys");
    }
    telemetry::later(results.later.len());
    if let (Some(first), Some(reason)) = (results.later.first(), &results.reason) {
        if !*failing {
            let Pending { seq, event: Published { id, .. }, .. } = first;
            tracing::warn!(seq, %id, reason, "events could not be published; the relay keeps trying");
        }
        *failing = true;
    } else if !results.went.is_empty() && *failing {
        tracing::info!("events are published again");
        *failing = false;
    }
}
