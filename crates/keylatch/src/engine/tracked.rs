//! A run outlives the one who asked for it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::resume_unwind;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Span;

use super::telemetry::{span, within};

/// Drives `future` to its end on a task of its own, tracked by `token`, so that a shutdown can wait for it; `None` if
/// the runtime has ended before it.
///
/// A client that hangs up must not cancel the work, for its retry is the very case that all this exists for. The task is
/// there from the start: polled in place first, and moved when its caller goes, the work would see the task-locals of
/// its caller until then, and lose them half-way. Spans are carried over; they belong to the work, and not to a task.
///
/// # Panics
///
/// If the future does, or outside a tokio runtime.
pub(super) fn outlive<T: Send + 'static>(
    token: TaskTrackerToken,
    future: BoxFuture<'static, T>,
) -> impl Future<Output = Option<T>> + Send {
    let tracked = future.map(move |ended| {
        drop(token);
        ended
    });
    let task = tokio::spawn(within(span(Span::current), tracked));
    task.map(|ended| match ended {
        Ok(ended) => Some(ended),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => None,
        },
    })
}
