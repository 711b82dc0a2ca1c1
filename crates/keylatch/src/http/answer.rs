//! The handler's answer: what is recorded of it, and how it is replayed.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body as HttpBody;
use sha2::{Digest, Sha256};

use super::body::{Collected, GuardedBody, Wait, collect};
use super::headers::{
    IDEMPOTENCY_EXPIRES, IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, Kept, PREFERENCE_APPLIED, http_date, replayable,
};
use super::problem::Problem;
use super::upstream;
use crate::tx::Verdict;
use crate::{Body, Final, Guarantee, Outcome, Timestamp};

/// What is to become of an answer's record, when the handler overrides the
/// [rule for its status](crate::manual::statuses). Put it into the extensions of the response. For all answers of a
/// status, there is [`free_on`](super::IdempotencyLayer::free_on); for a service that cannot reach the extensions, such
/// as one behind a proxy, [`trust_disposition_header`](super::IdempotencyLayer::trust_disposition_header).
///
/// A handler that frees the key if nothing happened, so that the client may correct its request and keep its key:
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use axum::{Router, body::Body, response::{IntoResponse, Response}, routing::post};
/// use http::{Request, StatusCode};
/// use keylatch::http::{Disposition, IdempotencyLayer, ScopeFrom};
/// use tower::ServiceExt;
///
/// async fn order(pieces: String) -> Response {
///     if pieces.parse::<u32>().is_err() {
///         let mut response = (StatusCode::UNPROCESSABLE_ENTITY, "pieces is a number").into_response();
///         response.extensions_mut().insert(Disposition::Free);
///         return response;
///     }
///     StatusCode::CREATED.into_response()
/// }
///
/// let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id"));
/// let app = Router::new().route("/orders", post(order)).layer(layer);
/// for (pieces, status) in [("two", 422), ("2", 201), ("3", 422)] {
///     let request = Request::post("/orders").header("x-user-id", "alice").header("idempotency-key", "k");
///     let response = app.clone().oneshot(request.body(Body::from(pieces))?).await?;
///     assert_eq!(response.status().as_u16(), status); // the last is "key reused": the key belongs to the order of 2
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disposition {
    /// Record the answer, and in `Atomic` commit the handler's writes with it.
    Record,
    /// Record the answer, and in `Atomic` roll back the handler's writes.
    RecordAlone,
    /// It failed: nothing is recorded, in `Atomic` the writes are rolled back, and the same request may run again.
    Retry,
    /// It did not happen: as `Retry`, and the key is free for any request. This also applies to earlier attempts. In
    /// `AtMostOnce` only this and `Retry` let a request start again; no status does.
    Free,
    /// It is not known whether it happened: the request does not run again until it is resolved. In `Atomic` the same
    /// as `Free`, because a transaction always knows.
    Unknown,
}

/// How much of an answer is kept, and how long the layer waits for its end.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    pub(super) kept: Kept,
    /// The statuses that free the key.
    pub(super) free_on: Vec<StatusCode>,
    pub(super) bytes_max: usize,
    pub(super) end_max: Duration,
    /// Whether the service inside may set the disposition in a header.
    pub(super) header_trusted: bool,
}

/// The verdict on an answer, and the body to deliver.
///
/// # Errors
///
/// If the body was cut off: then the run has failed.
pub(super) async fn judge<B>(
    parts: &Parts,
    body: B,
    guarantee: Guarantee,
    keeping: &Keeping,
    untouched: bool,
) -> Result<(Verdict, GuardedBody<B>), B::Error>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
{
    let disposition = disposition(parts, guarantee, keeping, untouched);
    match disposition {
        Disposition::Record | Disposition::RecordAlone => {}
        Disposition::Retry => return Ok((Verdict::Retry, GuardedBody::Inner { body })),
        Disposition::Free => return Ok((Verdict::Free, GuardedBody::Inner { body })),
        Disposition::Unknown => return Ok((Verdict::Unknown, GuardedBody::Inner { body })),
    }
    let wait = wait(&parts.headers, guarantee, keeping);
    let (kept, mut body) = match collect(body, keeping.bytes_max, wait).await? {
        Collected::Whole(bytes, None) => (Body::Kept(to_keep(&bytes)), GuardedBody::whole(bytes)),
        // Trailers are part of the answer, and are not kept.
        Collected::Whole(bytes, trailers) => {
            let digest = Some(Sha256::digest(&bytes).into());
            (Body::NotRetained { digest }, GuardedBody::ended(bytes, trailers))
        }
        Collected::TooLong(body, digest) => (Body::NotRetained { digest }, body),
        Collected::TooSlow(body) => (Body::NotRetained { digest: None }, body),
    };
    body.must_end();
    let outcome = Outcome { status: parts.status, headers: keeping.kept.of(&parts.headers), body: kept };
    let verdict = match disposition {
        Disposition::RecordAlone => Verdict::KeepOutcomeOnly(outcome),
        _ => Verdict::Keep(outcome),
    };
    Ok((verdict, body))
}

