//! The relay: one for an outbox at a time, it hands events to a publisher, and deletes those that are acknowledged.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keylatch_core::failpoint::{self, Point};
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::deferred::Deferred;
use super::round::{Results, Round};
use super::{Fate, Outbox, Pending, Published, Publisher, Sent, Settled, telemetry};
use crate::leader::{Candidate, Held, LEADER_LEASE_MS_MIN};
use crate::store::Applied;
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

    /// With at most so many events in a batch, of which all before the last have fewer than so many bytes together.
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
                match relay.serve(&held, &stopping).await {
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

impl Relay {
    /// Publishes until the lease is lost or the relay is to stop.
    async fn serve(&self, held: &Held, stopping: &CancellationToken) -> Ended {
        let mut deferred = Deferred::default();
        let mut poll = POLL_MIN;
        let mut store_pause = STORE_PAUSE.0;
        let mut failing = false;
        let mut count_at = Instant::now();
        loop {
            if held.is_lost() {
                return Ended::Lost;
            }
            if stopping.is_cancelled() {
                return Ended::Stopping;
            }
            let now = Instant::now();
            let Some(until) = held.until(now, self.lease) else {
                self.wait(held, stopping, self.lease, async { held.renewed().await }).await;
                continue;
            };
            if count_at <= now {
                count_at = now + COUNTED_EACH;
                if let Ok(backlog) = self.store.backlog(COUNTED_MAX).await {
                    telemetry::backlog(&backlog);
                }
            }
            let Some(skip) = deferred.skip(now) else {
                let due = deferred.next_due(now).unwrap_or(now);
                self.wait(held, stopping, due - now, std::future::pending()).await;
                continue;
            };
            let pending = match self.store.pending(self.batch_events, self.batch_bytes, skip).await {
                Ok(pending) => pending,
                Err(error) => {
                    tracing::warn!(%error, "the outbox cannot be read; the relay keeps trying");
                    self.wait(held, stopping, store_pause, std::future::pending()).await;
                    store_pause = (store_pause * 2).min(STORE_PAUSE.1);
                    continue;
                }
            };
            store_pause = STORE_PAUSE.0;
            if pending.is_empty() {
                deferred.forget_gone(now);
                let pause = deferred.next_due(now).map_or(poll, |due| poll.min(due - now));
                let woken = self.wait(held, stopping, pause, self.store.woken()).await;
                poll = if woken { POLL_MIN } else { (poll * 2).min(self.poll_max) };
                continue;
            }
            poll = POLL_MIN;
            let round = Round::new(pending, self.refusals);
            let Some(sent) = self.publish(&round.events(), until, held).await else { return Ended::Lost };
            failpoint::hit(Point::AfterAcknowledgement);
            let results = round.end(sent);
            report(&results, &mut failing);
            let now = Instant::now();
            results.went.iter().for_each(|went| deferred.went(went));
            results.later.iter().for_each(|later| deferred.defer(later, now));
            if let Err(ended) = self.settle(results.settled, held, stopping).await {
                return ended;
            }
        }
    }

    /// Waits for `pause`, for `event`, or for a reason to stop. Returns whether it was `event`.
    async fn wait(
        &self,
        held: &Held,
        stopping: &CancellationToken,
        pause: Duration,
        event: impl Future<Output = ()>,
    ) -> bool {
        tokio::select! {
            biased;
            () = stopping.cancelled() => false,
            () = held.lost() => false,
            () = event => true,
            () = sleep(pause) => false,
        }
    }

    /// What the publisher says of these events; `None` if the lease was lost meanwhile.
    async fn publish(&self, events: &[Published], until: Instant, held: &Held) -> Option<Vec<Sent>> {
        if events.is_empty() {
            return Some(Vec::new());
        }
        let begun = Instant::now();
        let publishing = pin!(self.publisher.publish(events, until));
        let sent = tokio::select! {
            sent = publishing => sent,
            () = held.lost() => return None,
            () = sleep_until(until.into()) => {
                tracing::warn!("the publisher took too long; what it was given is tried again");
                Vec::new()
            }
        };
        telemetry::publish_took(begun.elapsed());
        Some(sent)
    }

    /// Writes what became of events, and tries until it is known that this was written: otherwise they would all be published
    /// again.
    async fn settle(&self, settled: Vec<Settled>, held: &Held, stopping: &CancellationToken) -> Result<(), Ended> {
        if settled.is_empty() {
            return Ok(());
        }
        let mut pause = STORE_PAUSE.0;
        loop {
            match self.store.settle(held.lease(), settled.clone()).await {
                Ok(Applied::Applied(_)) => {
                    telemetry::settled(&settled);
                    return Ok(());
                }
                Ok(Applied::Lost) => return Err(Ended::Lost),
                Err(error) => tracing::warn!(%error, "the outbox cannot be written; the relay keeps trying"),
            }
            self.wait(held, stopping, pause, std::future::pending()).await;
            if held.is_lost() {
                return Err(Ended::Lost);
            }
            if stopping.is_cancelled() {
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
