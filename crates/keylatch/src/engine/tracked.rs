//! A run outlives its caller.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::panic::resume_unwind;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Span;

use super::telemetry::{span, within};

/// Drives `future` to its end on its own task, tracked by `token`, so that a shutdown can wait for it; `None` if the
/// runtime ends first.
///
/// A client that hangs up must not cancel the work, because its retry is the case that Keylatch exists for. The task is
/// created at the start: if the work were polled in place first and moved later, it would see the task-locals of its
/// caller at first, and lose them half-way. Spans are carried over, because they belong to the work and not to a task.
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
