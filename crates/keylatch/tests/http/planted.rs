//! Tests of the tests: a mistake is planted around the layer, and the check for it fails.
//!
//! Mistakes in a store are planted in `conformance_catches`, those in the protocol in `testing/search`, and a store
//! that does not sync in the test of SQLite's syncs.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{HeaderValue, SET_COOKIE};
use keylatch::Guarantee;
use keylatch::http::{Disposition, ScopeFrom};
use parking_lot::Mutex;
use testing_contract::cases;
use tokio_util::sync::CancellationToken;

use crate::app::{Layer, Seen, Setup};
use crate::common::Gate;
use crate::common::faulty::Fault;
use crate::recorded;

#[tokio::test]
#[should_panic(expected = "it is answered before its record is written")]
async fn an_answer_before_its_record_is_caught() {
    recorded::answer_waits_for_its_record(Fault::Early).await;
}

#[tokio::test]
#[should_panic(expected = "left: (\"run 1\", true)")]
async fn a_scope_without_the_caller_is_caught() {
    let anyone = Layer(|setup| setup.scope(ScopeFrom::shared("anyone")));
    cases::fingerprint::two_callers_with_one_key_never_see_each_other(&anyone).await;
}

#[tokio::test]
#[should_panic(expected = "set-cookie")]
async fn cookies_kept_with_the_answer_are_caught() {
    /// Adds the cookies of the first answer to each replay.
    fn keeping_cookies(app: Router) -> Router {
        let kept = Arc::new(Mutex::new(Vec::<HeaderValue>::new()));
        app.layer(map_response(move |mut response: Response| {
            let mut kept = kept.lock();
            let headers = response.headers_mut();
            if headers.contains_key("idempotent-replayed") {
                headers.extend(kept.iter().map(|cookie| (SET_COOKIE, cookie.clone())));
            } else {
                kept.extend(headers.get_all(SET_COOKIE).iter().cloned());
            }
            std::future::ready(response)
        }))
    }
    let keeping = Layer(|setup| setup.outside(keeping_cookies));
    cases::answers::cookies_challenges_and_connection_headers_are_never_kept(&keeping).await;
}

#[tokio::test]
#[should_panic(expected = "until then, a retry is told")]
async fn a_large_answer_that_frees_its_key_is_caught() {
    let freeing = |answer: (StatusCode, Vec<u8>)| {
        let mut response = answer.into_response();
        response.extensions_mut().insert(Disposition::Free);
        response
    };
    cases::retained::large_answer_is_not_kept(&Layer::AS_IT_IS, Guarantee::Fenced, freeing).await;
}

#[tokio::test]
#[should_panic(expected = "left: (500, \"\", true)")]
async fn a_handler_that_ends_with_its_client_is_caught() {
    /// Tells the handler when its client has disconnected.
    fn telling(app: Router) -> Router {
        app.layer(from_fn(async |mut request: Request, next: Next| {
            let gone = CancellationToken::new();
            request.extensions_mut().insert(gone.clone());
            let _gone = gone.drop_guard();
            next.run(request).await
        }))
    }
    let gate = Gate::closed();
    let opened = gate.clone();
    let handler = move |seen: Seen| {
        let gate = opened.clone();
        async move {
            let gone = seen.parts.extensions.get::<CancellationToken>().expect("it was put there");
            let left = gone.run_until_cancelled(gate.pass()).await.is_none();
            gate.pass().await;
            if left { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok(format!("run {}", seen.nth)) }
        }
    };
    let app = Setup::new(Guarantee::AtMostOnce).outside(telling).start(handler).await;
    cases::clients::work_goes_on_without_its_client(&app, &gate).await;
}
