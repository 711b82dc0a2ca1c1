//! Renews the leases of all current runs, from one task.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use super::Inner;
use super::flight::Renewal;
use crate::store::Applied;

/// This many renewals run at once, so that the store does not get all of them together.
const PLACES: usize = 64;
/// The part of a lease for which a renewal keeps its place. After that it continues without one, so that hanging
/// renewals do not block the others: ten thousand that hang delay them by half a lease.
const PLACE_PART: u32 = 300;
/// The part of a lease that a renewal may take.
const RENEWAL_PART: u32 = 3;
/// The age of a grant, as a part of a lease, from which it is renewed.
const AGE_PART: u32 = 3;
/// How often, in a lease, to look for leases to renew: a renewal that hangs is given up and tried again before the
/// lease ends.
const LOOKS: u32 = 12;

/// Starts the task if it is not running: it ends with its runtime, and an engine may outlive a runtime.
pub(super) fn start(engine: &Arc<Inner>) {
    let mut renewing = engine.renewing.lock();
    if renewing.as_ref().is_none_or(JoinHandle::is_finished) {
        *renewing = Some(tokio::spawn(renew_leases(Arc::downgrade(engine), engine.lease)));
    }
}

/// Renews the leases of all runs, each until its run ends, for as long as the engine lives. A run whose lease has ended
/// here is told at once, and its lease is still renewed if nobody has taken over.
async fn renew_leases(engine: Weak<Inner>, lease: Duration) {
    let places = Arc::new(Semaphore::new(PLACES));
    loop {
        let now = Instant::now();
        let next_end = {
            let Some(engine) = engine.upgrade() else { return };
            let (due, next_end) = engine.flights.due(now, now.checked_sub(lease / AGE_PART));
            if !due.is_empty() {
                drop(tokio::spawn(renew_all(engine, due, places.clone())));
            }
            next_end
        };
        let next_look = now + lease / LOOKS;
        sleep_until(next_end.map_or(next_look, |end| end.min(next_look)).into()).await;
    }
}

/// Starts these renewals in order, each when there is a place for it.
async fn renew_all(engine: Arc<Inner>, due: Vec<Renewal>, places: Arc<Semaphore>) {
    for renewal in due {
        let place = places.clone().acquire_owned().await.expect("nobody closes it");
        drop(tokio::spawn(renew(engine.clone(), renewal, place)));
    }
}

async fn renew(engine: Arc<Inner>, renewal: Renewal, place: OwnedSemaphorePermit) {
    let (lease, terms, asked) = (renewal.lease(), engine.terms(renewal.flight()), Instant::now());
    let mut renewing = pin!(timeout(terms.lease / RENEWAL_PART, engine.store.renew(lease, terms, None)));
    let renewed = match timeout(terms.lease / PLACE_PART, &mut renewing).await {
        Ok(renewed) => renewed,
        Err(_) => {
            drop(place);
            renewing.await
        }
    };
    match renewed {
        Ok(Ok(Applied::Applied(_))) => renewal.flight().held(lease, engine.held_until(asked), asked),
        // Also the reply if the run has just completed: then nobody listens any more.
        Ok(Ok(Applied::Lost)) => renewal.flight().lose(),
        Ok(Err(error)) => {
            tracing::warn!(%error, record = %lease.id, "a lease could not be renewed; the engine keeps trying");
        }
        Err(_) => {
            tracing::warn!(record = %lease.id, "a lease was not renewed in time; the engine keeps trying");
        }
    }
}
