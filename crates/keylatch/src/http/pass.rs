//! Requests that go to their handler without a record.

use http::request::Parts;
use http::{HeaderValue, Request, Response};
use parking_lot::Mutex;
use tower_service::Service;

use super::body::GuardedBody;
use super::config::Config;
use super::headers::IDEMPOTENCY_STATUS;
use super::unguarded::Unguarded;
use super::work::{Waiting, ready};
use crate::engine::Identity;

/// Runs a request without a record.
pub(super) async fn bypass<S, B, R>(
    config: &Config,
    waiting: &Mutex<Option<Waiting<S, B>>>,
    asked: crate::Request,
) -> Result<Response<GuardedBody<R>>, S::Error>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>>,
{
    metrics::counter!("keylatch_bypassed_total").increment(1);
    let mut response = pass(waiting, |parts| {
        if let Some(upstream) = config.upstream() {
            upstream.tell_bypass(&mut parts.headers, &asked);
        }
        parts.extensions.insert(Identity { scope: asked.scope, key: asked.key });
        parts.extensions.insert(Unguarded::Bypassed);
    })
    .await?;
    response.headers_mut().insert(IDEMPOTENCY_STATUS, HeaderValue::from_static("bypassed"));
    Ok(response)
}

/// Passes a request that nobody has taken to its handler, unguarded.
pub(super) async fn pass<S, B, R>(
    waiting: &Mutex<Option<Waiting<S, B>>>,
    extend: impl FnOnce(&mut Parts),
) -> Result<Response<GuardedBody<R>>, S::Error>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>>,
{
    ready(waiting).await?;
    let waiting = waiting.lock().take().expect("nobody has taken it");
    let (mut inner, request) = waiting.request(extend);
    Ok(inner.call(request).await?.map(|body| GuardedBody::Inner { body }))
}
