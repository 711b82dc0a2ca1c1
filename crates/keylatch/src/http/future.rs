//! The future of an answer.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use pin_project_lite::pin_project;

use super::body::GuardedBody;
use super::copies::ToRegion;
use super::headers::{IDEMPOTENCY_REGION, clean_answer};
use super::words::WordsTo;

pin_project! {
    /// The answer to a request: the handler's own future for one that passes unguarded.
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        kind: Kind<F, R, E>,
        words: Option<Arc<WordsTo>>,
    }
}

pin_project! {
    #[project = KindProject]
    enum Kind<F, R, E> {
        Passed { #[pin] future: F },
        Guarded { future: BoxFuture<'static, Result<R, E>> },
    }
}

impl<F, R, E> ResponseFuture<F, R, E> {
    pub(super) fn passed(future: F) -> Self {
        Self { kind: Kind::Passed { future }, words: None }
    }

    pub(super) fn guarded(future: BoxFuture<'static, Result<R, E>>) -> Self {
        Self { kind: Kind::Guarded { future }, words: None }
    }

    /// Gives Keylatch's own problems in this format.
    pub(super) fn in_words(self, words: Option<Arc<WordsTo>>) -> Self {
        Self { words, ..self }
    }
}

impl<F, B, E> Future for ResponseFuture<F, Response<GuardedBody<B>>, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<GuardedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answered = match this.kind.project() {
            KindProject::Passed { future } => {
                ready!(future.poll(context)).map(|response| response.map(|body| GuardedBody::Inner { body }))
            }
            KindProject::Guarded { future } => ready!(future.as_mut().poll(context)),
        };
        Poll::Ready(answered.map(|response| {
            let mut response = match this.words.take() {
                None => response,
                Some(words) => words.of(response),
            };
            clean_answer(response.headers_mut());
            if let Some(ToRegion(told)) = response.extensions_mut().remove() {
                response.headers_mut().insert(IDEMPOTENCY_REGION, told);
            }
            response
        }))
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
