//! Polls a handler on the writer's thread, and finds out whether it awaits anything but its transaction.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::coop;

use keylatch_core::tx::{Ending, Work};

/// How often a handler that woke itself while it was polled is polled again.
const REPOLLS_MAX: usize = 32;

/// Runs `work`, which polls handlers, on this thread and in the context of their runtime.
///
/// A tokio resource that a task awaits (a lock, a channel, a socket, a timer) uses the task's budget when it is ready,
/// and nothing else uses it. So a budget of one tells whether a handler has awaited such a resource. See
/// [`tokio::task::coop`].
pub(super) fn watched<R>(runtime: Option<&Handle>, work: impl FnOnce() -> R) -> R {
    let Some(runtime) = runtime else { return work() };
    let mut work = Some(work);
    runtime.block_on(poll_fn(|cx| {
        leave_budget_of_one(cx);
        let work = work.take().unwrap_or_else(|| unreachable!("it is ready when it is polled"));
        Poll::Ready(work())
    }))
}

/// Polls a handler while it is ready to continue; it must be [`watched`]. Pending if it has awaited something other than
/// its transaction, even if that was ready at once: it would not always be. Then no other may be polled.
pub(super) fn poll_here(handler: &mut Work) -> Poll<Ending> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    for _ in 0..REPOLLS_MAX {
        woken.0.store(false, Ordering::Release);
        let polled = handler.as_mut().poll(&mut cx);
        if !coop::has_budget_remaining() {
            return Poll::Pending;
        }
        match polled {
            Poll::Pending if woken.0.load(Ordering::Acquire) => {}
            polled => return polled,
        }
    }
    Poll::Pending
}

fn leave_budget_of_one(cx: &mut Context<'_>) {
    for _ in 0..BUDGET_MAX {
        match coop::poll_proceed(cx) {
            Poll::Ready(taken) if coop::has_budget_remaining() => taken.made_progress(),
            // The budget is given back on drop.
            Poll::Ready(_) | Poll::Pending => return,
        }
    }
}

/// More than the budget of a task, which is 128 in tokio 1.54.
const BUDGET_MAX: usize = 1_024;

/// A waker that only remembers.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}
