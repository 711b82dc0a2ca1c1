//! A layer that observes: it claims and records, and passes every request on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;
use tower_service::Service;

use super::admit::Asked;
use super::body::GuardedBody;
use super::config::Config;
use super::pass::pass;
use super::problem::Problem;
use super::service::own;
use super::unguarded::Unguarded;
use super::words::WordsTo;
use super::work::{Shared, work};
use crate::engine::Identity;
use crate::{Answer, Guarantee, RecordId};

/// The label of a replay. All other answers are counted by the code of their problem.
const REPLAY: &str = "replay";

/// Counts that a request would have been refused before its key was claimed. Says whether it can be passed on: not if
/// its body is lost.
pub(super) fn would_refuse(problem: &Problem) -> bool {
    let lost = matches!(problem, Problem::BodyIncomplete | Problem::TooLarge(None));
    if !lost {
        count(problem.code(), None);
    }
    !lost
}

/// Runs the request: under a record if it wins its key, and without one if it would have been answered.
pub(super) async fn run<S, B, R>(
    config: Arc<Config>,
    waiting: Shared<S, B>,
    words: Option<Arc<WordsTo>>,
    mut asked: Box<Asked>,
) -> Result<Response<GuardedBody<R>>, S::Error>
where
    S: Service<Request<GuardedBody<B>>, Response = Response<R>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
{
    // It runs in any case, so it does not wait.
    asked.request.wait = Duration::ZERO;
    // The handler's answer is passed on even if its outcome cannot be recorded.
    let end = Arc::new(Mutex::new(None));
    let start = {
        let (config, waiting, end) = (config.clone(), waiting.clone(), end.clone());
        async move |handed| {
            let (verdict, ended) = work(config, waiting, words, handed).await;
            *end.lock() = ended;
            (verdict, ())
        }
    };
    let answer = config.engine.observe(&asked.request, start).await;
    let would_be = match &answer {
        Ok(Answer::Ran(_)) => None,
        Ok(Answer::Replayed(_)) => Some(REPLAY),
        Ok(Answer::Refused(refused)) => Some(Problem::from(*refused).code()),
        Err(error) => {
            tracing::error!(%error, "the store failed");
            Some(Problem::StoreUnavailable.code())
        }
    };
    let crate::Request { scope, key, .. } = asked.request;
    if let Some(would_be) = would_be {
        count(would_be, Some(RecordId::of(&scope, &key)));
    }
    if waiting.lock().is_some() {
        let passed = pass(&waiting, |parts| {
            parts.extensions.insert(Identity { scope, key });
            parts.extensions.insert(Unguarded::Observed);
        });
        return passed.await;
    }
    let end = end.lock().take();
    match end {
        Some(end) => *end,
        // It gave no complete answer, so there is none to pass on.
        None if config.engine.guarantee() == Guarantee::AtMostOnce => Ok(own(&Problem::OutcomeUnknown)),
        None => Ok(own(&Problem::HandlerFailed { retryable: true })),
    }
}

fn count(answer: &'static str, record: Option<RecordId>) {
    metrics::counter!("keylatch_observed_total", "answer" => answer).increment(1);
    let record = record.map(tracing::field::display);
    tracing::info!(answer, record, "a layer that observes passed on a request that it would have answered");
}
