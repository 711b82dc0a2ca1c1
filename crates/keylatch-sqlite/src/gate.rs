//! The gate through which queries begin. It is closed while the write-ahead log has to restart.
//!
//! SQLite's log restarts only at a moment when nobody reads from it. Overlapping queries leave no such moment, and the
//! log grows as long as they overlap. So when it has grown too much, no query begins until the running ones have ended,
//! or some time has passed. Reads of single records need no gate: they are short, and the writer waits for them.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc::WeakSender;

use super::guard::Guard;
use super::job::{Job, Nudge};

/// The gate. The threads of the queries and the writer share it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Until when it is closed, unless it is opened earlier.
    closed_until: Option<Instant>,
    /// How many queries are running.
    running: usize,
    /// The guards of the connections that queries use.
    guards: Vec<Guard>,
    /// The sender to the writer, which is notified when the last query has ended.
    writer: Option<WeakSender<Box<dyn Job>>>,
}

/// The state of the gate, for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// Queries begin as they arrive.
    Free,
    /// No query begins, and some are still running.
    Ending,
    /// No query begins, and none is running.
    Ended,
    /// The time for which the gate was closed is over.
    Waited,
}

impl Gate {
    /// Registers the guard of a connection that queries use.
    pub(super) fn add(&self, guard: Guard) {
        self.state.lock().guards.push(guard);
    }

    /// Registers the sender to the writer.
    pub(super) fn leads_to(&self, writer: WeakSender<Box<dyn Job>>) {
        self.state.lock().writer = Some(writer);
    }

    // ---- A query ---------------------------------------------------------------------------------------

    /// Waits until a query may begin.
    pub(super) fn enter(&self) {
        let mut state = self.state.lock();
        while let Some(until) = state.closed_until.filter(|until| Instant::now() < *until) {
            let _ = self.opened.wait_until(&mut state, until);
        }
        state.running += 1;
    }

    /// A query has ended.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        state.running -= 1;
        if state.closed_until.is_some() && state.running == 0 {
            let writer = state.writer.as_ref().and_then(WeakSender::upgrade);
            // If the queue is full, the writer is at work and checks the gate in any case.
            let _ = writer.map(|writer| writer.try_send(Box::new(Nudge)));
        }
    }

    // ---- The writer ------------------------------------------------------------------------------------

    pub(super) fn queries(&self) -> Queries {
        let state = self.state.lock();
        match state.closed_until {
            None => Queries::Free,
            Some(_) if state.running == 0 => Queries::Ended,
            Some(until) if Instant::now() < until => Queries::Ending,
            Some(_) => Queries::Waited,
        }
    }

    /// Lets no query begin for this long.
    pub(super) fn close(&self, span: Duration) {
        self.state.lock().closed_until = Some(Instant::now() + span);
    }

    pub(super) fn open(&self) {
        self.state.lock().closed_until = None;
        self.opened.notify_all();
    }

    /// Interrupts the running queries.
    pub(super) fn interrupt(&self) {
        // No query begins meanwhile, so these are the right ones.
        self.state.lock().guards.iter().for_each(Guard::interrupt);
    }
}
