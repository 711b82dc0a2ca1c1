//! The work of a run: the handler, and the verdict on its answer.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::answer::{Keeping, judge};
use super::body::GuardedBody;
use super::config::Config;
use super::problem::Problem;
use super::upstream::UpstreamKey;
use super::words::WordsTo;
use crate::tx::Verdict;
use crate::{Guarantee, Outcome, RunOrTx};

/// A request on its way to its handler.
pub(super) struct Waiting<S, B> {
    pub(super) inner: S,
    pub(super) parts: Parts,
    pub(super) body: GuardedBody<B>,
}

impl<S, B> Waiting<S, B> {
    /// The service, and the handler's request, with what `extend` adds.
    pub(super) fn request(self, extend: impl FnOnce(&mut Parts)) -> (S, Request<GuardedBody<B>>) {
        let Self { inner, mut parts, body } = self;
        extend(&mut parts);
        (inner, Request::from_parts(parts, body))
    }
}

/// The request, until its handler takes it: while it is there, the handler has not begun.
pub(super) type Shared<S, B> = Arc<Mutex<Option<Waiting<S, B>>>>;

/// The result of a handler's service; `None` if it gave no complete answer. Boxed, because a run keeps it while its outcome is
/// recorded.
pub(super) type End<R, E> = Option<Box<Result<Response<GuardedBody<R>>, E>>>;

/// The work of one run: the handler, and the verdict on its answer.
#[expect(clippy::manual_async_fn, reason = "an async fn would keep its arguments twice")]
pub(super) fn work<S, B, R>(
    config: Arc<Config>,
    waiting: Shared<S, B>,
    words: Option<Arc<WordsTo>>,
    given: RunOrTx,
) -> impl Future<Output = (Verdict, End<R, S::Error>)> + Send
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Send,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + Send,
    R: Body<Data = Bytes> + Send + 'static,
{
    async move {
        let guarantee = config.engine.guarantee();
        let handling = async {
            let mut limit = Limit::new(config.run_max.filter(|_| !config.observe));
            match limit.on(ready(&waiting)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return (not_started(guarantee), Some(Box::new(Err(error)))),
                None => {
                    tracing::error!("a service was not ready within `with_run_max`");
                    return (not_started(guarantee), None);
                }
            }
            let run = if config.keeping.free_on.is_empty() { None } else { given.run().cloned() };
            let Some(answering) = begin(&waiting, given, config.upstream()) else { return (Verdict::Free, None) };
            let (parts, body) = match limit.on(answering).await {
                Some(Ok(response)) => response.into_parts(),
                Some(Err(error)) => {
                    return (cut_short(guarantee, "its service failed"), Some(Box::new(Err(error))));
                }
                None => return (cut_short(guarantee, "it ran for longer than `with_run_max` allows"), None),
            };
            let untouched = run.is_none_or(|run| run.is_untouched());
            let judging = AssertUnwindSafe(judge(&parts, body, guarantee, &config.keeping, untouched));
            match judging.catch_unwind().await {
                Ok(Ok((verdict, body))) => (verdict, Some(Box::new(Ok(Response::from_parts(parts, body))))),
                // It had already given a status, so this counts neither as an answer nor as a panic before one.
                Ok(Err(_)) | Err(_) => (cut_short(guarantee, "the body of its answer was cut off"), None),
            }
        };
        match AssertUnwindSafe(handling).catch_unwind().await {
            Ok(ended) => ended,
            Err(_) => panicked(guarantee, &config.keeping, words.as_deref()),
        }
    }
}

/// How long a handler may run. Boxed, because few layers have a limit, and it is large.
struct Limit(Option<Pin<Box<Sleep>>>);

pin_project! {
    struct Limited<'l, F> {
        limit: &'l mut Limit,
        #[pin]
        future: F,
    }
}

impl Limit {
    fn new(run_max: Option<Duration>) -> Self {
        Self(run_max.map(|run_max| Box::pin(sleep(run_max))))
    }

    /// The output of `future`; `None` if it reaches the limit. Then it has been dropped.
    fn on<F: Future>(&mut self, future: F) -> Limited<'_, F> {
        Limited { limit: self, future }
    }
}

impl<F: Future> Future for Limited<'_, F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        match &mut this.limit.0 {
            Some(sleep) => sleep.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

/// Waits until the handler's service is ready, and only when the handler is to run: so what a service reserves when it
/// is ready, such as a place under a concurrency limit, is not held while a body is read or a duplicate waits.
pub(super) async fn ready<S, B>(waiting: &Mutex<Option<Waiting<S, B>>>) -> Result<(), S::Error>
where
    S: Service<Request<GuardedBody<B>>>,
{
    poll_fn(|context| match &mut *waiting.lock() {
        Some(waiting) => waiting.inner.poll_ready(context),
        None => Poll::Ready(Ok(())),
    })
    .await
}

/// Calls the handler, whose service is ready; `None` if its request is gone.
fn begin<S, B>(waiting: &Shared<S, B>, given: RunOrTx, upstream: Option<UpstreamKey>) -> Option<S::Future>
where
    S: Service<Request<GuardedBody<B>>>,
{
    let waiting = waiting.lock().take()?;
    let (mut inner, request) = waiting.request(|parts| {
        if let (Some(upstream), Some(run)) = (upstream, given.run()) {
            upstream.tell_run(&mut parts.headers, run);
        }
        given.put_into(&mut parts.extensions);
    });
    Some(inner.call(request))
}

/// The service did not accept the request. An earlier attempt may have had an effect.
fn not_started(guarantee: Guarantee) -> Verdict {
    match guarantee {
        Guarantee::Fenced => Verdict::Retry,
        Guarantee::Atomic | Guarantee::AtMostOnce => Verdict::Free,
    }
}

/// The handler began to run or to answer and was then stopped, so no status applies.
fn cut_short(guarantee: Guarantee, why: &str) -> Verdict {
    tracing::error!(why, "a handler was stopped before it answered");
    match guarantee {
        Guarantee::AtMostOnce => Verdict::Unknown,
        Guarantee::Atomic | Guarantee::Fenced => Verdict::Retry,
    }
}

/// A handler that panics counts as one that answers 500.
fn panicked<R, E>(guarantee: Guarantee, keeping: &Keeping, words: Option<&WordsTo>) -> (Verdict, End<R, E>) {
    tracing::error!("a handler panicked");
    if guarantee != Guarantee::AtMostOnce {
        return (Verdict::Retry, None);
    }
    // Built once, because it is recorded: a retry gets the same answer.
    let problem = Problem::HandlerFailed { retryable: false };
    let response = words.map_or_else(|| problem.response(), |words| words.say(&problem));
    let headers = keeping.kept.of(response.headers());
    let outcome = Outcome { status: response.status(), headers, body: crate::Body::Kept(response.body().clone()) };
    (Verdict::Keep(outcome), Some(Box::new(Ok(response.map(GuardedBody::whole)))))
}
