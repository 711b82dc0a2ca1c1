//! Problems in a service's own format.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body::Body;

use super::body::{Collected, GuardedBody, Wait, collect};
use super::headers::IDEMPOTENCY_EXPIRES;
use super::problem::Problem;

/// How a service formats a problem: see [`with_problem`](super::IdempotencyLayer::with_problem).
#[derive(Clone)]
pub(super) struct Words(Arc<Wording>);

type Wording = dyn Fn(&Problem, &Parts) -> Option<Response<Bytes>> + Send + Sync;

impl Words {
    pub(super) fn new<B>(answer: impl Fn(&Problem, &Parts) -> Response<B> + Send + Sync + 'static) -> Self
    where
        B: Body<Data = Bytes>,
    {
        Self(Arc::new(move |problem, head| {
            let (parts, body) = answer(problem, head).into_parts();
            match collect(body, usize::MAX, Wait::None).now_or_never() {
                Some(Ok(Collected::Whole(body, _))) => Some(Response::from_parts(parts, body)),
                _ => {
                    tracing::error!(
                        "`with_problem` returned an answer whose body is not complete at once; Keylatch's own answer \
                         is sent instead"
                    );
                    None
                }
            }
        }))
    }

    /// For a request with this head.
    pub(super) fn to(&self, head: Parts) -> WordsTo {
        WordsTo { words: self.clone(), head }
    }
}

/// A service's format, for one request.
pub(super) struct WordsTo {
    words: Words,
    head: Parts,
}

/// Marks an answer in a service's own format, so that no other layer formats it again.
#[derive(Clone, Copy)]
struct Worded;

impl WordsTo {
    /// `response`, in the service's format if it reports a problem of Keylatch. Headers of Keylatch's answer, such as
    /// `Retry-After`, are kept unless the service sets them.
    pub(super) fn of<B>(&self, response: Response<GuardedBody<B>>) -> Response<GuardedBody<B>> {
        match self.worded(&response) {
            Some(worded) => worded.map(GuardedBody::whole),
            None => response,
        }
    }

    /// The answer to `problem`.
    pub(super) fn say(&self, problem: &Problem) -> Response<Bytes> {
        let ours = problem.response();
        self.worded(&ours).unwrap_or(ours)
    }

    fn worded<B>(&self, response: &Response<B>) -> Option<Response<Bytes>> {
        let problem = response.extensions().get::<Problem>()?;
        // A recorded answer is replayed as it is.
        let recorded = response.headers().contains_key(IDEMPOTENCY_EXPIRES);
        if recorded || response.extensions().get::<Worded>().is_some() {
            return None;
        }
        let mut worded = (self.words.0)(problem, &self.head)?;
        keep(response.headers(), worded.headers_mut());
        worded.extensions_mut().insert(problem.clone());
        worded.extensions_mut().insert(Worded);
        Some(worded)
    }
}

/// Keeps the headers of `ours` that do not describe its body.
fn keep(ours: &HeaderMap, worded: &mut HeaderMap) {
    let of_body = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_ENCODING];
    for name in ours.keys().filter(|name| !of_body.contains(name)) {
        if !worded.contains_key(name) {
            for value in ours.get_all(name) {
                worded.append(name, value.clone());
            }
        }
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Words")
    }
}
