//! Withdraws claims that may have been granted, after their caller has given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Inner;
use super::drive::{END_PAUSE, until_lease_ends};
use crate::machine::{self, End, Phase};
use crate::store::At;
use crate::{Epoch, Owner, RecordId};

/// Withdraws a claim that may have been granted although its reply never came, or came too late. Nothing has run under
/// it, so the key is freed, if the store comes back before the lease ends. If earlier attempts ran, their steps and
/// their crash must not be forgotten: then the record stays, and its lease ends by itself. The epoch of an earlier run
/// is kept for `keep`.
pub(super) fn withdraw(engine: &Arc<Inner>, id: RecordId, owner: Owner, keep: Duration) {
    let Ok(place) = engine.withdrawals.clone().try_acquire_owned() else {
        tracing::warn!("too many claims are being withdrawn; the lease of this one will end");
        return;
    };
    let engine = engine.clone();
    let tracker = engine.tracker.clone();
    drop(tracker.spawn(async move {
        let started = Instant::now();
        if let Ok(false) = take_back(&engine, id, owner, keep, started).await {
            // The claim may still be in transit. A shutdown does not wait for that.
            drop(tokio::spawn(async move {
                await_claim(&engine, id, owner, keep, started).await;
                drop(place);
            }));
        }
    }));
}

/// Looks repeatedly for a claim that has not arrived yet, until a lease has passed since `started`. Each pause is twice
/// the previous one, so that an outage that made many claims uncertain is not followed by many reads.
async fn await_claim(engine: &Arc<Inner>, id: RecordId, owner: Owner, keep: Duration, started: Instant) {
    let mut pause = END_PAUSE.0;
    while started.elapsed() + pause < engine.lease {
        tokio::time::sleep(pause).await;
        pause *= 2;
        match take_back(engine, id, owner, keep, started).await {
            Ok(false) => {}
            Ok(true) | Err(()) => return,
        }
    }
}

/// Frees the key of a claim of `owner` under which nothing has run, if it was granted. Returns whether someone held the
/// key: then a claim that arrives later is not granted.
async fn take_back(
    engine: &Arc<Inner>,
    id: RecordId,
    owner: Owner,
    keep: Duration,
    started: Instant,
) -> Result<bool, ()> {
    let once = || async {
        let At { value, now } = engine.store.read(id).await?;
        let held = value.filter(|record| machine::phase(Some(record), now) != Phase::Free);
        let Some(record) = held else { return Ok(false) };
        if record.owner == owner && record.attempt == 1 {
            // This run has shown its epoch to nobody, but an earlier run of the key may have.
            let keep = if record.epoch == Epoch::FIRST { Duration::ZERO } else { keep };
            let _ = engine.store.release(record.lease(), End::Free(keep)).await?;
        }
        Ok(true)
    };
    until_lease_ends(engine.lease, started, once).await.0.map_err(|error| {
        tracing::warn!(%error, "a claim that may have been granted could not be withdrawn; its lease will end");
    })
}
