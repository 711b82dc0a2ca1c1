//! A layer that observes: it claims and records, and passes every request on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::GuardedBody;
use super::config::Config;
use super::problem::Problem;
use super::service::{Asked, own, pass};
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
    stage: Shared<S, B, R, S::Error>,
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
    let start = {
        let (config, stage) = (config.clone(), stage.clone());
        move |given| work(config, stage, words, given)
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
    let ended = {
        let mut stage = stage.lock();
        if stage.is_waiting() { None } else { Some(stage.end()) }
    };
    match ended {
        Some(Some(end)) => end,
        // It gave no complete answer, so there is none to pass on.
        Some(None) if config.engine.guarantee() == Guarantee::AtMostOnce => Ok(own(&Problem::OutcomeUnknown)),
        Some(None) => Ok(own(&Problem::HandlerFailed { retryable: true })),
        None => {
            pass(&stage, |parts| {
                parts.extensions.insert(Identity { scope, key });
                parts.extensions.insert(Unguarded::Observed);
            })
            .await
        }
    }
}

fn count(answer: &'static str, record: Option<RecordId>) {
    metrics::counter!("keylatch_observed_total", "answer" => answer).increment(1);
    let record = record.map(tracing::field::display);
    tracing::info!(answer, record, "a layer that observes passed on a request that it would have answered");
}
