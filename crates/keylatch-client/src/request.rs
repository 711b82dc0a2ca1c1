//! The request that a key is bound to.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request};
use keylatch_core::{Fingerprint, Hasher};

use crate::error::Unsendable;

/// `Idempotency-Key`.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Prefer`, of RFC 7240.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The largest body. It is in memory until the call ends, so that each try sends the same bytes.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Refuses a request that cannot be sent as it is.
pub(crate) fn check(request: &Request<Bytes>) -> Result<(), Unsendable> {
    if request.body().len() > BODY_BYTES_MAX {
        return Err(Unsendable::new(format!("the body is over {BODY_BYTES_MAX} bytes")));
    }
    let foreign = [
        (IDEMPOTENCY_KEY, "the key of the call"),
        (PREFER, "Policy::prefer_wait"),
        (CONTENT_LENGTH, "the length of the body"),
    ];
    match foreign.into_iter().find(|(name, _)| request.headers().contains_key(name)) {
        Some((name, from)) => Err(Unsendable::new(format!("the header {name} is set by the client, from {from}"))),
        None => Ok(()),
    }
}

/// What identifies the request: its method, URL, content type, content encoding and body.
pub(crate) fn fingerprint(request: &Request<Bytes>) -> Fingerprint {
    let mut hasher = Hasher::default();
    hasher.field(request.method().as_str().as_bytes());
    hasher.field(request.uri().to_string().as_bytes());
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        hasher.optional(request.headers().get(name).map(HeaderValue::as_bytes));
    }
    hasher.field(request.body());
    hasher.finish()
}

/// The URL without query and user.
pub(crate) fn public_url(request: &Request<Bytes>) -> String {
    let uri = request.uri();
    match (uri.scheme_str(), uri.host()) {
        (Some(scheme), Some(host)) => {
            let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{host}{port}{}", uri.path())
        }
        _ => uri.path().to_owned(),
    }
}
