//! What is counted and written of each request: never a key, a path, a body or a header.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Response, Version};
use keylatch::http::{IDEMPOTENCY_EXPIRES, IDEMPOTENCY_STATUS, IDEMPOTENT_REPLAYED};

use crate::problem::Problem;

/// What is noted of a request before it is answered.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) at: Instant,
}

/// Counts a request that is answered, and writes it down if `log` says so.
///
/// `route` is the name of its route.
pub(crate) fn note<B>(asked: &Asked, route: &Arc<str>, response: &Response<B>, log: bool) {
    let (outcome, status) = (outcome(response), class(response));
    let took = asked.at.elapsed();
    let named = || route.clone();
    metrics::counter!("keylatch_gateway_requests_total", "route" => named(), "outcome" => outcome, "status" => status)
        .increment(1);
    metrics::histogram!("keylatch_gateway_request_seconds", "outcome" => outcome).record(took.as_secs_f64());
    if log {
        let line = serde_json::json!({
            "time": jiff::Timestamp::now().to_string(),
            "route": &**route,
            // One of a client's own invention may say anything.
            "method": if is_known(&asked.method) { asked.method.as_str() } else { "other" },
            "version": format!("{:?}", asked.version),
            "status": response.status().as_u16(),
            "outcome": outcome,
            "code": code(response),
            "seconds": took.as_secs_f64(),
        });
        write(&line.to_string());
    }
}

#[expect(clippy::print_stdout, reason = "the log of requests goes to the standard output")]
fn write(line: &str) {
    println!("{line}");
}

/// What became of it, in a word.
fn outcome<B>(response: &Response<B>) -> &'static str {
    let has = |name| response.headers().contains_key(name);
    if code(response).is_some() {
        "refused"
    } else if has(IDEMPOTENT_REPLAYED) {
        "replayed"
    } else if has(IDEMPOTENCY_STATUS) {
        "bypassed"
    } else if has(IDEMPOTENCY_EXPIRES) {
        "recorded"
    } else {
        "passed"
    }
}

/// The code of an answer of our own.
fn code<B>(response: &Response<B>) -> Option<&'static str> {
    let of_gateway = response.extensions().get::<Problem>().map(|problem| problem.code());
    of_gateway.or_else(|| response.extensions().get::<keylatch::http::Problem>().map(keylatch::http::Problem::code))
}

fn class<B>(response: &Response<B>) -> &'static str {
    match response.status().as_u16() {
        ..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

fn is_known(method: &Method) -> bool {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    KNOWN.contains(method)
}
