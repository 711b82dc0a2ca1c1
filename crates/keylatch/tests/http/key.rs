//! What is dropped of a request and of an answer, and methods that no gateway passes on.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::app::{Seen, Setup};
use crate::wire::Call;

#[tokio::test]
async fn trace_passes_unguarded() {
    let handler = |seen: Seen| async move { format!("{:?}", seen.parts.headers.get("idempotency-key")) };
    let app = Setup::fenced().layer(|layer| layer.require_key()).start(handler).await;
    for _ in 0..2 {
        let reply = app.call("TRACE", "/orders").key("a bad key").send().await;
        assert_eq!((reply.status, reply.body_text(), reply.replayed()), (200, "Some(\"a bad key\")", false));
    }
    assert_eq!((app.runs(), app.records().await.len()), (2, 0));
}

/// Only the service's side may set these headers. The first five are between the layer and the service inside.
const INTERNAL: [&str; 8] = [
    "Idempotency-Epoch",
    "Idempotency-Attempt",
    "Idempotency-Derived-Key",
    "Idempotency-Disposition",
    "Idempotency-Scope",
    "Idempotent-Replayed",
    "Idempotency-Status",
    "Idempotency-Expires",
];

#[tokio::test]
async fn internal_headers_of_a_client_are_dropped_whether_its_request_is_guarded_or_not() {
    async fn seen(seen: Seen) -> String {
        let names = seen.parts.headers.keys().map(|name| name.as_str());
        names.filter(|name| name.starts_with("idempoten")).collect::<Vec<_>>().join(" ")
    }
    let app = Setup::fenced().layer(|layer| layer.skip_if(|head| head.uri.path() == "/refunds")).start(seen).await;
    let forge = |call: Call| INTERNAL.iter().fold(call, |call, name| call.header(name, "1"));
    for (method, path) in [("POST", "/orders"), ("GET", "/orders"), ("DELETE", "/orders"), ("POST", "/refunds")] {
        assert_eq!(forge(app.call(method, path)).send().await.body_text(), "", "{method} {path}, without a key");
    }
    for (method, path) in [("GET", "/orders"), ("PUT", "/orders"), ("POST", "/refunds")] {
        let reply = forge(app.call(method, path).key("k")).send().await;
        assert_eq!(reply.body_text(), "idempotency-key", "{method} {path}");
    }
    let first = forge(app.order()).send().await;
    assert_eq!((first.body_text(), first.replayed()), ("idempotency-key", false));
}

/// Guarded or not, recorded or not: the headers from a handler to its layer do not reach the client.
#[tokio::test]
async fn internal_headers_of_a_handler_never_reach_a_client() {
    async fn says(seen: Seen) -> Response {
        let status = if seen.parts.uri.path() == "/refunds" { 500 } else { 200 };
        let mut trailers = HeaderMap::new();
        let mut response = Response::builder().status(status);
        for name in &INTERNAL[..5] {
            response = response.header(*name, "forged");
            trailers.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("forged"));
        }
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        if seen.parts.headers.contains_key("te") {
            let frames = [Frame::data(Bytes::from("made")), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
            let listed = format!("x-sum, {}", INTERNAL[..5].join(", "));
            return response.header("trailer", listed).body(Body::new(StreamBody::new(stream::iter(frames)))).unwrap();
        }
        response.body(Body::from("made")).unwrap()
    }
    let app = Setup::fenced().start(says).await;
    for call in [
        app.call("GET", "/orders"),
        app.call("POST", "/orders"),
        app.call("PUT", "/orders").key("k"),
        app.order(),
        app.order(),
        app.call("POST", "/refunds").key("k"),
        app.call("GET", "/orders").header("TE", "trailers"),
        app.call("POST", "/orders/1").key("k").header("TE", "trailers"),
    ] {
        let reply = call.send().await;
        assert!(reply.status < 501 && !reply.body.is_empty());
        let forged = reply.headers.iter().any(|(_, value)| value == b"forged") || reply.trailers.contains("forged");
        assert!(!forged, "{reply:?}");
        assert_eq!(reply.trailers.contains("x-sum: 1"), reply.text("trailer").is_some(), "{reply:?}");
    }
    assert!(app.order().send().await.replayed());
}
