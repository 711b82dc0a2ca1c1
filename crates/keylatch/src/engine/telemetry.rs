//! What the engine and its doors count and trace. All names stand in these tables:
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `keylatch_answers_total` | counter | `answer`: `run`, `replay`, `in_progress`, `mismatch`, `unknown`, `expired`, `quota`, `failed` | what requests got |
//! | `keylatch_takeovers_total` | counter | | runs that followed an abandoned one |
//! | `keylatch_leases_lost_total` | counter | | runs whose record another owner took over |
//! | `keylatch_released_total` | counter | `end`: `free`, `retry`, `unknown` | runs that ended without an outcome |
//! | `keylatch_records_total` | counter | `change`: `completed`, `buried`, `removed` | records that got an outcome; that a sweep took the answer from; that it removed |
//! | `keylatch_refused_total` | counter | `code`: `REQUEST_TIMEOUT` or that of any other 400, 408 or 413 | requests that were refused before their key was claimed |
//! | `keylatch_bypassed_total` | counter | | requests that ran unguarded, because their route fails open |
//! | `keylatch_running` | gauge | | runs under way |
//! | `keylatch_waiters` | gauge | | requests that wait for a run of the same key |
//! | `keylatch_store_seconds` | histogram | `operation`: `claim`, `complete`, `transact` | latency of the store |
//! | `keylatch_batch_records`, `keylatch_batch_seconds` | histogram | `operation`: `claim`, `complete`, `look`, `sweep` | on PostgreSQL: how many records a statement was for, and how long it took |
//!
//! | span | fields | around |
//! |---|---|---|
//! | `keylatch.request` | `guarantee`, `trace_id`, `parent_id` (from `traceparent`), `status` | a guarded HTTP request |
//! | `keylatch.run` | `epoch`, `attempt` | a handler on a lease |
//! | `keylatch.transaction` | | a handler in a transaction |
//!
//! No label, field or event ever has a key, a scope, a header or a body.

use futures_util::future::Either;
use metrics::{Counter, Gauge, Histogram};
use tracing::instrument::Instrumented;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument as _, Span};

use super::{Answer, Error, Refused};

/// Whether anyone listens to the spans: to make and to enter them takes time also if nobody does.
pub(crate) fn is_traced() -> bool {
    LevelFilter::current() >= LevelFilter::INFO
}

/// The span that `make` makes, or none if nobody would hear of it.
pub(crate) fn span(make: impl FnOnce() -> Span) -> Span {
    if is_traced() { make() } else { Span::none() }
}

/// Work in a span, or in none.
pub(crate) type Within<F> = Either<Instrumented<F>, F>;

/// `work` in `span`, if that is one.
pub(crate) fn within<F: Future>(span: Span, work: F) -> Within<F> {
    if span.is_none() { Either::Right(work) } else { Either::Left(work.instrument(span)) }
}

/// Handles made once: install the recorder before the engine is built.
#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) run: Counter,
    pub(super) replay: Counter,
    pub(super) in_progress: Counter,
    pub(super) mismatch: Counter,
    pub(super) unknown: Counter,
    pub(super) expired: Counter,
    pub(super) quota: Counter,
    pub(super) failed: Counter,
    pub(super) takeovers: Counter,
    pub(super) lost: Counter,
    pub(super) freed: Counter,
    pub(super) retried: Counter,
    pub(super) not_known: Counter,
    pub(super) completed: Counter,
    pub(super) buried: Counter,
    pub(super) removed: Counter,
    pub(super) running: Gauge,
    pub(super) waiters: Gauge,
    pub(super) claim: Histogram,
    pub(super) complete: Histogram,
    pub(super) transact: Histogram,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let answer = |name: &'static str| metrics::counter!("keylatch_answers_total", "answer" => name);
        let released = |end: &'static str| metrics::counter!("keylatch_released_total", "end" => end);
        let records = |change: &'static str| metrics::counter!("keylatch_records_total", "change" => change);
        let seconds = |operation: &'static str| metrics::histogram!("keylatch_store_seconds", "operation" => operation);
        Self {
            run: answer("run"),
            replay: answer("replay"),
            in_progress: answer("in_progress"),
            mismatch: answer("mismatch"),
            unknown: answer("unknown"),
            expired: answer("expired"),
            quota: answer("quota"),
            failed: answer("failed"),
            takeovers: metrics::counter!("keylatch_takeovers_total"),
            lost: metrics::counter!("keylatch_leases_lost_total"),
            freed: released("free"),
            retried: released("retry"),
            not_known: released("unknown"),
            completed: records("completed"),
            buried: records("buried"),
            removed: records("removed"),
            running: metrics::gauge!("keylatch_running"),
            waiters: metrics::gauge!("keylatch_waiters"),
            claim: seconds("claim"),
            complete: seconds("complete"),
            transact: seconds("transact"),
        }
    }
}

impl Metrics {
    pub(super) fn count(&self, answer: &Result<Answer, Error>) {
        let counter = match answer {
            Ok(Answer::Ran(_)) => &self.run,
            Ok(Answer::Replayed(_)) => &self.replay,
            Ok(Answer::Refused(Refused::InProgress)) => &self.in_progress,
            Ok(Answer::Refused(Refused::Mismatch)) => &self.mismatch,
            Ok(Answer::Refused(Refused::Unknown)) => &self.unknown,
            Ok(Answer::Refused(Refused::Expired)) => &self.expired,
            Ok(Answer::Refused(Refused::Quota(_))) => &self.quota,
            Err(_) => &self.failed,
        };
        counter.increment(1);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
