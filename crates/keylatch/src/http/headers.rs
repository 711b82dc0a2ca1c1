//! The headers of the contract, and which of an answer's headers are kept.

use std::cell::RefCell;

use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE,
    DATE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, LINK, LOCATION, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};

use crate::Timestamp;

/// The client's key, as [draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)
/// names it.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `true` on a replay.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// When the answer stops being kept: an HTTP date.
pub const IDEMPOTENCY_EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");
/// `bypassed` on an answer that was given without a record, because the store was unavailable and the route fails open.
pub const IDEMPOTENCY_STATUS: HeaderName = HeaderName::from_static("idempotency-status");

/// The epoch of a run, for a service inside, with
/// [`with_upstream_headers`](super::IdempotencyLayer::with_upstream_headers): the number of
/// [`Run::epoch`](crate::Run::epoch), in decimal digits. The layer removes this header from what a client sends and
/// receives.
pub const IDEMPOTENCY_EPOCH: HeaderName = HeaderName::from_static("idempotency-epoch");
/// The attempt number of a run, from 1, beside [`IDEMPOTENCY_EPOCH`]. The layer removes this header from what a client
/// sends and receives.
pub const IDEMPOTENCY_ATTEMPT: HeaderName = HeaderName::from_static("idempotency-attempt");
/// The derived key of a request, beside [`IDEMPOTENCY_EPOCH`]: [`Run::key_for("upstream")`](crate::Run::key_for). The
/// layer removes this header from what a client sends and receives.
pub const IDEMPOTENCY_DERIVED_KEY: HeaderName = HeaderName::from_static("idempotency-derived-key");
/// What the service inside wants to become of its answer's record: see
/// [`trust_disposition_header`](super::IdempotencyLayer::trust_disposition_header). The layer removes this header from
/// what a client sends and receives.
pub const IDEMPOTENCY_DISPOSITION: HeaderName = HeaderName::from_static("idempotency-disposition");

/// Which region has sent a request to its home, signed: see
/// [`with_homes`](super::IdempotencyLayer::with_homes). The layer removes this header from what a client sends and
/// receives.
pub const IDEMPOTENCY_REGION: HeaderName = HeaderName::from_static("idempotency-region");

pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const IDEMPOTENCY_SCOPE: HeaderName = HeaderName::from_static("idempotency-scope");

/// What the names of [`OF_ANSWERS`] and [`INTERNAL`] begin with.
const PREFIX: &str = "idempoten";

/// Headers that only the layer sets in an answer. If a client sends them, they never reach a handler. In an answer they
/// stay, because an inner layer may have set them.
static OF_ANSWERS: [HeaderName; 3] = [IDEMPOTENT_REPLAYED, IDEMPOTENCY_STATUS, IDEMPOTENCY_EXPIRES];

/// Headers between the layer and the service inside. They never leave the layer, and never come in from a client.
static INTERNAL: [HeaderName; 6] = [
    IDEMPOTENCY_EPOCH,
    IDEMPOTENCY_ATTEMPT,
    IDEMPOTENCY_DERIVED_KEY,
    IDEMPOTENCY_DISPOSITION,
    IDEMPOTENCY_SCOPE,
    IDEMPOTENCY_REGION,
];

/// Headers that describe the answer, say how it may be used, or say where it leads. All others belong to one exchange.
/// So do CORS headers, which answer the current request: an outer layer adds them to replays, too.
static KEPT: [HeaderName; 12] = [
    CONTENT_TYPE,
    CONTENT_LANGUAGE,
    CONTENT_ENCODING,
    LOCATION,
    ETAG,
    LAST_MODIFIED,
    LINK,
    RETRY_AFTER,
    CACHE_CONTROL,
    VARY,
    CONTENT_DISPOSITION,
    X_CONTENT_TYPE_OPTIONS,
];

/// Headers that must never be repeated in another exchange: credentials, the time of the answer, and those that concern
/// one connection ([RFC 9110, section 7.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1)) or its framing.
static NEVER_KEPT: [HeaderName; 12] = [
    DATE,
    CONTENT_LENGTH,
    SET_COOKIE,
    WWW_AUTHENTICATE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Which of an answer's headers are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    more: Vec<HeaderName>,
}

