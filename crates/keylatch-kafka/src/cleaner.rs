//! Cleans up the records of message ids in the background, as an engine does: a process may have only a consumer.

use std::sync::Arc;
use std::time::Duration;

use keylatch_core::inbox::Inbox;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

use crate::consumer::Setup;

/// As often as an engine cleans; each process at its own random moments.
const PAUSE: Duration = keylatch::CLEANUP_PAUSE;
/// Records between which others may write.
const SLICE_RECORDS: usize = 100;
/// It rests so many times as long as a slice took.
const REST_PART: u32 = 3;

/// Cleans for as long as it is polled.
pub(crate) async fn clean<S: Inbox>(setup: Arc<Setup<S>>) {
    loop {
        let pause = PAUSE.mul_f64(rand::rng().random_range(0.5..1.5));
        sleep(pause).await;
        loop {
            let started = Instant::now();
            match setup.store.sweep(SLICE_RECORDS).await {
                Ok(swept) if swept.more => sleep(started.elapsed() * REST_PART).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "the store was not cleaned");
                    break;
                }
            }
        }
    }
}
