//! Cleans up the records of message ids in the background, as an engine does: a process may have only a consumer. And dead
//! letters that are too old, if they may go.

use std::sync::Arc;
use std::time::Duration;

use keylatch_core::inbox::Inbox;
use keylatch_core::store::Error;
use rand::Rng as _;
use tokio::time::{Instant, sleep};

use crate::consumer::Setup;

/// As often as an engine cleans; each process at its own random moments.
const PAUSE: Duration = keylatch::CLEANUP_PAUSE;
/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Records between which others may write.
const SLICE_RECORDS: usize = 100;
/// It rests so many times as long as a slice took.
const REST_PART: u32 = 3;

/// Cleans for as long as it is polled.
pub(crate) async fn clean<S: Inbox>(setup: Arc<Setup<S>>) {
    loop {
        // Dead letters that are kept for a short time only are looked for as often.
        let pause = setup.options.dead_letter_retention.map_or(PAUSE, |kept| kept.clamp(PAUSE_MIN, PAUSE));
        let pause = pause.mul_f64(rand::rng().random_range(0.5..1.5));
        sleep(pause).await;
        if let Err(error) = sweep(&setup).await {
            tracing::warn!(%error, "the store was not cleaned");
        }
        if let Some(retention) = setup.options.dead_letter_retention
            && let Err(error) = sweep_dead_letters(&setup, retention).await
        {
            tracing::warn!(%error, "old dead letters were not removed");
        }
    }
}

async fn sweep<S: Inbox>(setup: &Setup<S>) -> Result<(), Error> {
    loop {
        let started = Instant::now();
        if !setup.store.sweep(SLICE_RECORDS).await?.more {
            return Ok(());
        }
        sleep(started.elapsed() * REST_PART).await;
    }
}

async fn sweep_dead_letters<S: Inbox>(setup: &Setup<S>, retention: Duration) -> Result<(), Error> {
    loop {
        let started = Instant::now();
        let removed = setup.store.sweep_dead_letters(setup.name.clone(), retention, SLICE_RECORDS).await?;
        if removed > 0 {
            tracing::info!(removed, consumer = setup.name, "dead letters were removed, because they are too old");
        }
        if removed < SLICE_RECORDS {
            return Ok(());
        }
        sleep(started.elapsed() * REST_PART).await;
    }
}
