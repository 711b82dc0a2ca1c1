//! What a request says: its key, its preference to wait, its fingerprint.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, Uri};

use super::headers::PREFER;
use super::multipart::Multipart;
use super::problem::Problem;
use keylatch_core::canonical;

use crate::engine::Identity;
use crate::recent::{Part, Parts as Hashes};
use crate::{Fingerprint, Hasher, Key, Run, Scope};

/// Where a request's key is.
#[derive(Debug, Clone)]
pub(super) enum KeyFrom {
    Header(HeaderName),
    /// A string or a number at this pointer ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)) in a JSON body.
    Pointer(Box<str>),
}

impl KeyFrom {
    /// Whether a request with these headers may have a key.
    pub(super) fn may_be_in(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Header(name) => headers.contains_key(name),
            Self::Pointer(_) => true,
        }
    }

    /// The key in the head of the request, and the form in which it was received; `None` if it is not there.
    pub(super) fn in_head(&self, headers: &HeaderMap) -> Result<Option<(Key, HeaderValue)>, Problem> {
        let Self::Header(name) = self else { return Ok(None) };
        let mut lines = headers.get_all(name).iter();
        let Some(line) = lines.next() else { return Ok(None) };
        if lines.next().is_some() {
            return Err(Problem::KeyRepeated);
        }
        let key = Key::from_header(line.as_bytes()).map_err(Problem::KeyInvalid)?;
        Ok(Some((key, line.clone())))
    }

    /// The key in the body; `None` if it is not there.
    pub(super) fn in_body(&self, body: &[u8]) -> Result<Option<(Key, HeaderValue)>, Problem> {
        let Self::Pointer(pointer) = self else { return Ok(None) };
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return Ok(None) };
        let text = match body.pointer(pointer) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => return Ok(None),
        };
        let key = Key::new(&text).map_err(Problem::KeyInvalid)?;
        let received = HeaderValue::from_str(key.as_str()).expect("a key is a header value");
        Ok(Some((key, received)))
    }
}

/// The scope and key of a request, if a layer guards it; otherwise `None`.
pub(super) fn identity(extensions: &Extensions) -> Option<(&Scope, &Key)> {
    let known = extensions.get().map(|Identity { scope, key }| (scope, key));
    known.or_else(|| extensions.get().map(|run: &Run| (run.scope(), run.key())))
}

/// The `wait` preference ([RFC 7240, section 4.3](https://www.rfc-editor.org/rfc/rfc7240#section-4.3)): the first
/// that is a number of seconds.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let preferences = lines.flat_map(|line| line.split(','));
    let mut seconds = preferences.filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let wait = name.trim().eq_ignore_ascii_case("wait");
        wait.then(|| value.trim().trim_matches('"').parse().ok()).flatten()
    });
    seconds.next().map(Duration::from_secs)
}

/// Which parts of a body are compared instead of its bytes, if it has them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) canonical_json: bool,
    pub(super) multipart_parts: bool,
}

/// The fingerprint of method, path, raw query, content type, content encoding, body, and these headers. If configured,
/// of a JSON body's canonical form and a multipart body's parts instead of the body. If it will be `remembered`, also a
/// hash of each part.
pub(super) fn fingerprint(
    parts: &Parts,
    body: &[u8],
    of: Taken,
    headers: &[HeaderName],
    remembered: bool,
) -> (Fingerprint, Option<Hashes>) {
    let multipart = if of.multipart_parts { Multipart::of(&parts.headers, body) } else { None };
    let content_type = match &multipart {
        Some(multipart) => Some(Cow::from(&multipart.content_type)),
        None => all_of(&parts.headers, CONTENT_TYPE),
    };
    let mut fields = Fields { hasher: Hasher::default(), hashes: remembered.then(Hashes::default) };
    fields.field(Part::Method, parts.method.as_str().as_bytes());
    fields.field(Part::Path, uri(parts).path().as_bytes());
    fields.optional(Part::Query, uri(parts).query().map(str::as_bytes));
    fields.optional(Part::Type, content_type.as_deref());
    fields.optional(Part::Type, all_of(&parts.headers, CONTENT_ENCODING).as_deref());
    let json = of.canonical_json && may_be_json(&parts.headers);
    if let Some(multipart) = multipart {
        fields.field(Part::Body, b"multipart parts");
        fields.field(Part::Body, multipart.parts.as_bytes());
    } else if let Some(canonical) = if json { canonical(body, JSON_DEPTH_MAX) } else { None } {
        fields.field(Part::Body, b"canonical JSON");
        fields.field(Part::Body, &canonical);
    } else {
        fields.field(Part::Body, body);
    }
    for name in headers {
        fields.field(Part::Headers, name.as_str().as_bytes());
        fields.optional(Part::Headers, all_of(&parts.headers, name.clone()).as_deref());
    }
    (fields.hasher.finish(), fields.hashes)
}

/// The fields of a request, as they are hashed.
struct Fields {
    hasher: Hasher,
    hashes: Option<Hashes>,
}

impl Fields {
    fn field(&mut self, part: Part, bytes: &[u8]) {
        self.optional(part, Some(bytes));
    }

    fn optional(&mut self, part: Part, bytes: Option<&[u8]>) {
        self.hasher.optional(bytes);
        if let Some(hashes) = &mut self.hashes {
            hashes.add(part, bytes);
        }
    }
}

/// The deepest nesting of a body that is canonicalised: deeper than people write by hand.
const JSON_DEPTH_MAX: usize = 32;

/// The URI that the client requested: a router that nests others removes the prefix before they see it.
pub(super) fn uri(parts: &Parts) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = parts.extensions.get() {
        return uri;
    }
    &parts.uri
}

/// The value of a header. Several lines mean the same as one with commas
/// ([RFC 9110, section 5.3](https://www.rfc-editor.org/rfc/rfc9110#section-5.3)).
fn all_of(headers: &HeaderMap, name: HeaderName) -> Option<Cow<'_, [u8]>> {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = Cow::from(lines.next()?);
    Some(lines.fold(first, |all, line| Cow::from([all.as_ref(), b", ", line].concat())))
}

fn may_be_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json") || essence.to_ascii_lowercase().ends_with(b"+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(lines: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, line.parse().unwrap());
        }
        wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_wait_preference_is_found_among_others() {
        assert_eq!(prefer(&["wait=5"]), Some(5));
        assert_eq!(prefer(&["respond-async, wait=10"]), Some(10));
        assert_eq!(prefer(&["respond-async", "Wait = \"7\"; x=1"]), Some(7));
        assert_eq!(prefer(&["wait=5, wait=9"]), Some(5));
        assert_eq!(prefer(&["wait"]), None);
        assert_eq!(prefer(&["wait=soon"]), None);
        assert_eq!(prefer(&["wait=-1"]), None);
        assert_eq!(prefer(&["await=5"]), None);
        assert_eq!(prefer(&[]), None);
    }
}
