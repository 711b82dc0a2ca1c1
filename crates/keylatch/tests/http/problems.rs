//! Keylatch's own answers in a service that has its own format for errors.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use keylatch::http::{IdempotencyLayer, Problem, ScopeFrom};
use keylatch::{Run, memory};
use tower::ServiceExt;

fn scope() -> ScopeFrom {
    ScopeFrom::header("x-user-id")
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn ask(app: &Router, key: Option<&str>, body: &'static str) -> Response {
    let request = Request::post("/orders").header("x-user-id", "alice");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
}

/// Code around the layer can tell Keylatch's answers from the handler's, and format them.
#[tokio::test]
async fn an_answer_of_ours_carries_its_problem() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), scope()).require_key();
    let app = Router::new().route("/orders", post(async || "taken")).layer(layer);
    for _ in 0..2 {
        let response = ask(&app, Some("k"), "one").await;
        assert_eq!((response.status().as_u16(), response.extensions().get::<Problem>()), (200, None));
    }
    let response = ask(&app, Some("k"), "another").await;
    assert_eq!((response.status().as_u16(), response.extensions().get()), (422, Some(&Problem::KeyReused)));
    let response = ask(&app, None, "one").await;
    assert_eq!((response.status().as_u16(), response.extensions().get()), (400, Some(&Problem::KeyRequired)));
}

async fn run(run: Run) -> String {
    format!("attempt {}", run.attempt())
}

/// A service that numbers its answers: no two of them are the same.
fn in_own_words(layer: IdempotencyLayer) -> IdempotencyLayer {
    let said = Arc::new(AtomicUsize::new(0));
    layer.with_problem(move |problem, head| {
        let number = said.fetch_add(1, Ordering::Relaxed) + 1;
        let body = serde_json::json!({ "no": number, "code": problem.code(), "path": head.uri.path() });
        (problem.status(), [("x-own", "yes")], Json(body)).into_response()
    })
}

#[tokio::test]
async fn a_service_says_every_problem_in_its_own_words() {
    let layer = in_own_words(IdempotencyLayer::fenced(memory::Store::new(), scope()));
    let routes = Router::new().route("/orders", post(async || "taken")).route("/run", post(run));
    let app = routes.clone().layer(layer.clone().require_key());
    let own = |number: usize, code: &str, path: &str| format!(r#"{{"code":"{code}","no":{number},"path":"{path}"}}"#);

    let response = ask(&app, Some("k"), "one").await;
    assert!(!response.headers().contains_key("x-own"), "the handler's own answer stays as it is");
    let response = ask(&app, Some("k"), "another").await;
    assert_eq!((response.status().as_u16(), response.extensions().get()), (422, Some(&Problem::KeyReused)));
    let headers = response.headers();
    assert!(headers["content-type"] == "application/json" && headers["x-own"] == "yes", "{headers:?}");
    assert_eq!(headers["cache-control"], "no-store", "what it does not say itself stays said");
    assert_eq!(text(response).await, own(1, "IDEMPOTENCY_KEY_REUSED", "/orders"));
    assert_eq!(text(ask(&app, None, "one").await).await, own(2, "IDEMPOTENCY_KEY_REQUIRED", "/orders"));

    // A handler that does not fit its layer, for an unguarded request.
    let request = Request::post("/run").header("x-user-id", "alice").body(Body::empty()).unwrap();
    let response = routes.layer(layer).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(text(response).await, own(3, "IDEMPOTENCY_NOT_SET_UP", "/run"));
}

/// A recorded problem is formatted once: every retry gets the same bytes.
#[tokio::test]
async fn a_recorded_failure_is_said_once() {
    async fn fails() -> &'static str {
        panic!("it fails")
    }
    let layer = in_own_words(IdempotencyLayer::at_most_once(memory::Store::new(), scope()));
    let app = Router::new().route("/orders", post(fails)).layer(layer);
    for replayed in [false, true] {
        let response = ask(&app, Some("k"), "one").await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers().contains_key("idempotent-replayed"), replayed);
        assert_eq!(text(response).await, r#"{"code":"HANDLER_FAILED","no":1,"path":"/orders"}"#);
    }
}

/// An answer of the layer must not have to wait for anything.
#[tokio::test]
async fn words_that_are_not_there_at_once_are_ours() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), scope()).require_key();
    let layer =
        layer.with_problem(|_, _| Body::from_stream(stream::pending::<Result<&str, Infallible>>()).into_response());
    let app = Router::new().route("/orders", post(async || "taken")).layer(layer);
    let response = ask(&app, None, "one").await;
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert!(text(response).await.contains("IDEMPOTENCY_KEY_REQUIRED"));
}
