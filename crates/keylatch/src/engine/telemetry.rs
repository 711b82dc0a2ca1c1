//! The metrics and spans of the engine and its entry points. All names are in the manual's page on
//! [observability](crate::manual::observability), and the metrics in [`METRICS`]; tests check that both agree with what
//! is emitted.
//!
//! No label, field or event ever has a key, a scope, a header or a body.
//!
//! Each count looks its metric up, so that the recorder may be installed at any time. A gauge is looked up once for
//! each thing that it counts, so that an increment and its decrement go to the same recorder.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::Either;
use metrics::{Gauge, KeyName, Unit, counter, gauge, histogram};
use tracing::instrument::Instrumented;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument as _, Span};

use super::{Answer, Error, Refused};
use crate::Guarantee;
use crate::store::Swept;

/// Whether the spans are recorded: creating and entering them takes time even if they are not.
pub(crate) fn is_traced() -> bool {
    LevelFilter::current() >= LevelFilter::INFO
}

/// The span that `make` creates, or none if it would not be recorded.
pub(crate) fn span(make: impl FnOnce() -> Span) -> Span {
    if is_traced() { make() } else { Span::none() }
}

/// Work in a span, or in none.
pub(crate) type Within<F> = Either<Instrumented<F>, F>;

/// `work` in `span`, if that is one.
pub(crate) fn within<F: Future>(span: Span, work: F) -> Within<F> {
    if span.is_none() { Either::Right(work) } else { Either::Left(work.instrument(span)) }
}

/// A metric, as it is described to the recorder.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All metrics.
const METRICS: [Metric; 23] = [
    Metric { name: "keylatch_answers_total", kind: Kind::Counter, help: "Answers to requests, by kind." },
    Metric {
        name: "keylatch_takeovers_total",
        kind: Kind::Counter,
        help: "Runs that took over from a run whose lease had ended without an outcome.",
    },
    Metric {
        name: "keylatch_retries_total",
        kind: Kind::Counter,
        help: "Runs that followed a run that had ended with an error and released its key.",
    },
    Metric {
        name: "keylatch_leases_lost_total",
        kind: Kind::Counter,
        help: "Runs whose record another owner took over.",
    },
    Metric { name: "keylatch_released_total", kind: Kind::Counter, help: "Runs that ended without an outcome." },
    Metric {
        name: "keylatch_records_total",
        kind: Kind::Counter,
        help: "Records that got an outcome, lost their answer to a sweep, or were removed by it.",
    },
    Metric {
        name: "keylatch_refused_total",
        kind: Kind::Counter,
        help: "Requests that were refused before their key was claimed, by the code of the problem.",
    },
    Metric {
        name: "keylatch_sent_home_total",
        kind: Kind::Counter,
        help: "Requests that were sent to the region that decides about their key.",
    },
    Metric {
        name: "keylatch_copies_given_total",
        kind: Kind::Counter,
        help: "Requests that were answered from a copy of another region's answer, without asking that region.",
    },
    Metric {
        name: "keylatch_copies_missed_total",
        kind: Kind::Counter,
        help: "Final answers that did not get into the shared cache: too many at once, or no confirmation in time.",
    },
    Metric {
        name: "keylatch_bypassed_total",
        kind: Kind::Counter,
        help: "Requests that ran unguarded, because their route fails open.",
    },
    Metric {
        name: "keylatch_observed_total",
        kind: Kind::Counter,
        help: "Requests that an observing layer passed on, by what they would have got: a replay, or the code of a problem.",
    },
    Metric { name: "keylatch_running", kind: Kind::Gauge, help: "Runs under way." },
    Metric {
        name: "keylatch_lapsed_runs",
        kind: Kind::Gauge,
        help: "Runs whose lease has ended without an outcome, counted by each cleaner up to 100.",
    },
    Metric { name: "keylatch_waiters", kind: Kind::Gauge, help: "Requests that wait for a run of the same key." },
    Metric {
        name: "keylatch_store_seconds",
        kind: Kind::Histogram,
        help: "Time that the store took, in seconds; for a transaction, including the handler.",
    },
    Metric {
        name: "keylatch_events_total",
        kind: Kind::Counter,
        help: "Events that a relay has handed out, by what became of them; `held` are those behind a refused one.",
    },
    Metric {
        name: "keylatch_publish_seconds",
        kind: Kind::Histogram,
        help: "Time that a publisher took for a batch of events, in seconds.",
    },
    Metric {
        name: "keylatch_relay_active",
        kind: Kind::Gauge,
        help: "Whether this process publishes the events of the outbox: 1 or 0.",
    },
    Metric {
        name: "keylatch_outbox_events",
        kind: Kind::Gauge,
        help: "Events in the outbox, counted by the active relay up to 10,000 of each state.",
    },
    Metric {
        name: "keylatch_outbox_oldest_seconds",
        kind: Kind::Gauge,
        help: "Age of the first event that waits, in seconds.",
    },
    Metric { name: "keylatch_batch_records", kind: Kind::Histogram, help: "Records in a batch, on PostgreSQL." },
    Metric {
        name: "keylatch_batch_seconds",
        kind: Kind::Histogram,
        help: "Time that a batch took, in seconds, on PostgreSQL.",
    },
];

