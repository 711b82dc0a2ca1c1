//! Renews the leases of all runs under way, from one task.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use super::Inner;
use super::flight::Flight;
use crate::Lease;
use crate::store::Applied;

/// Renewals under way at once.
const RENEWALS_AT_ONCE: usize = 64;

/// Looks for leases to renew six times in a lease, and renews those that are a third of it old, for as long as the
/// engine lives.
pub(super) async fn renew_leases(engine: Weak<Inner>, lease: Duration) {
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
    match engine.store.renew(lease, terms, None).await {
        Ok(Applied::Applied(_)) => flight.held(lease, engine.held_until(asked), asked),
        // Also the answer when the run has just completed: then nobody listens any more.
        Ok(Applied::Lost) => {
            flight.lose();
            engine.metrics.lost.increment(1);
        }
        Err(error) => tracing::warn!(%error, "a lease could not be renewed; it is tried again until it ends"),
    }
}
