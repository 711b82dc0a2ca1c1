//! The work of a run: the handler, and the verdict on its answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Extensions, Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;

use super::answer::judge;
use super::body::GuardedBody;
use super::layer::Config;
use super::problem::Problem;
use crate::tx::Verdict;
use crate::{Guarantee, Handed};

/// A request on its way to its handler.
pub(super) struct Waiting<S, B> {
    pub(super) inner: S,
    pub(super) parts: Parts,
    pub(super) body: GuardedBody<B>,
}

impl<S, B> Waiting<S, B> {
    /// The service, and the request as its handler gets it, with what `extend` adds.
    pub(super) fn ready(self, extend: impl FnOnce(&mut Extensions)) -> (S, Request<GuardedBody<B>>) {
        let Self { inner, mut parts, body } = self;
        extend(&mut parts.extensions);
        (inner, Request::from_parts(parts, body))
    }
}

/// Where the handler's request and its answer lie between this side and the engine's.
pub(super) enum Stage<S, B, R, E> {
    Waiting(Waiting<S, B>),
    Begun,
    Ended(Result<Response<GuardedBody<R>>, E>),
}

pub(super) type Shared<S, B, R, E> = Arc<Mutex<Stage<S, B, R, E>>>;

impl<S, B, R, E> Stage<S, B, R, E> {
    /// What the handler needs, if it has not begun.
    pub(super) fn waiting(&mut self) -> Option<Waiting<S, B>> {
        match std::mem::replace(self, Self::Begun) {
            Self::Waiting(waiting) => Some(waiting),
            Self::Begun | Self::Ended(_) => None,
        }
    }

    /// What the handler answered, if it did.
    pub(super) fn end(&mut self) -> Option<Result<Response<GuardedBody<R>>, E>> {
        match std::mem::replace(self, Self::Begun) {
            Self::Ended(end) => Some(end),
            Self::Begun | Self::Waiting(..) => None,
        }
    }
}

/// The work of one run: the handler, and the verdict on its answer.
pub(super) async fn work<S, B, R>(config: Arc<Config>, stage: Shared<S, B, R, S::Error>, handed: Handed) -> Verdict
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Send,
    S::Future: Send,
    S::Error: Send,
    B: Body<Data = Bytes> + Send,
    R: Body<Data = Bytes> + Send,
{
    let guarantee = config.engine.guarantee();
    let handling = async {
        let Some(answering) = begin(&stage, handed) else { return Ok(None) };
        let (parts, body) = answering.await?.into_parts();
        let judged = judge(&parts, body, guarantee, &config.keeping).await;
        Ok(Some(judged.map(|(verdict, body)| (verdict, Response::from_parts(parts, body)))))
    };
    let (verdict, end) = match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(None)) => return Verdict::Free,
        Ok(Ok(Some(Ok((verdict, response))))) => (verdict, Some(Ok(response))),
        Ok(Err(error)) if guarantee == Guarantee::AtMostOnce => (Verdict::Unknown, Some(Err(error))),
        Ok(Err(error)) => (Verdict::Retry, Some(Err(error))),
        Ok(Ok(Some(Err(_)))) => (failed(guarantee, "the body of its answer broke off"), None),
        Err(_) => (failed(guarantee, "it panicked"), None),
    };
    if let Some(end) = end {
        *stage.lock() = Stage::Ended(end);
    }
    verdict
}

/// Calls the handler; `None` if its request is gone.
fn begin<S, B, R>(stage: &Shared<S, B, R, S::Error>, handed: Handed) -> Option<S::Future>
where
    S: Service<Request<GuardedBody<B>>>,
{
    let waiting = stage.lock().waiting()?;
    let (mut inner, request) = waiting.ready(|extensions| handed.put_into(extensions));
    Some(inner.call(request))
}

/// A handler that failed without an answer counts as one that answered 500.
fn failed(guarantee: Guarantee, why: &str) -> Verdict {
    tracing::error!(why, "a handler failed without an answer");
    match guarantee {
        Guarantee::AtMostOnce => Verdict::Keep(Problem::HandlerFailed { retryable: false }.outcome()),
        Guarantee::Atomic | Guarantee::Fenced => Verdict::Retry,
    }
}
