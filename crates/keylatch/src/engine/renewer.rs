//! Renews the leases of all runs under way, from one task.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::Inner;
use super::flight::Flight;
use crate::Lease;
use crate::store::Applied;

/// Renewals under way at once.
const RENEWALS_AT_ONCE: usize = 64;

/// Starts the task, if it is not there: it ends with its runtime, and an engine may outlive one.
pub(super) fn start(engine: &Arc<Inner>) {
    let mut renewing = engine.renewing.lock();
    if renewing.as_ref().is_none_or(JoinHandle::is_finished) {
        *renewing = Some(tokio::spawn(renew_leases(Arc::downgrade(engine), engine.policy.lease)));
    }
}

/// Looks for leases to renew six times in a lease, and renews those that are a third of it old, for as long as the
/// engine lives.
async fn renew_leases(engine: Weak<Inner>, lease: Duration) {
    let mut ticks = tokio::time::interval(lease / 6);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        let Some(before) = Instant::now().checked_sub(lease / 3) else { continue };
        let due = engine.flights.due(before);
        stream::iter(due).for_each_concurrent(RENEWALS_AT_ONCE, |(flight, lease)| renew(&engine, flight, lease)).await;
    }
}

async fn renew(engine: &Inner, flight: Arc<Flight>, lease: Lease) {
    let terms = engine.terms();
    let asked = Instant::now();
    // One renewal that hangs must not keep the others from being renewed.
    let Ok(renewed) = tokio::time::timeout(terms.lease / 3, engine.store.renew(lease, terms, None)).await else {
        tracing::warn!("a lease was not renewed in time; it is tried again until it ends");
        return;
    };
    match renewed {
        Ok(Applied::Applied(_)) => flight.held(lease, engine.held_until(asked), asked),
        // Also the answer when the run has just completed: then nobody listens any more.
        Ok(Applied::Lost) => flight.lose(),
        Err(error) => tracing::warn!(%error, "a lease could not be renewed; it is tried again until it ends"),
    }
}