/// A header that cannot be kept: one like `Set-Cookie`, or one that the layer itself sets or removes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header `{0}` cannot be kept: it belongs to one client, one answer or one connection")]
pub struct NeverKept(pub HeaderName);

/// Checks that a header can be part of a recorded answer; for whoever writes one, such as a resolver.
///
/// # Errors
///
/// If it is one like `Set-Cookie`, or one that the layer itself sets or removes.
pub fn check_kept(name: &HeaderName) -> Result<(), NeverKept> {
    if NEVER_KEPT.contains(name) || is_internal(name) { Err(NeverKept(name.clone())) } else { Ok(()) }
}

impl Kept {
    pub(super) fn add(&mut self, name: HeaderName) -> Result<(), NeverKept> {
        check_kept(&name)?;
        self.more.push(name);
        Ok(())
    }

    /// The kept lines of `headers`, in their order.
    pub(super) fn of(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        let kept = |name: &HeaderName| {
            let listed = KEPT.contains(name) || self.more.contains(name);
            listed && !concerns_connection(name, headers)
        };
        // Counted first, so that the vector has no spare capacity: a record is kept for a long time.
        let mut lines = Vec::with_capacity(headers.keys().filter(|name| kept(name)).count());
        lines.extend(headers.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), copied(value))));
        lines
    }
}

/// A value in memory of its own. One that came over a connection is a part of the buffer that it was read into, which it
/// would keep as long as itself.
pub(super) fn copied(value: &HeaderValue) -> HeaderValue {
    let mut copied = HeaderValue::from_bytes(value.as_bytes()).expect("it is the value of a header already");
    copied.set_sensitive(value.is_sensitive());
    copied
}

/// Whether `Connection` names this header as one of its own.
fn concerns_connection(name: &HeaderName, headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| names(line, name))
}

/// Whether this line of `Connection` names the header.
fn names(line: &HeaderValue, name: &HeaderName) -> bool {
    let mut options = line.to_str().unwrap_or_default().split(',');
    options.any(|option| option.trim().eq_ignore_ascii_case(name.as_str()))
}

/// The lines of a stored outcome that may be replayed. Not every outcome comes from a handler: an operator or a
/// resolver may write any header, so headers that are never kept are also never replayed.
pub(super) fn replayable(lines: &[(HeaderName, HeaderValue)]) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
    let of_connection = move |name: &HeaderName| lines.iter().any(|(of, line)| *of == CONNECTION && names(line, name));
    // Most lines are in the list that is always kept.
    let kept = |name: &HeaderName| KEPT.contains(name) || !(NEVER_KEPT.contains(name) || is_internal(name));
    lines.iter().filter(move |(name, _)| kept(name) && !of_connection(name))
}

fn is_internal(name: &HeaderName) -> bool {
    INTERNAL.contains(name) || OF_ANSWERS.contains(name)
}

/// Removes from a request the headers that only this side sets.
pub(super) fn clean_request(headers: &mut HeaderMap) {
    remove(headers, is_internal);
}

/// Removes from an answer, or from trailers, the headers between the layer and the service inside.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    remove(headers, |name| INTERNAL.contains(name));
}

fn remove(headers: &mut HeaderMap, ours: impl Fn(&HeaderName) -> bool) {
    // One pass over the headers costs less than a look-up for each name. Most of them are none of these by their prefix.
    while let Some(name) = headers.keys().find(|name| name.as_str().starts_with(PREFIX) && ours(name)) {
        let name = name.clone();
        headers.remove(name);
    }
}

/// An instant as an HTTP date ([RFC 9110, section 5.6.7](https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7)).
pub(super) fn http_date(instant: Timestamp) -> HeaderValue {
    /// The end of the year 9999, after which there are no HTTP dates.
    const LAST: u64 = 253_402_300_799;
    thread_local! {
        /// The latest date, because answers of one second usually expire in the same second.
        static LATEST: RefCell<(u64, HeaderValue)> = RefCell::new((0, date_of(0)));
    }
    let second = (u64::try_from(instant.as_millis()).unwrap_or(0) / 1_000).min(LAST);
    LATEST.with_borrow_mut(|latest| {
        if latest.0 != second {
            *latest = (second, date_of(second));
        }
        latest.1.clone()
    })
}

