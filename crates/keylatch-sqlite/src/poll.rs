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

/// Polls the handler on this thread while it is ready to continue. Pending if it has awaited something other than its
/// transaction, even if that was ready at once: it would not always be.
pub(super) fn poll_here(work: &mut Work, runtime: Option<&Handle>) -> Poll<Ending> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    for _ in 0..REPOLLS_MAX {
        woken.0.store(false, Ordering::Release);
        let polled = match runtime {
            Some(runtime) => poll_on(runtime, work, &mut cx),
            None => work.as_mut().poll(&mut cx),
        };
        match polled {
            Poll::Pending if woken.0.load(Ordering::Acquire) => {}
            polled => return polled,
        }
    }
    Poll::Pending
}

/// Polls the handler once, in the context of its runtime.
///
/// A tokio resource that a task awaits (a lock, a channel, a socket, a timer) uses the task's budget when it is ready,
/// and nothing else uses it. So a budget of one tells whether the handler has awaited such a resource. See
/// [`tokio::task::coop`].
fn poll_on(runtime: &Handle, work: &mut Work, cx: &mut Context<'_>) -> Poll<Ending> {
    let mut polled = Poll::Pending;
    runtime.block_on(poll_fn(|own| {
        leave_budget_of_one(own);
        polled = work.as_mut().poll(cx);
        if !coop::has_budget_remaining() {
            polled = Poll::Pending;
        }
        Poll::Ready(())
    }));
    polled
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
