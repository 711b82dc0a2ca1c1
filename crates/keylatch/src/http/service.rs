//! The service: from a request to its answer.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;
use tracing::Span;

use super::answer;
use super::body::{Collected, GuardedBody, Wait, collect, is_over_a_limit};
use super::config::Config;
use super::drain::drain;
use super::future::ResponseFuture;
use super::headers::{IDEMPOTENCY_STATUS, PREFERENCE_APPLIED, clean_request};
use super::observe;
use super::problem::Problem;
use super::request::{self, KeyFrom, identity};
use super::trace;
use super::unguarded::Unguarded;
use super::words::WordsTo;
use super::work::{Shared, Waiting, ready, work};
use crate::engine::{Identity, is_traced, within};
use crate::entry_point::{Answer, Ran};
use crate::failpoint::{self, Point};
use crate::{Error, Guarantee, Key, RecordId, Refused, Scope};

/// A service whose requests take effect once. Built by [`IdempotencyLayer`](super::IdempotencyLayer).
#[derive(Debug, Clone)]
pub struct Idempotency<S> {
    config: Arc<Config>,
    inner: S,
}

impl<S> Idempotency<S> {
    pub(super) fn new(config: Arc<Config>, inner: S) -> Self {
        Self { config, inner }
    }
}

impl<S, B, R> Service<Request<B>> for Idempotency<S>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<GuardedBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Self::Response, S::Error>;

    /// Ready when the inner service is, so that back pressure reaches outer layers.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        clean_request(&mut parts.headers);
        let words = self.config.words.as_ref().map(|words| Arc::new(words.to(parts.clone())));
        if let Some(why) = self.config.passes(&parts) {
            if let Some(upstream) = self.config.upstream() {
                upstream.tell_nothing(&mut parts.headers);
            }
            parts.extensions.insert(why);
            let request = Request::from_parts(parts, GuardedBody::Inner { body });
            return ResponseFuture::passed(self.inner.call(request)).in_words(words);
        }
        // Gives back what the inner service reserved when it became ready, because the body is still to be read. A
        // clone is polled for readiness again when the handler is to run.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        let span = trace::span(&parts.headers, self.config.engine.guarantee());
        let waiting = Waiting { inner, parts, body: GuardedBody::Inner { body } };
        // Created at the start, so that it is stored in only one place.
        let waiting = Arc::new(Mutex::new(Some(waiting)));
        let guarded = guard(self.config.clone(), waiting, words.clone());
        ResponseFuture::guarded(Box::pin(within(span, guarded))).in_words(words)
    }
}

/// Not an `async fn`, which would store its arguments twice in the future of every request.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
fn guard<S, B, R>(
    config: Arc<Config>,
    mut waiting: Shared<S, B>,
    words: Option<Arc<WordsTo>>,
) -> impl Future<Output = Result<Response<GuardedBody<R>>, S::Error>> + Send + 'static
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
{
    async move {
        let asked = {
            match admit(&config, unshared(&mut waiting)).await {
                Ok(Some(asked)) => asked,
                Ok(None) => {
                    let told = config.upstream();
                    return Box::pin(pass(&waiting, move |parts| {
                        told.inspect(|told| told.tell_nothing(&mut parts.headers));
                        parts.extensions.insert(Unguarded::NoKey);
                    }))
                    .await;
                }
                Err(problem) if config.observe && observe::would_refuse(&problem) => {
                    return Box::pin(pass(&waiting, |parts| drop(parts.extensions.insert(Unguarded::Observed)))).await;
                }
                Err(problem) => return Ok(refuse(unshared(&mut waiting), &problem)),
            }
        };
        let wait = asked.request.wait;
        if is_traced() {
            Span::current()
                .record("record", tracing::field::display(RecordId::of(&asked.request.scope, &asked.request.key)));
        }
        if config.observe {
            return Box::pin(observe::run(config, waiting, words, asked)).await;
        }
        let start = {
            let (config, waiting) = (config.clone(), waiting.clone());
            move |handed| work(config, waiting, words, handed)
        };
        let answer = config.engine.answer_to(&asked.request, start).await;
        failpoint::hit(Point::BeforeAnswer);
        let preferred = asked.prefers
            && !wait.is_zero()
            && matches!(answer, Ok(Answer::Replayed(_) | Answer::Refused(Refused::InProgress)));
        let mut response = match answer {
            Ok(Answer::Ran(Ran { value: end, expires_at })) => match end.map(|end| *end) {
                Some(Ok(response)) => answer::first(response, &asked.received, expires_at),
                Some(Err(error)) => return Err(error),
                None => {
                    let started = waiting.lock().is_none();
                    let unknown = expires_at.is_none() && config.engine.guarantee() == Guarantee::AtMostOnce;
                    own(&if unknown && started {
                        Problem::OutcomeUnknown
                    } else {
                        Problem::HandlerFailed { retryable: expires_at.is_none() }
                    })
                }
            },
            Ok(Answer::Replayed(found)) => answer::replay(&found, &asked.received).map(GuardedBody::whole),
            Ok(Answer::Refused(refused)) => own(&Problem::from(refused)),
            Err(Error::Store(error)) => {
                tracing::error!(%error, "the store failed");
                // If a record exists but cannot be read, the request must not run without one.
                let open = config.fail_open && error.retryable();
                if open && waiting.lock().is_some() {
                    Box::pin(bypass(&config, &waiting, asked.request)).await?
                } else {
                    own(&Problem::StoreUnavailable)
                }
            }
            Err(Error::ShuttingDown) => own(&Problem::StoreUnavailable),
            Err(Error::Misused(_)) => own(&Problem::HandlerFailed { retryable: true }),
        };
        if is_traced() {
            Span::current().record("status", response.status().as_u16());
        }
        if preferred {
            let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs())).expect("digits are a header value");
            response.headers_mut().append(PREFERENCE_APPLIED, applied);
        }
        Ok(response)
    }
}

