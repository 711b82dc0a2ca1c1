//! Whether a request may ask the engine: all of it is read first.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts as Head;
use http::{HeaderValue, Response, Version};
use http_body::Body;

use super::body::{Collected, GuardedBody, Wait, collect, is_over_a_limit};
use super::config::Config;
use super::drain::drain;
use super::problem::Problem;
use super::request::{self, KeyFrom, identity};
use super::service::own;
use super::work::{Shared, Waiting};
use crate::recent::Parts;
use crate::{Key, Scope};

/// The request, which nobody else can reach yet.
pub(super) fn unshared<S, B>(waiting: &mut Shared<S, B>) -> &mut Waiting<S, B> {
    let waiting = Arc::get_mut(waiting).and_then(|waiting| waiting.get_mut().as_mut());
    waiting.unwrap_or_else(|| unreachable!("a request is admitted before it is shared"))
}

/// A request to the engine. Boxed, because it is kept until the answer is ready.
pub(super) struct Asked {
    /// The request itself.
    pub(super) request: crate::Request,
    /// The key's header as it was received, to be sent back.
    pub(super) received: HeaderValue,
    /// The hashes of its parts, if the engine remembers its requests.
    pub(super) parts: Option<Parts>,
    /// Whether the client says how long it is willing to wait.
    pub(super) prefers: bool,
}

/// Reads the whole request before a key is claimed: a slow client never holds a lease. The body is complete afterwards.
pub(super) async fn admit<S, B>(config: &Config, waiting: &mut Waiting<S, B>) -> Result<Option<Box<Asked>>, Problem>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    let Waiting { parts, body, .. } = waiting;
    let in_head = config.key_from.in_head(&parts.headers)?;
    if in_head.is_none() && matches!(config.key_from, KeyFrom::Header(_)) {
        return Err(Problem::KeyRequired);
    }
    let scope = config.scope.scope(parts).ok_or(Problem::ScopeRequired)?;
    if body.size_hint().lower() > config.body_bytes_max as u64 {
        return Err(Problem::TooLarge(Some(config.body_bytes_max)));
    }
    let GuardedBody::Inner { body: streamed } = std::mem::replace(body, GuardedBody::ended(Bytes::new(), None)) else {
        unreachable!("nobody has read it yet")
    };
    let wait = Wait::AtPace(config.body_pace, None);
    let (whole, trailers) = match collect(streamed, config.body_bytes_max, wait).await {
        Ok(Collected::Whole(whole, trailers)) => (whole, trailers),
        Ok(Collected::TooLong(rest, _)) => {
            *body = rest;
            return Err(Problem::TooLarge(Some(config.body_bytes_max)));
        }
        Ok(Collected::TooSlow(rest)) => {
            *body = rest;
            return Err(Problem::BodyTooSlow);
        }
        Err(error) if is_over_a_limit(&error) => return Err(Problem::TooLarge(None)),
        Err(_) => return Err(Problem::BodyIncomplete),
    };
    let asked = asked(config, parts, scope, in_head, &whole)?;
    *body = GuardedBody::ended(whole, trailers);
    Ok(asked)
}

/// The request to the engine, after the whole body was read; `None` if there is no key and none is required.
fn asked(
    config: &Config,
    parts: &Head,
    scope: Scope,
    in_head: Option<(Key, HeaderValue)>,
    body: &[u8],
) -> Result<Option<Box<Asked>>, Problem> {
    let found = in_head.map_or_else(|| config.key_from.in_body(body), |found| Ok(Some(found)))?;
    let (key, received) = match found {
        Some(found) => found,
        None if config.key_required => return Err(Problem::KeyRequired),
        None => return Ok(None),
    };
    if identity(&parts.extensions) == Some((&scope, &key)) {
        tracing::error!(
            "two `IdempotencyLayer`s guard one request under one key; put one of them around its route only"
        );
        return Err(Problem::GuardedTwice);
    }
    let preferred = request::wait(&parts.headers);
    let wait = preferred.unwrap_or(config.wait).min(config.engine.limits().wait_max);
    let (fingerprint, hashes) = match &config.fingerprint {
        Some(by) => (by.fingerprint(parts, body), None),
        None => {
            let remembered = config.engine.recent().is_some();
            request::fingerprint(parts, body, config.taken, &config.counted_headers, remembered)
        }
    };
    let request = crate::Request { scope, key, fingerprint, wait };
    Ok(Some(Box::new(Asked { request, received, parts: hashes, prefers: preferred.is_some() })))
}

/// Refuses a request before its key was claimed.
pub(super) fn refuse<S, B, R>(waiting: &mut Waiting<S, B>, problem: &Problem) -> Response<GuardedBody<R>>
where
    B: Body<Data = Bytes> + Send + 'static,
{
    metrics::counter!("keylatch_refused_total", "code" => problem.code()).increment(1);
    let mut response = own(problem);
    if *problem != Problem::BodyTooSlow {
        drain(&waiting.parts, std::mem::replace(&mut waiting.body, GuardedBody::ended(Bytes::new(), None)));
    } else if waiting.parts.version <= Version::HTTP_11 {
        // The rest of its body may or may not arrive, so no other request can follow on the connection.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
