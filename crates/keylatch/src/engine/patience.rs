//! How long a request waits for the run of another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Request;
use super::flight::{End, Flight, Flights, Waiter};
use super::{Inner, later};

/// The first and the longest pause between looks at a run in another process.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// How long a request waits for another run, and the place that it holds meanwhile.
pub(super) struct Patience<'e> {
    flights: &'e Arc<Flights>,
    caller: u64,
    /// `None` if it does not wait at all.
    deadline: Option<Instant>,
    pause: Duration,
    tries: u32,
    /// Whether a run that it waited for has failed.
    saw_failure: bool,
    place: Option<Waiter>,
    /// When it took its place.
    since: Option<Instant>,
}

/// How often a claim may find its key free and then lose it to another, before its caller is told.
const TRIES_MAX: u32 = 16;

impl<'e> Patience<'e> {
    pub(super) fn new(engine: &'e Inner, request: &Request) -> Self {
        let (caller, wait) = (request.scope.caller_hash(), request.wait.min(engine.limits.wait_max));
        let deadline = (!wait.is_zero()).then(|| later(Instant::now(), wait));
        let (pause, tries, saw_failure) = (POLL.0, 0, false);
        Self { flights: &engine.flights, caller, deadline, pause, tries, saw_failure, place: None, since: None }
    }

    /// Waits for the end of `flight`; `None` once patience is over.
    ///
    /// It is over when a second run fails. When a run with many waiting requests fails, one of them runs again at once.
    /// If that run also fails, the others are told to come back later, and do not run one after the other.
    pub(super) async fn follow(&mut self, flight: &Flight) -> Option<End> {
        let deadline = self.take_place()?;
        let end = tokio::time::timeout_at(deadline.into(), flight.ended()).await.ok()?;
        if matches!(end, End::Failed) && std::mem::replace(&mut self.saw_failure, true) {
            self.deadline = None;
            return None;
        }
        Some(end)
    }

    /// Pauses before the store is asked again; `false` once patience is over.
    pub(super) async fn pause(&mut self) -> bool {
        let Some(deadline) = self.take_place() else { return false };
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(POLL.1);
        true
    }

    /// How long it has waited; zero if it has not.
    pub(super) fn waited(&self) -> Duration {
        self.since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// A place among the waiting requests, and until when to wait.
    fn take_place(&mut self) -> Option<Instant> {
        let deadline = self.deadline?;
        let now = Instant::now();
        if deadline <= now {
            return None;
        }
        if self.place.is_none() {
            self.place = Some(self.flights.wait(self.caller)?);
            self.since = Some(now);
        }
        Some(deadline)
    }

    /// Whether the store may be asked once more without a pause.
    pub(super) fn spend_try(&mut self) -> bool {
        self.tries += 1;
        self.tries < TRIES_MAX
    }
}