/// The bytes of an answer as they are kept, possibly for a long time. A small answer is copied into its own buffer,
/// because the buffer of the handler often has twice the size.
pub(super) fn to_keep(bytes: &Bytes) -> Bytes {
    const SMALL_BYTES_MAX: usize = 4096;
    if bytes.len() <= SMALL_BYTES_MAX { Bytes::copy_from_slice(bytes) } else { bytes.clone() }
}

/// What is to become of the answer's record: the service's own disposition, or the rule for its status.
fn disposition(parts: &Parts, guarantee: Guarantee, keeping: &Keeping, untouched: bool) -> Disposition {
    if let Some(said) = parts.extensions.get() {
        return *said;
    }
    if keeping.header_trusted {
        match upstream::disposition(&parts.headers) {
            Ok(Some(said)) => return said,
            Ok(None) => {}
            Err(upstream::Unclear) => {
                tracing::error!(
                    "an answer has an `Idempotency-Disposition` that is not one of `record`, `retry`, `free` and \
                     `unknown`; the rule for its status counts"
                );
                // The service wanted something special for this answer, so the key is not freed.
                return by_rule(parts, guarantee, keeping, false);
            }
        }
    }
    by_rule(parts, guarantee, keeping, untouched)
}

/// The rule if the handler sets no disposition: what the status says about the effect.
///
/// `untouched`: this is the first attempt, and none of its steps has begun.
fn by_rule(parts: &Parts, guarantee: Guarantee, keeping: &Keeping, untouched: bool) -> Disposition {
    let status = parts.status;
    match status {
        // A refusal by an inner layer of Keylatch: it describes this moment and is not a final answer.
        _ if parts.extensions.get::<Problem>().is_some() => without_effect(guarantee),
        // The service has configured that such an answer means that nothing happened.
        _ if untouched && keeping.free_on.contains(&status) => Disposition::Free,
        // By its status, the server did not process the request.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            without_effect(guarantee)
        }
        // The transaction is rolled back, or the lease ended; but in `AtMostOnce` the handler has started and must not
        // start again.
        _ if status.is_server_error() && guarantee != Guarantee::AtMostOnce => Disposition::Retry,
        _ if status.is_client_error() => Disposition::RecordAlone,
        _ => Disposition::Record,
    }
}

/// What becomes of a run whose answer says that it had no effect. A layer that makes such answers may have stopped the
/// handler half-way, so no status frees a key that must not start twice.
fn without_effect(guarantee: Guarantee) -> Disposition {
    match guarantee {
        Guarantee::AtMostOnce => Disposition::Unknown,
        Guarantee::Atomic | Guarantee::Fenced => Disposition::Retry,
    }
}

/// A transaction must not stay open for a stream, and an event stream has no end to wait for. Any other slow body gets
/// some time.
fn wait(headers: &HeaderMap, guarantee: Guarantee, keeping: &Keeping) -> Wait {
    let content_type = headers.get(CONTENT_TYPE).map_or(b"".as_slice(), |value| value.as_bytes());
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if guarantee == Guarantee::Atomic || essence.eq_ignore_ascii_case(b"text/event-stream") {
        return Wait::None;
    }
    Wait::For(keeping.end_max)
}

/// Says for how long the request has waited at most, as it asked
/// ([RFC 7240, section 3](https://www.rfc-editor.org/rfc/rfc7240#section-3)).
pub(super) fn say_applied<B>(response: &mut Response<B>, wait: Duration) {
    let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs())).expect("digits are a header value");
    response.headers_mut().append(PREFERENCE_APPLIED, applied);
}

/// The answer of a run, whether it was recorded or not.
pub(super) fn first<B>(mut response: Response<B>, key: &HeaderValue, expires_at: Option<Timestamp>) -> Response<B> {
    let headers = response.headers_mut();
    headers.remove(IDEMPOTENT_REPLAYED);
    headers.insert(IDEMPOTENCY_KEY, key.clone());
    match expires_at {
        Some(expires_at) => headers.insert(IDEMPOTENCY_EXPIRES, http_date(expires_at)),
        None => headers.remove(IDEMPOTENCY_EXPIRES),
    };
    response
}

/// The stored answer, as a replay.
pub(super) fn replay(found: &Final, key: &HeaderValue) -> Response<Bytes> {
    let outcome = found.outcome();
    let body = match &outcome.body {
        Body::Kept(body) => body.clone(),
        Body::NotRetained { digest } => {
            return Problem::NotRetained { status: outcome.status, digest: *digest }.response();
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = outcome.status;
    let headers = response.headers_mut();
    headers.reserve(outcome.headers.len() + 3);
    for (name, value) in replayable(&outcome.headers) {
        headers.append(name, value.clone());
    }
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    headers.insert(IDEMPOTENCY_KEY, key.clone());
    headers.insert(IDEMPOTENCY_EXPIRES, http_date(found.expires_at()));
    response
}
