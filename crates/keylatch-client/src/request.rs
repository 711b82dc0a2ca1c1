//! The request that a key is bound to.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request};

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

/// What makes two requests the same one to a key: method, URL, content type, content encoding and body.
#[derive(PartialEq)]
pub(crate) struct Identity<'r>([Option<&'r [u8]>; 7]);

impl<'r> Identity<'r> {
    pub(crate) fn of(request: &'r Request<Bytes>) -> Self {
        let url = request.uri();
        let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
        Self([
            Some(request.method().as_str().as_bytes()),
            url.scheme_str().map(str::as_bytes),
            url.authority().map(|authority| authority.as_str().as_bytes()),
            url.path_and_query().map(|path| path.as_str().as_bytes()),
            header(CONTENT_TYPE),
            header(CONTENT_ENCODING),
            Some(request.body()),
        ])
    }
}

impl Hash for Identity<'_> {
    /// The lengths come first, so that no two lists of fields are the same bytes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.map(|field| field.map_or(usize::MAX, <[u8]>::len)).hash(state);
        self.0.into_iter().flatten().for_each(|field| state.write(field));
    }
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
