//! How long a request waits for another's run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::Final;
use super::flight::{Flight, Flights, Waiter};
use super::{Inner, later};

/// How often to look whether a run in another process has ended: at first, and at the most.
const POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// How long a request is ready to wait for another's run, and for what it holds a place meanwhile.
pub(super) struct Patience<'e> {
    flights: &'e Arc<Flights>,
    /// `None` where it does not wait at all.
    deadline: Option<Instant>,
    pause: Duration,
    tries: u32,
    place: Option<Waiter>,
}

/// How often a claim may find its key just freed and be beaten to it, before its caller is told so.
const TRIES_MAX: u32 = 16;

impl<'e> Patience<'e> {
    pub(super) fn new(engine: &'e Inner, wait: Duration) -> Self {
        let wait = wait.min(engine.limits.wait_max);
        let deadline = (!wait.is_zero()).then(|| later(Instant::now(), wait));
        Self { flights: &engine.flights, deadline, pause: POLL.0, tries: 0, place: None }
    }

    /// Waits for the end of `flight`: `Some` of what it ended with, or `None` once patience is over.
    pub(super) async fn follow(&mut self, flight: &Flight) -> Option<Option<Final>> {
        let deadline = self.take_place()?;
        tokio::time::timeout_at(deadline.into(), flight.ended()).await.ok()
    }

    /// Pauses before the store is asked again; `false` once patience is over.
    pub(super) async fn pause(&mut self) -> bool {
        let Some(deadline) = self.take_place() else { return false };
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(POLL.1);
        true
    }

    /// A place among those who wait, and until when to wait there.
    fn take_place(&mut self) -> Option<Instant> {
        let deadline = self.deadline.filter(|deadline| Instant::now() < *deadline)?;
        if self.place.is_none() {
            self.place = Some(self.flights.wait()?);
        }
        Some(deadline)
    }

    /// Whether the store may be asked once more without a pause.
    pub(super) fn spend_try(&mut self) -> bool {
        self.tries += 1;
        self.tries < TRIES_MAX
    }
}
