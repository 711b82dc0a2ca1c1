//! Copies of final outcomes of other regions: a request that is sent again is answered here, without asking its home.
//!
//! ```text
//! home:  a final answer ─▶ the cache that regions share, if there is one
//!        and to a region, with a header: how much longer it is kept, the fingerprint, which headers are kept
//! here:  that answer ─▶ this process's cache, and the one that is shared
//!        a request  ─▶ these caches ─ scope, key and fingerprint are those of the copy ─▶ the answer
//!                                   ─ anything else ─▶ home
//! ```
//!
//! **Expiry is the home's.** The home tells how long its answer is still kept, by its store's clock, and here that time
//! counts from before the request was sent. So a copy in this process ends before the answer does, by as much as the
//! answer took to come. In the shared cache the time counts from when the copy is written, so it can end later than the
//! answer, by at most [`CACHE_TIMEOUT`] and what two clocks drift apart in
//! [`COPY_AGE_MAX`](crate::tiered::COPY_AGE_MAX): less than a second. A copy that the cache did not confirm in that time
//! is taken out again.
//!
//! **The shared cache has one kind of copy**: the record of a request, under its identity. The engine of a home writes it
//! as soon as the outcome is stored, and a [`Tiered`](crate::tiered::Tiered) store when it reads an older one.
//!
//! **An answer that an operator has taken away** is given from copies for at most
//! [`Limits::cache_age_max`](crate::Limits::cache_age_max) in this process, and for
//! [`COPY_AGE_MAX`](crate::tiered::COPY_AGE_MAX) in a shared cache, unless its home told that cache.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use keylatch_core::Cache;
use tokio::time::timeout;

use super::answer::to_keep;
use super::body::GuardedBody;
use super::config::Config;
use super::headers::{IDEMPOTENT_REPLAYED, check_kept, copied};
use crate::engine::Final;
use crate::tiered::CACHE_TIMEOUT;
use crate::{Fingerprint, Outcome, RecordId, Request, State, Timestamp};

/// What a home tells of its answer, in the header of that answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// How much longer it is kept.
    left: Duration,
    expires_at: Timestamp,
    fingerprint: Fingerprint,
    kept: Vec<HeaderName>,
}

/// Marks an answer that goes to a region, with what that region is told.
#[derive(Debug, Clone)]
pub(super) struct ToRegion(pub(super) HeaderValue);

/// The answer of a run that began at `since`, with what another region is told of it: nothing if that is `None`, or if the
/// answer cannot be given again as it is.
pub(super) fn tell<B>(
    config: &Config,
    request: &Request,
    response: Response<GuardedBody<B>>,
    expires: Option<(Instant, Timestamp)>,
) -> Response<GuardedBody<B>> {
    let (Some((since, expires_at)), GuardedBody::Whole { trailers: None, .. }) = (expires, response.body()) else {
        return response;
    };
    let left = config.engine.policy().retention.saturating_sub(since.elapsed());
    let kept = config.keeping.kept.of(response.headers());
    let kept = distinct(kept.iter().map(|(name, _)| name));
    mark(response, &Told { left, expires_at, fingerprint: request.fingerprint, kept })
}

/// A replay of `found`, with what another region is told of it.
pub(super) fn tell_again<B>(
    request: &Request,
    response: Response<GuardedBody<B>>,
    found: &Final,
) -> Response<GuardedBody<B>> {
    // A problem instead of an answer that was not kept.
    if !response.headers().contains_key(IDEMPOTENT_REPLAYED) {
        return response;
    }
    let left = found.left(Instant::now());
    let kept = distinct(found.outcome().headers.iter().map(|(name, _)| name));
    // Whoever resolves an outcome may have written any header. One that is never kept is not in the answer.
    let kept = kept.into_iter().filter(|name| check_kept(name).is_ok()).collect();
    mark(response, &Told { left, expires_at: found.expires_at(), fingerprint: request.fingerprint, kept })
}

fn mark<B>(mut response: Response<B>, told: &Told) -> Response<B> {
    response.extensions_mut().insert(ToRegion(told.line()));
    response
}

fn distinct<'n>(names: impl Iterator<Item = &'n HeaderName>) -> Vec<HeaderName> {
    let mut distinct: Vec<HeaderName> = Vec::new();
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.clone());
        }
    }
    distinct
}