/// The request, which nobody else can reach yet.
fn unshared<S, B>(waiting: &mut Shared<S, B>) -> &mut Waiting<S, B> {
    let waiting = Arc::get_mut(waiting).and_then(|waiting| waiting.get_mut().as_mut());
    waiting.unwrap_or_else(|| unreachable!("a request is admitted before it is shared"))
}

/// A request to the engine. Boxed, because it is kept until the answer is ready.
pub(super) struct Asked {
    /// The request itself.
    pub(super) request: crate::Request,
    /// The key's header as it was received, to be sent back.
    received: HeaderValue,
    /// Whether the client says how long it is willing to wait.
    prefers: bool,
}

/// Reads the whole request before a key is claimed: a slow client never holds a lease. The body is complete afterwards.
async fn admit<S, B>(config: &Config, waiting: &mut Waiting<S, B>) -> Result<Option<Box<Asked>>, Problem>
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
    parts: &Parts,
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
    let fingerprint = match &config.fingerprint {
        Some(by) => by.fingerprint(parts, body),
        None => request::fingerprint(parts, body, config.taken, &config.counted_headers),
    };
    let request = crate::Request { scope, key, fingerprint, wait };
    Ok(Some(Box::new(Asked { request, received, prefers: preferred.is_some() })))
}

/// Refuses a request before its key was claimed.
fn refuse<S, B, R>(waiting: &mut Waiting<S, B>, problem: &Problem) -> Response<GuardedBody<R>>
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

/// Runs a request without a record.
async fn bypass<S, B, R>(
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

pub(super) fn own<R>(problem: &Problem) -> Response<GuardedBody<R>> {
    problem.response().map(GuardedBody::whole)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Mismatch => Self::KeyReused,
            Refused::InProgress => Self::InProgress,
            Refused::Unknown => Self::OutcomeUnknown,
            Refused::Expired => Self::Expired,
            Refused::Quota(quota) => Self::Quota(quota),
        }
    }
}

#[cfg(all(test, feature = "axum"))]
mod tests {
    use axum::Router;
    use tower_layer::Layer as _;

    use super::*;
    use crate::RunOrTx;
    use crate::http::{IdempotencyLayer, ScopeFrom};

    fn bytes_of_output<I, O>(_: &impl FnOnce(I) -> O) -> usize {
        size_of::<O>()
    }

    /// For more than a kilobyte, an allocator such as glibc's leaves its fast path.
    #[test]
    fn a_request_takes_less_than_a_kilobyte_and_its_work_leaves_room_for_the_engine() {
        let layer = IdempotencyLayer::fenced(crate::memory::Store::new(), ScopeFrom::header("x-user-id"));
        let Idempotency { config, inner } = layer.layer(Router::<()>::new());
        let (parts, ()) = Request::new(()).into_parts();
        let body = GuardedBody::Inner { body: axum::body::Body::empty() };
        let waiting: Shared<_, _> = Arc::new(Mutex::new(Some(Waiting { inner, parts, body })));
        let working = {
            let (config, waiting) = (config.clone(), waiting.clone());
            move |handed: RunOrTx| work(config, waiting, None, handed)
        };
        assert!(bytes_of_output(&working) <= 600, "{} bytes", bytes_of_output(&working));
        let guarded = guard(config, waiting, None);
        assert!(size_of_val(&guarded) <= 1_024, "{} bytes", size_of_val(&guarded));
    }
}
