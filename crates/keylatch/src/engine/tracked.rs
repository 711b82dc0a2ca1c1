//! A run outlives the one who asked for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::planted::{self, Bug};

/// A future that is polled in place, and moves to a task of its own if it is dropped once it has begun.
///
/// A client that hangs up must not cancel the work, for its retry is the very case that all this exists for. A
/// task for each request would do as well, at the price of two task switches for every request that is not cut off.
pub(super) struct Tracked<T: Send + 'static> {
    future: Option<BoxFuture<'static, T>>,
    begun: bool,
    token: Option<TaskTrackerToken>,
    runtime: Handle,
}

impl<T: Send + 'static> Tracked<T> {
    /// Tracks `future` by `token`, so that a shutdown can wait for it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn new(token: TaskTrackerToken, future: BoxFuture<'static, T>) -> Self {
        Self { future: Some(future), begun: false, token: Some(token), runtime: Handle::current() }
    }
}

impl<T: Send + 'static> Future for Tracked<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        // Taken out while it is polled: one that panics is not polled again.
        let mut future = self.future.take().expect("polled after it was ready");
        let polled = future.as_mut().poll(context);
        if polled.is_pending() {
            self.future = Some(future);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Tracked<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take().filter(|_| self.begun && !planted::has(Bug::HandlerInRequest)) {
            let token = self.token.take();
            drop(self.runtime.spawn(async move {
                future.await;
                drop(token);
            }));
        }
    }
}
