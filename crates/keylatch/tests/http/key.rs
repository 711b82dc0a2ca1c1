//! Where the key comes from, which requests are guarded, and what is dropped of a request.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;

use crate::app::{Seen, Setup};
use crate::wire::Call;

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

#[tokio::test]
async fn quoted_and_bare_forms_are_the_same_key() {
    let app = Setup::fenced().start(ok).await;
    for (at, (sent, keys)) in [("abc", 1), ("\"abc\"", 1), (r#""a\"b\\c""#, 2), (r#"a"b\c"#, 2)].into_iter().enumerate()
    {
        let reply = app.call("POST", "/orders").key(sent).send().await;
        assert_eq!((reply.status, reply.body_text()), (200, format!("run {keys}").as_str()), "{sent}");
        assert_eq!(reply.replayed(), at % 2 == 1, "{sent}");
        assert_eq!(reply.text("idempotency-key").as_deref(), Some(sent), "as it was received");
    }
    assert_eq!(app.records().await.len(), 2);
}

#[tokio::test]
async fn more_than_one_key_line_is_refused() {
    let app = Setup::fenced().start(ok).await;
    for second in ["a", "b"] {
        let reply = app.call("POST", "/orders").key("a").key(second).send().await;
        let problem = reply.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
        assert_eq!(problem["retryable"], false);
    }
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
}

#[tokio::test]
async fn a_key_has_1_to_255_visible_ascii_characters() {
    let app = Setup::fenced().start(ok).await;
    // `"` begins the quoted form, so it does not come first.
    let visible: String = ('!'..='~').rev().collect();
    let longest = "k".repeat(255);
    let good = [&visible, "a", ":/", &longest, &format!("\"{longest}\"")].map(str::to_owned);
    for key in &good {
        let reply = app.call("POST", "/orders").key(key).send().await;
        assert_eq!((reply.status, reply.replayed()), (200, *key == good[4]), "{key}");
    }
    assert_eq!(app.runs(), 4);
    let too_long = "k".repeat(256);
    let bad: [&[u8]; 13] = [
        b"",
        b"\"\"",
        b"a b",
        b"\"a b\"",
        b"a\tb",
        b"a\xe9",
        b"\xc3\xa9",
        b"\"a",
        b"\"a\"b\"",
        b"\"a\";p=1",
        b"\"a\\n\"",
        too_long.as_bytes(),
        &[b"\"", too_long.as_bytes(), b"\""].concat(),
    ];
    for key in bad {
        let reply = app.call("POST", "/orders").key(key).send().await;
        let problem = reply.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
        assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key invalid".into(), &false.into()));
        assert!(reply.text("retry-after").is_none());
    }
    assert_eq!((app.runs(), app.records().await.len()), (4, 4));
}

#[tokio::test]
async fn a_missing_key_is_refused_only_where_it_is_required() {
    let required = Setup::fenced().layer(|layer| layer.require_key()).start(ok).await;
    let problem = required.call("POST", "/orders").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
    assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key required".into(), &false.into()));
    assert_eq!((required.runs(), required.records().await.len()), (0, 0));
    assert_eq!(required.call("POST", "/orders").key("k").send().await.status, 200);

    let free = Setup::fenced().start(ok).await;
    for run in ["run 1", "run 2"] {
        let reply = free.call("POST", "/orders").send().await;
        assert_eq!((reply.status, reply.body_text()), (200, run));
        assert!(reply.text("idempotency-expires").is_none());
    }
    assert!(free.records().await.is_empty());
}

#[tokio::test]
async fn post_and_patch_are_guarded_and_others_by_choice() {
    let app = Setup::fenced().start(ok).await;
    for (method, replayed) in [("POST", true), ("PATCH", true), ("PUT", false), ("DELETE", false)] {
        let call = app.call(method, "/orders").key("k");
        assert!(!call.send().await.replayed());
        assert_eq!(call.send().await.replayed(), replayed, "{method}");
    }
    let app = Setup::fenced().layer(|layer| layer.with_methods([Method::PUT, Method::DELETE])).start(ok).await;
    for (method, replayed) in [("POST", false), ("PATCH", false), ("PUT", true), ("DELETE", true)] {
        let call = app.call(method, "/orders").key("k");
        assert!(!call.send().await.replayed());
        assert_eq!(call.send().await.replayed(), replayed, "{method}");
    }
}

#[tokio::test]
async fn get_head_options_and_trace_always_pass_unguarded() {
    async fn seen(seen: Seen) -> (StatusCode, [(&'static str, String); 1]) {
        let header = |name: &str| seen.parts.headers.get(name).map_or("-", |value| value.to_str().unwrap());
        let both = format!("{} {}", header("idempotency-key"), header("idempotent-replayed"));
        (StatusCode::OK, [("x-seen", both)])
    }
    let app = Setup::fenced().layer(|layer| layer.require_key()).start(seen).await;
    for method in ["GET", "HEAD", "OPTIONS", "TRACE"] {
        for _ in 0..2 {
            let reply = app.call(method, "/orders").key("a bad key").header("Idempotent-Replayed", "no").send().await;
            assert_eq!((reply.status, reply.text("x-seen").as_deref()), (200, Some("a bad key -")), "{method}");
            assert!(!reply.replayed() && reply.text("idempotency-key").is_none());
        }
    }
    assert_eq!((app.runs(), app.records().await.len()), (8, 0));
}

/// What only this side says. The first five are between the layer and the service inside.
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

/// Guarded or not, recorded or not: what a handler says to its layer is for the layer.
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

#[tokio::test]
async fn the_key_may_come_from_another_header() {
    let app = Setup::fenced().layer(|layer| layer.with_key_header("x-github-delivery").require_key()).start(ok).await;
    let delivery = app.call("POST", "/orders").header("X-GitHub-Delivery", "72d3162e").key("ignored");
    let (first, again) = (delivery.send().await, delivery.send().await);
    assert_eq!((first.replayed(), again.replayed()), (false, true));
    assert_eq!(again.text("idempotency-key").as_deref(), Some("72d3162e"));
    app.call("POST", "/orders").key("k").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
}

#[tokio::test]
async fn the_key_may_come_from_the_body() {
    let app = Setup::fenced().layer(|layer| layer.with_key_pointer("/event/id")).start(ok).await;
    let event = |body: &str| app.call("POST", "/orders").json(body);
    for (body, key) in [(r#"{"event":{"id":"evt_1"}}"#, "evt_1"), (r#"{"event":{"id":42}}"#, "42")] {
        let (first, again) = (event(body).send().await, event(body).send().await);
        assert_eq!((first.replayed(), again.replayed()), (false, true), "{body}");
        assert_eq!(again.text("idempotency-key").as_deref(), Some(key));
    }
    event(r#"{"event":{"id":"evt_1"},"more":1}"#).send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    event(r#"{"event":{"id":"a b"}}"#).send().await.is_problem(400, "IDEMPOTENCY_KEY_INVALID");
    for keyless in ["{}", "not JSON", r#"{"event":{"id":null}}"#] {
        let (first, again) = (event(keyless).send().await, event(keyless).send().await);
        assert_ne!(first.body, again.body, "unguarded: {keyless}");
    }
    let required = Setup::fenced().layer(|layer| layer.with_key_pointer("/id").require_key()).start(ok).await;
    required.call("POST", "/orders").json("{}").send().await.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
}
