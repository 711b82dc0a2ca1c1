//! What a request says: its key, its preference to wait, its fingerprint.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use http::request::Parts;

use super::headers::PREFER;
use super::problem::Problem;
use crate::{Fingerprint, Hasher, Key};

/// The key in the header `name`; `None` if there is no such header.
pub(super) fn key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Key>, Problem> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Problem::KeyRepeated);
    }
    Key::from_header(line.as_bytes()).map(Some).map_err(Problem::KeyInvalid)
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

/// The fingerprint: method, path, raw query, content type, content encoding, body.
pub(super) fn fingerprint(parts: &Parts, body: &[u8]) -> Fingerprint {
    let mut hasher = Hasher::default();
    hasher.field(parts.method.as_str().as_bytes());
    hasher.field(parts.uri.path().as_bytes());
    hasher.optional(parts.uri.query().map(str::as_bytes));
    hasher.optional(parts.headers.get(CONTENT_TYPE).map(|value| value.as_bytes()));
    hasher.optional(parts.headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()));
    hasher.field(body);
    hasher.finish()
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
