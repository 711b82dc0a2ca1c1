//! The metrics of a relay. All names are in the manual's page on [observability](crate::manual::observability).

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::{Backlog, Fate, Settled};
use crate::engine::telemetry::describe;
use crate::store::At;

/// Counts what was settled.
pub(super) fn settled(settled: &[Settled]) {
    describe();
    let count = |fate: &'static str, is: fn(&Fate) -> bool| {
        let events = settled.iter().filter(|settled| is(&settled.fate)).count();
        if events > 0 {
            counter!("keylatch_events_total", "fate" => fate).increment(events as u64);
        }
    };
    count("acknowledged", |fate| *fate == Fate::Acknowledged);
    count("refused", |fate| matches!(fate, Fate::Refused(_)));
    count("held", |fate| *fate == Fate::Held);
    count("set_aside", |fate| matches!(fate, Fate::SetAside(_)));
}

/// Counts tries that are to be repeated.
pub(super) fn later(events: usize) {
    if events > 0 {
        counter!("keylatch_events_total", "fate" => "later").increment(events as u64);
    }
}

pub(super) fn publish_took(time: Duration) {
    histogram!("keylatch_publish_seconds").record(time);
}

/// Whether the relay of this process has the lease.
pub(super) fn active(active: bool) {
    describe();
    gauge!("keylatch_relay_active").set(if active { 1.0 } else { 0.0 });
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub(super) fn backlog(At { value, now }: &At<Backlog>) {
    let Backlog { waiting, refused, held, set_aside, oldest } = value;
    for (state, count) in [("waiting", waiting), ("refused", refused), ("held", held), ("set_aside", set_aside)] {
        gauge!("keylatch_outbox_events", "state" => state).set(count.at_least() as f64);
    }
    let age = oldest.map_or(0, |oldest| now.as_millis().saturating_sub(oldest.as_millis()).max(0));
    gauge!("keylatch_outbox_oldest_seconds").set(age as f64 / 1_000.0);
}
