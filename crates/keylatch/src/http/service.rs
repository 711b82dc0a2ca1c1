//! The service: from a request to its answer.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;
use tracing::Span;

use super::admit::{admit, refuse, unshared};
use super::answer;
use super::body::GuardedBody;
use super::config::Config;
use super::copies;
use super::future::ResponseFuture;
use super::headers::clean_request;
use super::home::{self, Sender, Way};
use super::observe;
use super::pass::{bypass, pass};
use super::problem::Problem;
use super::trace;
use super::unguarded::Unguarded;
use super::words::WordsTo;
use super::work::{Shared, Waiting, work};
use crate::engine::{is_traced, within};
use crate::entry_point::{Answer, Ran};
use crate::failpoint::{self, Point};
use crate::{Error, Guarantee, RecordId, Refused};

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
        if let Some(regions) = &self.config.regions {
            parts.extensions.insert(regions.sender(&parts));
        }
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
        // For an answer to another region: since when it is being made.
        let mut for_region = None;
        if let Some(regions) = &config.regions {
            let sender = unshared(&mut waiting).parts.extensions.remove().unwrap_or(Sender::Client);
            match regions.way(&asked.request, &sender) {
                Way::Here => for_region = matches!(sender, Sender::Region { .. }).then(Instant::now),
                elsewhere => return Box::pin(home::elsewhere(config, waiting, asked, elsewhere.home())).await,
            }
        }
        let start = {
            let (config, waiting) = (config.clone(), waiting.clone());
            move |handed| work(config, waiting, words, handed)
        };
        let answer = config.engine.answer_to(&asked.request, asked.parts.as_ref(), start).await;
        failpoint::hit(Point::BeforeAnswer);
        let preferred = asked.prefers
            && !wait.is_zero()
            && matches!(answer, Ok(Answer::Replayed(_) | Answer::Refused(Refused::InProgress)));
        let mut response = match answer {
            Ok(Answer::Ran(Ran { value: end, expires_at })) => match end.map(|end| *end) {
                Some(Ok(response)) => {
                    let response = answer::first(response, &asked.received, expires_at);
                    copies::tell(&config, &asked.request, response, for_region.zip(expires_at))
                }
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
            Ok(Answer::Replayed(found)) => {
                let response = answer::replay(&found, &asked.received).map(GuardedBody::whole);
                if for_region.is_some() { copies::tell_again(&asked.request, response, &found) } else { response }
            }
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
            answer::say_applied(&mut response, wait);
        }
        Ok(response)
    }
}

pub(super) fn own<R>(problem: &Problem) -> Response<GuardedBody<R>> {
    problem.response().map(GuardedBody::whole)
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

    /// For more than 1,000 bytes, an allocator such as glibc's leaves its fast path.
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
        let guarded = within(Span::none(), guard(config, waiting, None));
        assert!(size_of_val(&guarded) <= 1_000, "{} bytes", size_of_val(&guarded));
    }
}
