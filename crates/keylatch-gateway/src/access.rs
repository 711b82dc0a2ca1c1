//! Metrics and the log of requests. Neither contains a key, a path, a body or a header.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use http::{Method, Response, Version};
use keylatch::entry_point::propagation;
use keylatch::http::{IDEMPOTENCY_EXPIRES, IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};
use metrics::{Counter, Histogram, SharedString};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Span;

use crate::problem::Problem;
use crate::trace;

/// What is known of a request before it is answered.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) at: Instant,
}

/// The most lines that wait to be written. Further lines are dropped and counted: no request waits for the reader of
/// the log.
const LINES_MAX: usize = 10_000;
/// How long writing the remaining lines may take when the process ends.
const END_MAX: Duration = Duration::from_secs(1);

/// What the writing thread receives.
enum ToWrite {
    Line(String),
    /// It is dropped once every line before it is written.
    End(oneshot::Sender<()>),
}

static LOG: OnceLock<SyncSender<ToWrite>> = OnceLock::new();

/// The log of requests, on standard output.
fn log() -> &'static SyncSender<ToWrite> {
    LOG.get_or_init(|| {
        let (log, lines) = sync_channel(LINES_MAX);
        drop(thread::spawn(move || write(&lines)));
        log
    })
}

fn write(lines: &Receiver<ToWrite>) {
    let mut output = std::io::stdout().lock();
    while let Ok(next) = lines.recv() {
        match next {
            // If the output is closed, nobody wants the line.
            ToWrite::Line(line) => drop(writeln!(output, "{line}")),
            ToWrite::End(written) => drop(written),
        }
    }
}

/// Waits until all lines so far are written, for at most [`END_MAX`].
pub(crate) async fn written() {
    let Some(log) = LOG.get() else { return };
    let (end, written) = oneshot::channel();
    if log.try_send(ToWrite::End(end)).is_ok() {
        let _ = timeout(END_MAX, written).await;
    }
}

/// A route's name, and its series of metrics. Each is registered when it is first needed, and then kept: looking one up by
/// its labels takes longer than counting.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) route: Arc<str>,
    requests: [[OnceLock<Counter>; CLASSES.len()]; OUTCOMES.len()],
    seconds: [OnceLock<Histogram>; OUTCOMES.len()],
}

impl Series {
    /// Of the route with this name.
    pub(crate) fn new(route: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { route: route.into(), requests: Default::default(), seconds: Default::default() })
    }

    fn count(&self, outcome: Outcome, class: usize, took: Duration) {
        let name = outcome.name();
        let counter = self.requests[outcome as usize][class].get_or_init(|| {
            let labels =
                [("route", self.route.clone().into()), ("outcome", name.into()), ("status", CLASSES[class].into())];
            metrics::counter!("keylatch_gateway_requests_total", &labels as &[(&str, SharedString)])
        });
        counter.increment(1);
        let seconds = self.seconds[outcome as usize]
            .get_or_init(|| metrics::histogram!("keylatch_gateway_request_seconds", "outcome" => name));
        seconds.record(took.as_secs_f64());
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    Replayed,
    Bypassed,
    Recorded,
    Passed,
}

const OUTCOMES: [&str; 5] = ["refused", "replayed", "bypassed", "recorded", "passed"];
/// Of a status, by its first digit.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl Outcome {
    const fn name(self) -> &'static str {
        OUTCOMES[self as usize]
    }

    fn of<B>(response: &Response<B>) -> Self {
        let has = |name| response.headers().contains_key(name);
        if code(response).is_some() {
            Self::Refused
        } else if has(IDEMPOTENT_REPLAYED) {
            Self::Replayed
        } else if has(IDEMPOTENCY_STATUS) {
            Self::Bypassed
        } else if has(IDEMPOTENCY_EXPIRES) {
            Self::Recorded
        } else {
            Self::Passed
        }
    }
}

/// Counts an answered request, notes its end in its span, and logs it if `logs` is set.
pub(crate) fn note<B>(asked: &Asked, series: &Series, response: &Response<B>, span: &Span, logs: bool) {
    let outcome = Outcome::of(response);
    let took = asked.at.elapsed();
    series.count(outcome, class(response), took);
    let outcome = outcome.name();
    trace::answered(span, response);
    span.record("outcome", outcome);
    if !logs {
        return;
    }
    let mut line = serde_json::json!({
        "time": jiff::Timestamp::now().to_string(),
        "route": &*series.route,
        "method": trace::method(&asked.method),
        "version": format!("{:?}", asked.version),
        "status": response.status().as_u16(),
        "outcome": outcome,
        "code": code(response),
        "seconds": took.as_secs_f64(),
    });
    if let Some(trace) = propagation::trace_id(span) {
        line["trace_id"] = trace.into();
    }
    if log().try_send(ToWrite::Line(line.to_string())).is_err() {
        metrics::counter!("keylatch_gateway_log_lines_lost_total").increment(1);
    }
}

/// The code, if this is one of Keylatch's own answers.
fn code<B>(response: &Response<B>) -> Option<&'static str> {
    let of_gateway = response.extensions().get::<Problem>().map(|problem| problem.code());
    of_gateway.or_else(|| response.extensions().get::<keylatch::http::Problem>().map(keylatch::http::Problem::code))
}

fn class<B>(response: &Response<B>) -> usize {
    usize::from(response.status().as_u16() / 100).clamp(1, CLASSES.len()) - 1
}
