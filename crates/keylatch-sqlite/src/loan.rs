//! The cell through which the writer lends its connection to a handler's `keylatch::Tx`.
//!
//! ```text
//! Idle ──run polled──▶ Wanted ──writer──▶ Lent ──writer──▶ Over
//! ```
//!
//! The handler is polled on its own task until it first wants the connection. Then its future moves to the writer,
//! which puts the connection in, polls the future once, and takes the connection out again. So a handler can hold the
//! connection while it computes, and never while it waits.

use std::mem;
use std::panic::Location;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use keylatch_core::outbox::Events;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::error::TxError;
use super::guard::Guard;

/// The cell, and the handler's end of it.
#[derive(Debug, Default)]
pub(super) struct Loan(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Who polls the handler before it moves to the writer.
    driver: Option<Waker>,
    /// The waker that waits for the connection, if it is not the driver's.
    waiter: Option<Waker>,
    /// Whether the handler's end is gone.
    returned: bool,
    /// The events that it has left.
    events: Events,
    /// The source location of the call whose closure ran last.
    latest: Option<&'static Location<'static>>,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Wanted,
    Lent(Connection, Guard),
    Over,
}

// ---- The handler's end ---------------------------------------------------------------------------------

impl Loan {
    /// Runs the closure, once the connection is here. `closure` is taken when it runs. If it cannot run, or its result
    /// does not count, `refused` makes the result. `place` is the location of the call.
    pub(super) fn poll_run<R, F>(
        &self,
        cx: &Context<'_>,
        closure: &mut Option<F>,
        refused: fn(TxError) -> R,
        place: &'static Location<'static>,
    ) -> Poll<R>
    where
        F: FnOnce(&Connection, &Guard) -> R,
    {
        let mut state = self.0.lock();
        let state = &mut *state;
        match &state.phase {
            Phase::Lent(_, guard) if guard.is_over() => Poll::Ready(refused(TxError::TooLong)),
            // An error has ended it.
            Phase::Lent(conn, _) if conn.is_autocommit() => Poll::Ready(refused(TxError::Over)),
            // Under the lock: the writer, which wants the connection back, waits for the closure.
            Phase::Lent(conn, guard) => match closure.take() {
                Some(closure) => {
                    state.latest = Some(place);
                    let done = closure(conn, guard);
                    Poll::Ready(if guard.is_over() { refused(TxError::TooLong) } else { done })
                }
                None => Poll::Ready(refused(TxError::Over)),
            },
            Phase::Over => Poll::Ready(refused(TxError::Over)),
            Phase::Idle | Phase::Wanted => {
                state.phase = Phase::Wanted;
                let driven = state.driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker()));
                if !driven {
                    // Not in the handler's own poll, but in another task or a combinator with its own wakers. The
                    // driver may be asleep.
                    state.waiter = Some(cx.waker().clone());
                    if let Some(driver) = &state.driver {
                        driver.wake_by_ref();
                    }
                }
                Poll::Pending
            }
        }
    }

    /// The handler's end is gone, and has left these events.
    pub(super) fn give_back(&self, events: Events) {
        let mut state = self.0.lock();
        state.returned = true;
        state.events = events;
    }
}

// ---- The store's end -----------------------------------------------------------------------------------

/// The store's end. When it is dropped, the transaction is over for anyone who still waits for it.
#[derive(Debug, Default)]
pub(super) struct Lender(Arc<Loan>);

impl Drop for Lender {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.phase = Phase::Over;
        state.driver = None;
        let waiter = state.waiter.take();
        drop(state);
        waiter.into_iter().for_each(Waker::wake);
    }
}

impl Lender {
    /// The handler's end.
    pub(super) fn loan(&self) -> Arc<Loan> {
        self.0.clone()
    }

    /// Notes the waker that polls the handler. Call it before each of its polls.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut state = self.0.0.lock();
        match &mut state.driver {
            Some(driver) => driver.clone_from(waker),
            driver => *driver = Some(waker.clone()),
        }
    }

    /// Whether the handler waits for the connection.
    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.0.0.lock().phase, Phase::Wanted)
    }

    /// Whether the handler's end is gone.
    pub(super) fn is_returned(&self) -> bool {
        self.0.0.lock().returned
    }

    /// The events that the handler's end has left when it went.
    pub(super) fn take_events(&self) -> Events {
        mem::take(&mut self.0.0.lock().events)
    }

    /// The source location of the handler's closure that ran last.
    pub(super) fn latest(&self) -> Option<&'static Location<'static>> {
        self.0.0.lock().latest
    }

    /// Puts the connection in.
    pub(super) fn lend(&self, conn: Connection, guard: Guard) {
        let mut state = self.0.0.lock();
        state.phase = Phase::Lent(conn, guard);
        let waiter = state.waiter.take();
        drop(state);
        waiter.into_iter().for_each(Waker::wake);
    }

    /// Takes the connection out, when the closure that uses it has ended. The transaction is over.
    pub(super) fn take_back(&self) -> Connection {
        match mem::replace(&mut self.0.0.lock().phase, Phase::Over) {
            Phase::Lent(conn, _) => conn,
            _ => unreachable!("only the store's end takes the connection out"),
        }
    }
}
