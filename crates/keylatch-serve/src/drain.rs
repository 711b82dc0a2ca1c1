//! An orderly end of the process.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::Signals;

/// How much of the drain time is reserved for work whose clients have disconnected.
const WORK_MIN: Duration = Duration::from_secs(2);

/// Serves until a signal. Then it accepts no more connections, and returns when all requests and all work have ended,
/// when `drain_max` has passed, or at a second signal.
///
/// `serve` gets the receiver that tells it to stop, and returns when its last connection has ended. `finish` gets the
/// remaining time, and returns how much work was not finished.
pub async fn until_told<S, F>(
    signals: &mut Signals,
    drain_max: Duration,
    serve: impl FnOnce(oneshot::Receiver<()>) -> S,
    finish: impl FnOnce(Duration) -> F,
) where
    S: Future<Output = ()>,
    F: Future<Output = usize>,
{
    let (stop, stopped) = oneshot::channel();
    let serving = serve(stopped);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => unreachable!("it ends after it was told to"),
        () = signals.next() => {}
    }
    tracing::info!("stopping: running requests have {} seconds to end", drain_max.as_secs_f32());
    let deadline = Instant::now() + drain_max;
    let _ = stop.send(());
    let drained = async {
        if timeout_at(deadline - WORK_MIN.min(drain_max / 4), serving).await.is_err() {
            tracing::warn!("some connections did not end in time and are closed");
        }
        finish(deadline.saturating_duration_since(Instant::now())).await
    };
    tokio::select! {
        left = drained => {
            if left == 0 {
                tracing::info!("stopped; all requests have ended");
            } else {
                tracing::warn!(left, "stopped; a request without an answer can be sent again");
            }
        }
        () = signals.next() => {
            tracing::warn!("stopped at once; a request without an answer can be sent again");
        }
    }
}
