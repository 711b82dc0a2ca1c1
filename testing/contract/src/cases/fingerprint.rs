//! What makes two requests the same request, and whose they are.

use crate::wire::Call;
use crate::{App, Seen, Setup, Subject};

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

/// The request that all others are compared with.
fn base<R>(app: &App<R>) -> Call {
    app.call("POST", "/orders/7?a=1&b=%20").key("k").json("{\"item\": 1}").header("Content-Encoding", "identity")
}

pub async fn every_field_counts(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let first = base(&app).send().await;
    assert_eq!(first.status, 200);
    let target = |target: &str| app.call("POST", target).key("k");
    let rest = |call: Call| call.json("{\"item\": 1}").header("Content-Encoding", "identity");
    let others = [
        ("path", rest(target("/orders/8?a=1&b=%20"))),
        ("spelling of the path", rest(target("/orders/%37?a=1&b=%20"))),
        ("query", rest(target("/orders/7?a=2&b=%20"))),
        ("spelling of the query", rest(target("/orders/7?a=1&b=+"))),
        ("order of the query", rest(target("/orders/7?b=%20&a=1"))),
        ("empty query", rest(target("/orders/7?"))),
        ("no query", rest(target("/orders/7"))),
        ("content type", base(&app).without("Content-Type").header("Content-Type", "application/json; charset=utf-8")),
        ("no content type", base(&app).without("Content-Type")),
        ("a second content type", base(&app).header("Content-Type", "text/plain")),
        ("content encoding", base(&app).without("Content-Encoding").header("Content-Encoding", "gzip")),
        ("no content encoding", base(&app).without("Content-Encoding")),
        ("a second content encoding", base(&app).header("Content-Encoding", "gzip")),
        ("body", base(&app).body("{\"item\": 2}")),
        ("white space in the body", base(&app).body("{\"item\":1}")),
        ("no body", base(&app).body("")),
    ];
    for (what, other) in others {
        let reply = other.send().await;
        assert_eq!(reply.status, 422, "{what}");
        let problem = reply.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(problem["title"], "Idempotency key reused with different request");
        assert_eq!(problem["retryable"], false);
        assert!(!String::from_utf8_lossy(&reply.body).contains("run 1"), "nothing of the stored answer is shown");
    }
    let again = base(&app).send().await;
    assert_eq!((again.replayed(), &again.body), (true, &first.body));
    assert_eq!(app.runs(), 1);
}

pub async fn an_absent_query_is_not_an_empty_one(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    assert_eq!(app.call("POST", "/orders").key("k").send().await.status, 200);
    app.call("POST", "/orders?").key("k").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
}

pub async fn other_headers_do_not_count(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    base(&app).send().await;
    let other = base(&app).header("User-Agent", "other").header("Authorization", "Bearer new").wait(1).caller("alice");
    assert!(other.send().await.replayed());
}

pub async fn chunked_bodies_count_like_any_other(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    base(&app).send().await;
    assert!(base(&app).chunked(["{\"item\"", ": ", "1}"]).send().await.replayed());
    assert!(base(&app).chunked(["{\"item\": 1}"]).send().await.replayed());
    base(&app).chunked(["{\"item\": 2}"]).send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    let empty = app.call("POST", "/orders").key("empty");
    empty.send().await;
    assert!(empty.chunked([]).send().await.replayed());
}

pub async fn a_chunked_body_with_trailers_reaches_its_handler_whole(at: &impl Subject) {
    let app = Setup::fenced().start(at, |seen: Seen| async move { seen.body }).await;
    let call = app.call("POST", "/orders").key("k").chunked(["ab", "c"]).trailer("X-Checksum", "900150983");
    let reply = call.send().await;
    assert_eq!((reply.status, reply.body_text()), (200, "abc"));
    assert!(call.send().await.replayed());
}

pub async fn canonical_json_is_a_choice(at: &impl Subject) {
    let app = Setup { canonical_json: true, ..Setup::fenced() }.start(at, ok).await;
    let order = |body: &str| app.call("POST", "/orders").key("k").json(body);
    order(r#"{"a": 1.0, "b": [true]}"#).send().await;
    assert!(order("{\"b\":[true],\n\"a\":1}").send().await.replayed());
    order(r#"{"a": 2, "b": [true]}"#).send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    // What is not JSON by its type counts by its bytes.
    let text = |body: &str| app.call("POST", "/orders").key("t").header("Content-Type", "text/plain").body(body);
    text("[1]").send().await;
    text("[ 1 ]").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
}

pub async fn a_request_whose_caller_is_not_known_is_refused(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let nobody = app.order().without("X-User-Id");
    let calls = [
        nobody.clone(),
        nobody.clone().header("X-User-Id", ""),
        nobody.clone().header("X-User-Id", b"\xe9"),
        nobody.clone().header("X-User-Id", "u".repeat(513)),
        app.order().header("X-User-Id", "bob"),
        app.order().header("X-User-Id", "alice"),
    ];
    for call in calls {
        let problem = call.send().await.is_problem(400, "IDEMPOTENCY_SCOPE_REQUIRED");
        assert_eq!((&problem["title"], &problem["retryable"]), (&"Caller cannot be determined".into(), &false.into()));
    }
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
}

pub async fn two_callers_with_one_key_never_see_each_other(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let (alice, bob) = (app.order(), app.order().caller("bob"));
    assert_eq!(alice.send().await.body_text(), "run 1");
    let first = bob.send().await;
    assert_eq!((first.body_text(), first.replayed()), ("run 2", false));
    let other = bob.clone().body("{\"item\":2}").send().await;
    other.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(alice.send().await.body_text(), "run 1");
    assert_eq!(bob.send().await.body_text(), "run 2");
}

pub async fn one_key_on_two_routes_or_methods_is_two_keys(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let calls = [("POST", "/orders"), ("PATCH", "/orders"), ("POST", "/refunds"), ("POST", "/orders/7")];
    for round in [false, true] {
        for (at, (method, target)) in calls.into_iter().enumerate() {
            let reply = app.call(method, target).key("k").send().await;
            assert_eq!(reply.body_text(), format!("run {}", at + 1));
            assert_eq!(reply.replayed(), round);
        }
    }
    // One route, two paths: one key for two requests.
    app.call("POST", "/orders/8").key("k").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
}

pub async fn the_whole_path_counts_where_routers_are_nested(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let order = |tenant: &str| app.call("POST", &format!("/tenants/{tenant}/orders")).key("k");
    assert_eq!(order("a").send().await.body_text(), "run 1");
    order("b").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert!(order("a").send().await.replayed());
    let outside = app.call("POST", "/orders").key("k").send().await;
    assert_eq!((outside.body_text(), outside.replayed()), ("run 2", false));
}
