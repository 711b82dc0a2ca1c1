//! What a server's answers mean.
//!
//! Both profiles are tried with `clients/cases/answers.json`.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use keylatch_core::{Key, Timestamp};
use serde_json::{Map, Value};

/// The rules of a kind of server.
#[derive(Clone, Copy)]
pub struct Profile {
    name: &'static str,
    meaning: fn(&Response<Bytes>) -> Meaning,
    header: fn(&Key) -> String,
    key_max: Duration,
}

/// What an answer means for the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meaning {
    /// It is final.
    Answer,
    /// It says nothing about the outcome, and the same request may be sent again.
    Retry,
    /// The request is running now.
    InProgress,
    /// The key belongs to another request, and this one did not run.
    KeyReused,
    /// The request may have taken effect, and the server does not run it again.
    OutcomeUnknown,
    /// The request took effect, and its answer was not kept.
    NotRetained,
    /// The request took effect, longer ago than answers are kept.
    Expired,
}

impl Profile {
    /// Keylatch, and servers that follow
    /// [the IETF draft](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/). They keep answers for
    /// 24 hours or longer, if not told otherwise.
    pub const DRAFT: Self = Self { name: "draft", meaning: draft, header: Key::to_header, key_max: DAY };

    /// [Stripe](https://docs.stripe.com/api/idempotent_requests), which forgets keys after 24 hours.
    pub const STRIPE: Self =
        Self { name: "stripe", meaning: stripe, header: |key| key.as_str().to_owned(), key_max: DAY };

    /// How long after the first try a request from the journal may be sent again. Later, the server may have forgotten its
    /// key and would run it again. 24 hours by default.
    #[must_use]
    pub const fn with_key_max(self, key_max: Duration) -> Self {
        Self { key_max, ..self }
    }

    /// What an answer means.
    pub fn meaning(&self, response: &Response<Bytes>) -> Meaning {
        (self.meaning)(response)
    }

    /// How a key is written in `Idempotency-Key`.
    pub(crate) fn header(&self, key: &Key) -> String {
        (self.header)(key)
    }

    pub(crate) const fn key_max(&self) -> Duration {
        self.key_max
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Profile({})", self.name)
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether an answer comes from the server's record.
pub(crate) fn is_replay(response: &Response<Bytes>) -> bool {
    response.headers().get("idempotent-replayed").is_some_and(|value| value == "true")
}

/// What `Retry-After` asks for. `now` counts for an answer without a `Date`.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().map_or(AFTER_MAX, Duration::from_secs).min(AFTER_MAX));
    }
    let date = |text: &str| httpdate::parse_http_date(text).ok();
    let then = date(value)?;
    let now = headers.get(DATE).and_then(|value| date(value.to_str().ok()?)).unwrap_or_else(|| system_time(now));
    Some(then.duration_since(now).unwrap_or_default().min(AFTER_MAX))
}

/// No call waits so long.
const AFTER_MAX: Duration = Duration::from_secs(1_000_000_000);

fn system_time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.as_millis().try_into().unwrap_or(0))
}

fn draft(response: &Response<Bytes>) -> Meaning {
    let status = response.status();
    // What is recorded does not change, whatever its status.
    if is_not_an_error(status) || is_replay(response) {
        return Meaning::Answer;
    }
    let problem = members(response);
    let retryable = problem.get("retryable").and_then(Value::as_bool);
    match (problem.get("code").and_then(Value::as_str), retryable) {
        (Some("IDEMPOTENCY_KEY_IN_PROGRESS"), _) => return Meaning::InProgress,
        (Some("IDEMPOTENCY_KEY_REUSED"), _) => return Meaning::KeyReused,
        (Some("IDEMPOTENCY_OUTCOME_UNKNOWN"), _) => return Meaning::OutcomeUnknown,
        (Some("IDEMPOTENCY_RESPONSE_NOT_RETAINED"), _) => return Meaning::NotRetained,
        (Some("IDEMPOTENCY_KEY_EXPIRED"), _) => return Meaning::Expired,
        // The gateway sent the request on, and never heard what became of it.
        (Some("UPSTREAM_FAILED" | "UPSTREAM_TIMEOUT"), Some(false)) => return Meaning::OutcomeUnknown,
        (Some(_), Some(true)) => return Meaning::Retry,
        (Some(_), Some(false)) => return Meaning::Answer,
        _ => {}
    }
    // The draft has statuses and no codes. An application uses the same statuses for its own reasons, so the problem has
    // to be about the key.
    match status {
        StatusCode::CONFLICT if is_about_key(&problem) => Meaning::InProgress,
        StatusCode::GONE if is_about_key(&problem) => Meaning::Expired,
        StatusCode::UNPROCESSABLE_ENTITY if is_about_key(&problem) => Meaning::KeyReused,
        StatusCode::CONFLICT if response.headers().contains_key(RETRY_AFTER) => Meaning::InProgress,
        status if is_retried(status) => Meaning::Retry,
        _ => Meaning::Answer,
    }
}

fn is_about_key(problem: &Map<String, Value>) -> bool {
    ["type", "title"]
        .into_iter()
        .filter_map(|name| problem.get(name)?.as_str())
        .any(|text| text.to_lowercase().contains("idempotency"))
}

fn stripe(response: &Response<Bytes>) -> Meaning {
    let status = response.status();
    if is_not_an_error(status) || is_replay(response) {
        return Meaning::Answer;
    }
    let mismatch = || {
        members(response)
            .get("error")
            .and_then(|error| error.get("type"))
            .is_some_and(|kind| kind == "idempotency_error")
    };
    if status == StatusCode::BAD_REQUEST && mismatch() {
        return Meaning::KeyReused;
    }
    let again = if status == StatusCode::CONFLICT { Meaning::InProgress } else { Meaning::Retry };
    let by_status = is_retried(status) || status == StatusCode::CONFLICT || status == StatusCode::INTERNAL_SERVER_ERROR;
    match response.headers().get("stripe-should-retry").map(http::HeaderValue::as_bytes) {
        Some(b"true") => again,
        Some(b"false") => Meaning::Answer,
        _ if by_status => again,
        _ => Meaning::Answer,
    }
}

fn is_not_an_error(status: StatusCode) -> bool {
    status.as_u16() < 400
}

/// Statuses that say nothing about the outcome.
fn is_retried(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 502 | 503 | 504)
}

/// The members of a JSON object; none if the body is anything else.
fn members(response: &Response<Bytes>) -> Map<String, Value> {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("json")) {
        return Map::new();
    }
    match serde_json::from_slice(response.body()) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    }
}
