//! The least that a layer can do that answers repeated requests from memory: the comparison for Keylatch's layer.
//!
//! It has no guarantee, lease, epoch, retention, limit, followers or telemetry, and its run dies with its client. If a
//! run is cut off, its key stays blocked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

const BODY_BYTES_MAX: usize = 1 << 20;
const CALLER: HeaderName = HeaderName::from_static("x-user-id");
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The answers, by caller, operation and key.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<HashMap<[u8; 32], Kept>>>);

struct Kept {
    fingerprint: [u8; 32],
    /// `None` while it runs.
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
}

/// Runs the inner service once for a key, and replays its answer.
pub(crate) async fn once(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (Some(key), Some(caller)) = (parts.headers.get(KEY).cloned(), parts.headers.get(CALLER)) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let id = digest([caller.as_bytes(), parts.method.as_str().as_bytes(), parts.uri.path().as_bytes(), key.as_bytes()]);
    let fingerprint = digest([parts.uri.query().unwrap_or_default().as_bytes(), &body]);

    match answers.0.lock().entry(id) {
        Entry::Occupied(kept) => return again(kept.get(), fingerprint, key),
        Entry::Vacant(free) => free.insert(Kept { fingerprint, answer: None }),
    };
    let (mut parts, body) = next.run(Request::from_parts(parts, Body::from(body))).await.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else { return StatusCode::BAD_GATEWAY.into_response() };
    let answer = Some((parts.status, parts.headers.clone(), body.clone()));
    answers.0.lock().insert(id, Kept { fingerprint, answer });
    parts.headers.insert(KEY, key);
    Response::from_parts(parts, Body::from(body))
}

fn again(kept: &Kept, fingerprint: [u8; 32], key: HeaderValue) -> Response {
    if kept.fingerprint != fingerprint {
        return StatusCode::UNPROCESSABLE_ENTITY.into_response();
    }
    let Some((status, headers, body)) = &kept.answer else { return StatusCode::CONFLICT.into_response() };
    let mut response = (*status, headers.clone(), body.clone()).into_response();
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response.headers_mut().insert(KEY, key);
    response
}

fn digest<const N: usize>(fields: [&[u8]; N]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}