impl Told {
    fn line(&self) -> HeaderValue {
        let fingerprint = hex::encode(self.fingerprint.as_bytes());
        let mut line = format!("{};{};{fingerprint}", self.left.as_millis(), self.expires_at.as_millis());
        for name in &self.kept {
            let _ = write!(line, ";{name}");
        }
        HeaderValue::from_str(&line).expect("digits and names are a header value")
    }

    /// Reads what [`line`](Self::line) wrote; `None` for anything else, such as a header that can never be kept.
    pub(super) fn read(line: &HeaderValue) -> Option<Self> {
        let mut parts = line.to_str().ok()?.split(';');
        let left = Duration::from_millis(parts.next()?.parse().ok()?);
        let expires_at = Timestamp::from_millis(parts.next()?.parse().ok()?);
        let id: RecordId = parts.next()?.parse().ok()?;
        let fingerprint = Fingerprint::from_bytes(*id.as_bytes());
        let name = |name: &str| name.parse().ok().filter(|name| check_kept(name).is_ok());
        let kept = parts.map(name).collect::<Option<Vec<HeaderName>>>()?;
        Some(Self { left, expires_at, fingerprint, kept })
    }

    /// The final outcome, if it is one of `request`, which was sent home at `sent`.
    pub(super) fn outcome(
        self,
        request: &Request,
        (status, headers, body): (StatusCode, &HeaderMap, &Bytes),
        sent: Instant,
    ) -> Option<Final> {
        if self.fingerprint != request.fingerprint || self.left.is_zero() {
            return None;
        }
        let lines = headers.iter().filter(|(name, _)| self.kept.contains(name));
        let headers = lines.map(|(name, value)| (name.clone(), copied(value))).collect();
        let outcome = Outcome { status, headers, body: crate::Body::Kept(to_keep(body)) };
        let left = i64::try_from(self.left.as_millis()).unwrap_or(i64::MAX);
        let now = Timestamp::from_millis(self.expires_at.as_millis().saturating_sub(left));
        Some(Final::new(request, &Arc::new(outcome), self.expires_at, now, sent))
    }
}

/// The copy of the final outcome for exactly this request, if there is one here or in the cache that regions share.
pub(super) async fn find(config: &Config, shared: Option<&dyn Cache>, request: &Request) -> Option<Final> {
    let id = RecordId::of(&request.scope, &request.key);
    if let Some(found) = config.engine.cached(&id, request) {
        // Another request under the key is the home's to refuse.
        return found.is_of(request).then_some(found);
    }
    let record = match timeout(CACHE_TIMEOUT, shared?.find(id)).await {
        Ok(Ok(found)) => found?,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the cache failed; the home is asked");
            return None;
        }
        Err(_) => return None,
    };
    let fits = record.belongs_to(&request.scope, &request.key) && record.fingerprint == request.fingerprint;
    let State::Completed { outcome: Some(outcome), expires_at } = record.state else { return None };
    // The cache keeps it as long as it may be given.
    fits.then(|| Final::new(request, &outcome, expires_at, expires_at, Instant::now()))
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, LOCATION, SET_COOKIE};

    use super::*;

    fn told() -> Told {
        Told {
            left: Duration::from_millis(1_500),
            expires_at: Timestamp::from_millis(1_700_000_000_000),
            fingerprint: Fingerprint::of([&b"a"[..]]),
            kept: vec![CONTENT_TYPE, LOCATION],
        }
    }

    #[test]
    fn what_is_told_is_read() {
        assert_eq!(Told::read(&told().line()), Some(told()));
        let bare = Told { kept: Vec::new(), ..told() };
        assert_eq!(Told::read(&bare.line()), Some(bare));
    }

    #[test]
    fn nothing_else_is() {
        let line = told().line().to_str().unwrap().to_owned();
        let secret = Told { kept: vec![SET_COOKIE], ..told() }.line().to_str().unwrap().to_owned();
        for wrong in ["", ";;", "1;2;3", "-1;2;00", &line.replace(';', ","), &(line.clone() + ";"), &secret] {
            assert_eq!(Told::read(&HeaderValue::from_str(wrong).unwrap()), None, "{wrong}");
        }
    }
}
