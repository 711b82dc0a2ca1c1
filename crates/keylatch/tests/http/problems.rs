//! Answers of our own, as a service that has a format for errors sees them.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::post;
use http::Request;
use keylatch::http::{IdempotencyLayer, Problem, ScopeFrom};
use keylatch::memory;
use tower::ServiceExt;

async fn ask(app: &Router, key: Option<&str>, body: &'static str) -> Response {
    let request = Request::post("/orders").header("x-user-id", "alice");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    app.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
}

/// What stands around the layer can tell an answer of ours from one of the handler's, and say the same in its own words.
#[tokio::test]
async fn an_answer_of_ours_carries_its_problem() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id")).require_key();
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
