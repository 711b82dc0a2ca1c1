//! The outcome of a run, and its stored bytes.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

/// The outcome of a run: status, kept headers and body; or only bytes, for a function or a message.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The status of the answer. [`StatusCode::OK`] for a function or a message.
    pub status: StatusCode,
    /// The kept headers, in their order, including repeated lines.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Body,
}

/// The body of an [`Outcome`].
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// The complete body.
    Kept(Bytes),
    /// The run took effect, but its answer was too large to keep, or a stream.
    NotRetained {
        /// SHA-256 of the body, if all of it was seen before the record was written.
        digest: Option<[u8; 32]>,
    },
}

impl Outcome {
    /// An outcome that is only `body`, as for a function or a message.
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), body: Body::Kept(body.into()) }
    }

    /// About how many bytes it takes in memory.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 16).sum();
        let body = match &self.body {
            Body::Kept(bytes) => bytes.len(),
            Body::NotRetained { .. } => 32,
        };
        headers + body
    }

    /// The bytes to store: a format version, then the outcome in that format.
    pub fn encode(&self) -> Vec<u8> {
        let stored = StoredV1 {
            status: self.status.as_u16(),
            headers: self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            body: match &self.body {
                Body::Kept(bytes) => StoredBody::Kept(bytes),
                Body::NotRetained { digest } => StoredBody::NotRetained(*digest),
            },
        };
        let mut bytes = Vec::with_capacity(self.size() + 64);
        bytes.push(FORMAT);
        postcard::to_extend(&stored, bytes).expect("a vector takes any number of bytes")
    }

    /// Reads what [`encode`](Self::encode) wrote, in this version or an earlier one.
    ///
    /// # Errors
    ///
    /// If the format version is unknown, or the bytes are not in that format. Neither may ever lead to a
    /// second run: the caller must treat the record as unreadable, not as absent.
    pub fn decode(stored: &[u8]) -> Result<Self, DecodeError> {
        match stored.split_first() {
            Some((&FORMAT, rest)) => decode_v1(rest),
            Some((&format, _)) => Err(DecodeError::UnknownFormat(format)),
            None => Err(DecodeError::Malformed),
        }
    }
}

/// Why stored bytes are not an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a later version of Keylatch.
    #[error("stored in format {0}, which this version does not know; upgrade this process")]
    UnknownFormat(u8),
    /// Not written by Keylatch.
    #[error("the stored bytes are damaged")]
    Malformed,
}

const FORMAT: u8 = 1;

/// Format 1: postcard, whose encoding is fixed by <https://postcard.jamesmunns.com/wire-format>.
#[derive(Serialize, Deserialize)]
struct StoredV1<'a> {
    status: u16,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a [u8])>,
    #[serde(borrow)]
    body: StoredBody<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredBody<'a> {
    #[serde(borrow)]
    Kept(&'a [u8]),
    NotRetained(Option<[u8; 32]>),
}

fn decode_v1(bytes: &[u8]) -> Result<Outcome, DecodeError> {
    let (stored, rest): (StoredV1<'_>, _) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed);
    }
    let header = |(name, value): (&str, &[u8])| {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| DecodeError::Malformed)?;
        let value = HeaderValue::from_bytes(value).map_err(|_| DecodeError::Malformed)?;
        Ok((name, value))
    };
    Ok(Outcome {
        status: StatusCode::from_u16(stored.status).map_err(|_| DecodeError::Malformed)?,
        headers: stored.headers.into_iter().map(header).collect::<Result<_, _>>()?,
        body: match stored.body {
            StoredBody::Kept(body) => Body::Kept(Bytes::copy_from_slice(body)),
            StoredBody::NotRetained(digest) => Body::NotRetained { digest },
        },
    })
}

/// Shows status and size, never header values or the body.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("status", &self.status.as_u16())
            .field("headers", &self.headers.len())
            .field("body", &self.body)
            .finish()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(bytes) => write!(f, "Kept({} bytes)", bytes.len()),
            Self::NotRetained { .. } => f.write_str("NotRetained"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Outcome {
        Outcome {
            status: StatusCode::CREATED,
            headers: vec![
                (http::header::LINK, HeaderValue::from_static("</a>")),
                (http::header::LINK, HeaderValue::from_static("</b>")),
            ],
            body: Body::Kept(Bytes::from_static(b"{\"id\":1}")),
        }
    }

    #[test]
    fn stored_bytes_of_format_1_stay_readable() {
        let stored: &[u8] = b"\x01\xc9\x01\x02\x04link\x04</a>\x04link\x04</b>\x00\x08{\"id\":1}";
        assert_eq!(sample().encode(), stored);
        assert_eq!(Outcome::decode(stored), Ok(sample()));
    }

    #[test]
    fn an_unknown_format_is_an_error() {
        let mut stored = sample().encode();
        stored[0] = 9;
        assert_eq!(Outcome::decode(&stored), Err(DecodeError::UnknownFormat(9)));
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let stored = sample().encode();
        for end in 0..stored.len() {
            assert_eq!(Outcome::decode(&stored[..end]), Err(DecodeError::Malformed), "cut at {end}");
        }
        let mut longer = stored;
        longer.push(0);
        assert_eq!(Outcome::decode(&longer), Err(DecodeError::Malformed));
    }
}