fn date_of(second: u64) -> HeaderValue {
    let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
    HeaderValue::from_str(&httpdate::fmt_http_date(date)).expect("a date is a header value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_prefix_is_that_of_all_own_headers() {
        assert!(INTERNAL.iter().chain(&OF_ANSWERS).all(|name| name.as_str().starts_with(PREFIX)));
    }

    #[test]
    fn a_request_and_an_answer_keep_all_but_own_headers() {
        let all: HeaderMap = INTERNAL
            .iter()
            .chain(&OF_ANSWERS)
            .chain([&IDEMPOTENCY_KEY, &CONTENT_TYPE])
            .flat_map(|name| {
                [(name.clone(), HeaderValue::from_static("a")), (name.clone(), HeaderValue::from_static("b"))]
            })
            .collect();
        let names = |headers: &HeaderMap| headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let (mut request, mut answer) = (all.clone(), all.clone());
        clean_request(&mut request);
        let mut left = names(&request);
        left.sort_by_key(ToString::to_string);
        assert_eq!(left, [CONTENT_TYPE, CONTENT_TYPE, IDEMPOTENCY_KEY, IDEMPOTENCY_KEY]);
        clean_answer(&mut answer);
        assert_eq!(names(&answer).len(), all.len() - 2 * INTERNAL.len());
        assert!(INTERNAL.iter().all(|name| !answer.contains_key(name)));
    }

    /// A name that is kept, never kept, added by the user, or none of these.
    fn name() -> impl Strategy<Value = HeaderName> {
        let known: Vec<_> = KEPT.iter().chain(&NEVER_KEPT).chain(&INTERNAL).chain(&OF_ANSWERS).cloned().collect();
        let other = prop::sample::select(vec!["x-added", "x-other", "age"]);
        prop_oneof![prop::sample::select(known), other.prop_map(HeaderName::from_static)]
    }

    fn headers() -> impl Strategy<Value = HeaderMap> {
        let line = (name(), "[ -~]{0,12}").prop_map(|(name, value)| (name, HeaderValue::from_str(&value).unwrap()));
        prop::collection::vec(line, 0..24).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, value);
            }
            headers
        })
    }

    #[test]
    fn a_kept_value_does_not_keep_the_buffer_that_it_was_read_into() {
        let buffer = bytes::Bytes::from(b"text/plain and the rest of what was read".to_vec());
        let value = HeaderValue::from_maybe_shared(buffer.slice(..10)).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value);
        let kept = Kept::default().of(&headers);
        assert_eq!(kept[0].1, "text/plain");
        drop(headers);
        assert!(buffer.is_unique(), "the kept value is a part of it");
    }

    proptest! {
        #[test]
        fn only_listed_lines_are_kept_and_all_of_them_in_order(headers in headers()) {
            let mut kept = Kept::default();
            let added = HeaderName::from_static("x-added");
            kept.add(added.clone()).unwrap();
            let lines = kept.of(&headers);
            for (name, _) in &lines {
                prop_assert!(KEPT.contains(name) || *name == added, "{} is kept", name);
                prop_assert!(!NEVER_KEPT.contains(name) && !is_internal(name));
            }
            for name in KEPT.iter().chain([&added]).filter(|name| !concerns_connection(name, &headers)) {
                let before: Vec<_> = headers.get_all(name).iter().collect();
                let after: Vec<_> = lines.iter().filter(|(kept, _)| kept == name).map(|(_, value)| value).collect();
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn what_belongs_to_one_client_cannot_be_added() {
        for name in NEVER_KEPT.iter().chain(&INTERNAL).chain(&OF_ANSWERS) {
            assert_eq!(Kept::default().add(name.clone()), Err(NeverKept(name.clone())));
        }
    }
}