/// Describes all metrics to the installed recorder, once.
pub(crate) fn describe() {
    /// The address of the recorder that was last described to.
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    metrics::with_recorder(|recorder| {
        let this = std::ptr::from_ref(recorder).cast::<()>().addr();
        if TOLD.load(Ordering::Relaxed) == this || TOLD.swap(this, Ordering::Relaxed) == this {
            return;
        }
        for Metric { name, kind, help } in &METRICS {
            let unit = Some(if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count });
            let (name, help) = (KeyName::from_const_str(name), (*help).into());
            match kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
        }
        begin();
    });
}

/// Begins the counters of the engine at zero: in a series that begins with its first event, a monitoring system sees no
/// increase.
fn begin() {
    for answer in ["run", "replay", "in_progress", "mismatch", "unknown", "expired", "quota", "failed"] {
        counter!("keylatch_answers_total", "answer" => answer).increment(0);
    }
    for end in ["free", "retry", "unknown"] {
        counter!("keylatch_released_total", "end" => end).increment(0);
    }
    counter!("keylatch_takeovers_total").increment(0);
    counter!("keylatch_retries_total").increment(0);
    counter!("keylatch_leases_lost_total").increment(0);
    counter!("keylatch_bypassed_total").increment(0);
}

pub(crate) fn answered<T>(answer: &Result<Answer<T>, Error>) {
    describe();
    let answers = match answer {
        Ok(Answer::Ran(_)) => counter!("keylatch_answers_total", "answer" => "run"),
        Ok(Answer::Replayed(_)) => counter!("keylatch_answers_total", "answer" => "replay"),
        Ok(Answer::Refused(Refused::InProgress)) => counter!("keylatch_answers_total", "answer" => "in_progress"),
        Ok(Answer::Refused(Refused::Mismatch)) => counter!("keylatch_answers_total", "answer" => "mismatch"),
        Ok(Answer::Refused(Refused::Unknown)) => counter!("keylatch_answers_total", "answer" => "unknown"),
        Ok(Answer::Refused(Refused::Expired)) => counter!("keylatch_answers_total", "answer" => "expired"),
        Ok(Answer::Refused(Refused::Quota(_))) => counter!("keylatch_answers_total", "answer" => "quota"),
        Err(_) => counter!("keylatch_answers_total", "answer" => "failed"),
    };
    answers.increment(1);
}

/// Counts a run that is not the first of its request; `after_crash` if the previous run died.
pub(super) fn follows(after_crash: bool) {
    let runs = if after_crash { counter!("keylatch_takeovers_total") } else { counter!("keylatch_retries_total") };
    runs.increment(1);
}

pub(super) fn lost() {
    counter!("keylatch_leases_lost_total").increment(1);
}

pub(super) fn freed() {
    counter!("keylatch_released_total", "end" => "free").increment(1);
}

pub(super) fn retried() {
    counter!("keylatch_released_total", "end" => "retry").increment(1);
}

pub(super) fn not_known() {
    counter!("keylatch_released_total", "end" => "unknown").increment(1);
}

pub(crate) fn copy_missed() {
    counter!("keylatch_copies_missed_total").increment(1);
}

pub(super) fn completed() {
    counter!("keylatch_records_total", "change" => "completed").increment(1);
}

pub(super) fn swept(swept: Swept) {
    counter!("keylatch_records_total", "change" => "tombstoned").increment(swept.tombstoned as u64);
    counter!("keylatch_records_total", "change" => "removed").increment(swept.removed as u64);
}

pub(super) fn claim_took(time: Duration) {
    histogram!("keylatch_store_seconds", "operation" => "claim").record(time);
}

pub(super) fn complete_took(time: Duration) {
    histogram!("keylatch_store_seconds", "operation" => "complete").record(time);
}

pub(super) fn transact_took(time: Duration) {
    histogram!("keylatch_store_seconds", "operation" => "transact").record(time);
}

/// How many runs on the leases of one engine have lapsed, until it is dropped. The engines of a process add up.
pub(super) struct Lapsed {
    guarantee: Guarantee,
    gauge: Gauge,
    runs: usize,
}

impl Lapsed {
    pub(super) fn new(guarantee: Guarantee) -> Self {
        Self { guarantee, gauge: Gauge::noop(), runs: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    pub(super) fn set(&mut self, runs: usize) {
        // What was counted goes back to the recorder that counted it.
        self.gauge.decrement(self.runs as f64);
        describe();
        self.gauge = match self.guarantee {
            Guarantee::AtMostOnce => gauge!("keylatch_lapsed_runs", "state" => "unknown"),
            Guarantee::Atomic | Guarantee::Fenced => gauge!("keylatch_lapsed_runs", "state" => "abandoned"),
        };
        self.gauge.increment(runs as f64);
        self.runs = runs;
    }
}

impl Drop for Lapsed {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn drop(&mut self) {
        self.gauge.decrement(self.runs as f64);
    }
}

/// Something that is counted in a gauge until it is dropped.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn running() -> Self {
        Self::up(gauge!("keylatch_running"))
    }

    pub(super) fn waiting() -> Self {
        Self::up(gauge!("keylatch_waiters"))
    }

    fn up(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_metric_and_its_meaning() {
        let page = include_str!("../manual/observability.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `keylatch_"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), METRICS.len());
        for (row, Metric { name, kind, help }) in rows.iter().zip(&METRICS) {
            let kind = format!("{kind:?}").to_lowercase();
            assert_eq!((row[1], row[2], row[4]), (format!("`{name}`").as_str(), kind.as_str(), *help));
        }
    }
}
