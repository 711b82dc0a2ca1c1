//! Headers between the layer and a service inside that cannot read the request's extensions, such as one behind a
//! proxy.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};

use super::answer::Disposition;
use super::headers::{
    IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_DERIVED_KEY, IDEMPOTENCY_DISPOSITION, IDEMPOTENCY_EPOCH, IDEMPOTENCY_KEY,
};
use crate::engine::derived_key;
use crate::{Key, RecordId, Request, Run};

/// What the service inside gets in the header `Idempotency-Key`: see
/// [`with_upstream_headers`](super::IdempotencyLayer::with_upstream_headers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UpstreamKey {
    /// Nothing: the header is removed.
    Withheld,
    /// What the client sent. Two callers may send the same key, so a service that keeps answers under it must keep them
    /// separately for each caller.
    Received,
    /// The derived key, for a service that knows `Idempotency-Key` and nothing of Keylatch. It differs for every caller
    /// and every request, so the service need not tell callers apart.
    Derived,
}

/// The name under which the key of [`IDEMPOTENCY_DERIVED_KEY`] is derived.
const DERIVED_FOR: &str = "upstream";

/// What a proxy inside must not remove because a client names it in `Connection`.
static PROTECTED: [HeaderName; 4] = [IDEMPOTENCY_EPOCH, IDEMPOTENCY_ATTEMPT, IDEMPOTENCY_DERIVED_KEY, IDEMPOTENCY_KEY];

impl UpstreamKey {
    /// Sets the headers that describe a run.
    pub(super) fn tell_run(self, headers: &mut HeaderMap, run: &Run) {
        headers.insert(IDEMPOTENCY_EPOCH, run.epoch().as_u64().into());
        headers.insert(IDEMPOTENCY_ATTEMPT, run.attempt().into());
        self.tell_key(headers, &run.key_for(DERIVED_FOR));
    }

    /// Sets the headers of a request that runs without a record: neither epoch nor attempt, and the same derived key as
    /// its runs.
    pub(super) fn tell_bypass(self, headers: &mut HeaderMap, request: &Request) {
        let id = RecordId::of(&request.scope, &request.key);
        self.tell_key(headers, &derived_key(id, request.fingerprint, DERIVED_FOR));
    }

    /// Removes the headers from a request that is not guarded: a key from a client must not pass for Keylatch's.
    pub(super) fn tell_nothing(self, headers: &mut HeaderMap) {
        if self != Self::Received {
            headers.remove(IDEMPOTENCY_KEY);
        }
    }

    fn tell_key(self, headers: &mut HeaderMap, derived: &Key) {
        protect(headers);
        let derived = HeaderValue::from_str(derived.as_str()).expect("a key is a header value");
        match self {
            Self::Withheld => drop(headers.remove(IDEMPOTENCY_KEY)),
            Self::Received => {}
            Self::Derived => drop(headers.insert(IDEMPOTENCY_KEY, derived.clone())),
        }
        headers.insert(IDEMPOTENCY_DERIVED_KEY, derived);
    }
}

/// Removes these names from `Connection`: a proxy removes the headers that are listed there
/// ([RFC 9110, section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)), and a client must not be able to
/// remove them.
fn protect(headers: &mut HeaderMap) {
    let ours = |option: &str| PROTECTED.iter().any(|name| option.trim().eq_ignore_ascii_case(name.as_str()));
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for line in lines {
        let Ok(text) = line.to_str() else { continue };
        if text.split(',').all(|option| !ours(option)) {
            headers.append(CONNECTION, line);
            continue;
        }
        let others: Vec<&str> = text.split(',').map(str::trim).filter(|option| !ours(option)).collect();
        if !others.is_empty() {
            let line = HeaderValue::from_str(&others.join(", ")).expect("a part of a header value is one");
            headers.append(CONNECTION, line);
        }
    }
}

/// A disposition that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclear;

/// The disposition in the header `Idempotency-Disposition` of an answer.
pub(super) fn disposition(headers: &HeaderMap) -> Result<Option<Disposition>, Unclear> {
    let mut lines = headers.get_all(IDEMPOTENCY_DISPOSITION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let word = line.as_bytes().trim_ascii().to_ascii_lowercase();
    match (word.as_slice(), lines.next()) {
        (b"record", None) => Ok(Some(Disposition::Record)),
        (b"retry", None) => Ok(Some(Disposition::Retry)),
        (b"free", None) => Ok(Some(Disposition::Free)),
        (b"unknown", None) => Ok(Some(Disposition::Unknown)),
        _ => Err(Unclear),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(name: &HeaderName, values: &[&[u8]]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_bytes(value).expect("a header value"));
        values.map(|value| (name.clone(), value)).collect()
    }

    #[test]
    fn one_word_of_four_is_understood() {
        let said = |values: &[&[u8]]| disposition(&lines(&IDEMPOTENCY_DISPOSITION, values));
        assert_eq!(said(&[]), Ok(None));
        assert_eq!(said(&[b"record"]), Ok(Some(Disposition::Record)));
        assert_eq!(said(&[b" Retry "]), Ok(Some(Disposition::Retry)));
        assert_eq!(said(&[b"FREE"]), Ok(Some(Disposition::Free)));
        assert_eq!(said(&[b"unknown"]), Ok(Some(Disposition::Unknown)));
        let unclear: [&[&[u8]]; 6] =
            [&[b""], &[b"keep"], &[b"free, retry"], &[b"free", b"free"], &[b"\xff"], &[b"free;"]];
        for values in unclear {
            assert_eq!(said(values), Err(Unclear), "{values:?}");
        }
    }

    #[test]
    fn a_client_cannot_have_our_headers_removed_as_hop_by_hop() {
        let rows: [(&[&[u8]], &[&str]); 5] = [
            (&[b"keep-alive, TE"], &["keep-alive, TE"]),
            (&[b"close, Idempotency-Epoch,idempotency-derived-key"], &["close"]),
            (&[b"idempotency-key"], &[]),
            (&[b"close", b"IDEMPOTENCY-ATTEMPT , x"], &["close", "x"]),
            (&[b"\xff, idempotency-epoch"], &[]),
        ];
        for (sent, left) in rows {
            let mut headers = lines(&CONNECTION, sent);
            protect(&mut headers);
            let lines: Vec<_> = headers.get_all(CONNECTION).iter().collect();
            assert_eq!(lines, left, "{sent:?}");
        }
    }
}
