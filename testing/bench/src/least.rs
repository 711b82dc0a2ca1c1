//! The least that a layer can be which answers a repeated request from memory: what the product is measured beside.
//!
//! It has no leases, epochs or guarantees, forgets nothing, follows no run, ends with its client, reports nothing, and
//! checks no scope, key or limit beyond what is written here.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

const BODY_BYTES_MAX: usize = 1 << 20;
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

/// Runs what comes after it once for a key.
pub(crate) async fn once(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let (Some(key), Some(user)) = (parts.headers.get(KEY).cloned(), parts.headers.get("x-user-id")) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let operation = (parts.method.as_str(), parts.uri.path());
    let id: [u8; 32] = digest([user.as_bytes(), operation.0.as_bytes(), operation.1.as_bytes(), key.as_bytes()]);
    let fingerprint: [u8; 32] = digest([parts.uri.query().unwrap_or_default().as_bytes(), &body]);

    match answers.0.lock().entry(id) {
        std::collections::hash_map::Entry::Occupied(found) => {
            let found = found.get();
            return match &found.answer {
                _ if found.fingerprint != fingerprint => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
                None => StatusCode::CONFLICT.into_response(),
                Some((status, headers, body)) => {
                    let mut response = (*status, headers.clone(), body.clone()).into_response();
                    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
                    response.headers_mut().insert(KEY, key);
                    response
                }
            };
        }
        std::collections::hash_map::Entry::Vacant(free) => {
            free.insert(Kept { fingerprint, answer: None });
        }
    }

    let (mut parts, body) = next.run(Request::from_parts(parts, Body::from(body))).await.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else { return StatusCode::BAD_GATEWAY.into_response() };
    let answer = (parts.status, parts.headers.clone(), body.clone());
    answers.0.lock().insert(id, Kept { fingerprint, answer: Some(answer) });
    parts.headers.insert(KEY, key);
    Response::from_parts(parts, Body::from(body))
}

fn digest<const N: usize>(fields: [&[u8]; N]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}
