//! The gate through which queries begin, and which is closed while the log has to start anew.
//!
//! SQLite's log starts anew only at a moment when nobody reads from it. Queries that overlap leave no such moment, and the
//! log would grow for as long as they do. So when it has grown too much, no query begins until those under way have
//! ended, or a while has passed. Reads of single records need no gate: they are short, and the writer waits for one.

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
    /// Until when it is closed, unless it is opened before.
    closed_until: Option<Instant>,
    /// How many queries are under way.
    running: usize,
    /// The guards of the connections that queries use.
    guards: Vec<Guard>,
    /// The way to the writer, which is told when the last query has ended.
    writer: Option<WeakSender<Box<dyn Job>>>,
}

/// How the gate stands for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// They begin as they come.
    Free,
    /// None begins, and some are still under way.
    Ending,
    /// None begins, and none is under way.
    Ended,
    /// The time of the gate is over.
    Waited,
}

impl Gate {
    /// Queries will use the connection of `guard`.
    pub(super) fn add(&self, guard: Guard) {
        self.state.lock().guards.push(guard);
    }

    /// This is the way to the writer.
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
            // If there is no room, the writer is at work, and sees it in any case.
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

    /// Lets no query begin for so long.
    pub(super) fn close(&self, span: Duration) {
        self.state.lock().closed_until = Some(Instant::now() + span);
    }

    pub(super) fn open(&self) {
        self.state.lock().closed_until = None;
        self.opened.notify_all();
    }

    /// Interrupts the queries under way.
    pub(super) fn interrupt(&self) {
        // None begins meanwhile, so that it is those.
        self.state.lock().guards.iter().for_each(Guard::interrupt);
    }
}
