//! Requests at rest: encrypted, and bound to the record that keeps them.

use std::fmt;

use bytes::Bytes;
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::{Deserialize, Serialize};

use crate::RecordId;

/// A key that encrypts stored requests, by XChaCha20-Poly1305
/// ([draft-irtf-cfrg-xchacha](https://datatracker.ietf.org/doc/draft-irtf-cfrg-xchacha/)).
///
/// Requests are short-lived at rest: they go when their run completes. To change the key, put the new one first and
/// keep the old one for as long as runs may be abandoned.
#[derive(Clone)]
pub struct SealingKey {
    /// The one that seals comes first; all of them open.
    keys: Vec<XChaCha20Poly1305>,
}

/// A request that cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored request cannot be opened: it was sealed under another key, for another record, or is damaged")]
pub(super) struct CannotOpen;

impl SealingKey {
    /// A key of 32 secret, random bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { keys: vec![XChaCha20Poly1305::new(Key::from_slice(key))] }
    }

    /// Opens what was sealed under `old` as well.
    #[must_use]
    pub fn with_previous(mut self, old: &[u8; 32]) -> Self {
        self.keys.push(XChaCha20Poly1305::new(Key::from_slice(old)));
        self
    }

    /// The request, so that only [`open`](Self::open) for the same record reads it.
    pub(super) fn seal(&self, record: RecordId, parts: &Parts, body: &[u8]) -> Bytes {
        let stored = StoredV1 {
            method: parts.method.as_str(),
            uri: &parts.uri.to_string(),
            headers: parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            body,
        };
        let clear = postcard::to_allocvec(&stored).expect("a vector takes any number of bytes");
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let payload = Payload { msg: &clear, aad: record.as_bytes() };
        let sealed = self.keys[0].encrypt(&nonce, payload).expect("a request is far below the cipher's limit");
        [&[FORMAT], nonce.as_slice(), sealed.as_slice()].concat().into()
    }

    /// The request that was sealed for `record`.
    pub(super) fn open(&self, record: RecordId, sealed: &[u8]) -> Result<Request<Bytes>, CannotOpen> {
        let (format, rest) = sealed.split_first().ok_or(CannotOpen)?;
        let (nonce, cipher) = rest.split_at_checked(NONCE_BYTES).filter(|_| *format == FORMAT).ok_or(CannotOpen)?;
        let payload = || Payload { msg: cipher, aad: record.as_bytes() };
        let clear = self.keys.iter().find_map(|key| key.decrypt(XNonce::from_slice(nonce), payload()).ok());
        let clear = clear.ok_or(CannotOpen)?;
        read(postcard::from_bytes(&clear).map_err(|_| CannotOpen)?).ok_or(CannotOpen)
    }
}

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;

#[derive(Serialize, Deserialize)]
struct StoredV1<'a> {
    method: &'a str,
    uri: &'a str,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a [u8])>,
    body: &'a [u8],
}

fn read(stored: StoredV1<'_>) -> Option<Request<Bytes>> {
    let mut request = Request::new(Bytes::copy_from_slice(stored.body));
    *request.method_mut() = Method::from_bytes(stored.method.as_bytes()).ok()?;
    *request.uri_mut() = stored.uri.parse::<Uri>().ok()?;
    for (name, value) in stored.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(request)
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<Bytes> {
        let request = Request::post("/charges?x=1").header("link", "a").header("link", "b");
        request.body(Bytes::from_static(b"{\"card\":\"4242\"}")).unwrap()
    }

    fn record(byte: u8) -> RecordId {
        RecordId::from_bytes([byte; 32])
    }

    fn sealed(key: &SealingKey) -> Bytes {
        let (parts, body) = request().into_parts();
        key.seal(record(1), &parts, &body)
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let key = SealingKey::new(&[7; 32]);
        let opened = key.open(record(1), &sealed(&key)).unwrap();
        assert_eq!(format!("{opened:?}"), format!("{:?}", request()));
    }

    #[test]
    fn nothing_of_it_can_be_read() {
        let sealed = sealed(&SealingKey::new(&[7; 32]));
        for secret in ["4242", "charges", "link"] {
            assert!(!sealed.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }

    #[test]
    fn another_key_record_or_byte_opens_nothing() {
        let key = SealingKey::new(&[7; 32]);
        let good = sealed(&key);
        assert_eq!(SealingKey::new(&[8; 32]).open(record(1), &good).unwrap_err(), CannotOpen);
        assert_eq!(key.open(record(2), &good).unwrap_err(), CannotOpen);
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert_eq!(key.open(record(1), &bad).unwrap_err(), CannotOpen, "byte {at}");
            assert_eq!(key.open(record(1), &good[..at]).unwrap_err(), CannotOpen, "cut at {at}");
        }
    }

    #[test]
    fn an_old_key_still_opens() {
        let old = sealed(&SealingKey::new(&[7; 32]));
        assert!(SealingKey::new(&[8; 32]).with_previous(&[7; 32]).open(record(1), &old).is_ok());
    }
}
