//! What else makes two requests the same request, and whose they are.

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::store::PageRequest;
use keylatch::{Engine, Limits, Policy, memory};

use crate::app::{App, Seen, Setup, serve};
use crate::wire::Call;

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

/// A form with these parts, in a request of alice's.
fn form(app: &App, boundary: &str, parts: &[&str]) -> Call {
    let mut body: String = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect();
    body.push_str(&format!("--{boundary}--\r\n"));
    let content_type = format!("multipart/form-data; boundary={boundary}");
    app.call("POST", "/orders").key("k").header("Content-Type", content_type).body(body)
}

#[tokio::test]
async fn the_boundary_of_a_form_does_not_count_by_choice() {
    const NAME: &str = "Content-Disposition: form-data; name=\"name\"\r\n\r\nada";
    const FILE: &str = "Content-Disposition: form-data; name=\"file\"\r\nContent-Type: text/plain\r\n\r\none--b\r\ntwo";
    let app = Setup::fenced().layer(|layer| layer.with_multipart_parts()).start(|seen: Seen| async { seen.body }).await;
    let sent = form(&app, "b", &[NAME, FILE]);
    let first = sent.send().await;
    assert!(first.body.starts_with(b"--b\r\n"), "its handler gets the body as it came");
    for boundary in ["b", "another", "\"one-more\""] {
        let bare = boundary.trim_matches('"');
        let again = form(&app, bare, &[NAME, FILE]).without("Content-Type");
        let again = again.header("Content-Type", format!("multipart/form-data; boundary={boundary}")).send().await;
        assert_eq!((again.replayed(), &again.body), (true, &first.body), "{boundary}");
    }
    let typed = |content_type: &str| sent.clone().without("Content-Type").header("Content-Type", content_type);
    let others = [
        ("another order", form(&app, "b", &[FILE, NAME])),
        ("a part less", form(&app, "b", &[NAME])),
        ("a part twice", form(&app, "b", &[NAME, NAME, FILE])),
        ("another byte", form(&app, "b", &[&NAME.replace("ada", "adb"), FILE])),
        ("another header", form(&app, "b", &[&NAME.replace("name=", "Name="), FILE])),
        ("two parts in one", form(&app, "c", &[&format!("{NAME}\r\n--b\r\n{FILE}")])),
        ("another content type", typed("multipart/mixed; boundary=b")),
        ("a parameter", typed("multipart/form-data; boundary=b; charset=utf-8")),
        ("another boundary than the body has", typed("multipart/form-data; boundary=c")),
        ("no boundary", typed("multipart/form-data")),
        ("a content encoding", sent.clone().header("Content-Encoding", "identity")),
    ];
    for (what, other) in others {
        let reply = other.send().await;
        assert_eq!(reply.status, 422, "{what}");
    }

    // A form that cannot be split without doubt is compared by its bytes, and the content type as it is.
    let padded = |boundary: &str| {
        let body = format!("--{boundary} \r\n{NAME}\r\n--{boundary}--\r\n");
        form(&app, boundary, &[]).without("Idempotency-Key").key("padded").body(body)
    };
    assert_eq!(padded("b").send().await.status, 200);
    assert!(padded("b").send().await.replayed());
    padded("c").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");

    let app = Setup::fenced().start(ok).await;
    assert_eq!(form(&app, "b", &[NAME]).send().await.status, 200);
    form(&app, "c", &[NAME]).send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
}

/// Where no router has found a route, a caller could else make a scope of every path.
#[tokio::test]
async fn i13_paths_without_a_route_are_one_scope() {
    let (store, scope) = (memory::Store::new(), ScopeFrom::header("x-user-id"));
    let limits = Limits { records_per_scope_max: 4, ..Limits::default() };
    let engine = Engine::fenced(store, Policy::default(), limits).unwrap();
    let app = Router::new()
        .route("/orders", post(|| async { "made" }))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(IdempotencyLayer::new(engine.clone(), scope));
    let (address, server) = serve(app).await;
    let call = |path: &str, key: &str| Call::new(address, "POST", path).caller("alice").key(key);
    let mut refused = 0;
    for nth in 0..300 {
        let reply = call(&format!("/nowhere/{nth}"), &format!("k{nth}")).send().await;
        match reply.status {
            404 => {}
            _ => {
                reply.is_problem(429, "IDEMPOTENCY_QUOTA_EXCEEDED");
                refused += 1;
            }
        }
    }
    let records =
        engine.store().list(PageRequest { limit: 1_000, ..PageRequest::default() }).await.unwrap().value.records;
    assert_eq!((records.len(), refused), (4, 296));
    assert!(records.iter().all(|record| record.scope.operation() == "POST *"));
    // One scope, and the path is part of the fingerprint.
    assert!(call("/nowhere/0", "k0").send().await.replayed());
    call("/nowhere/1", "k0").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(call("/orders", "k0").send().await.body_text(), "made", "a route has a scope of its own");
    server.abort();
}

#[tokio::test]
async fn the_names_of_a_routes_parameters_do_not_count() {
    let engine = Engine::fenced(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
    let scope = || ScopeFrom::header("x-user-id");
    let routes = ["/orders/{id}/pay", "/orders/{order_id}/pay", "/orders/{*rest}", "/orders/{{id}}/pay"];
    let mut replies = Vec::new();
    for route in routes {
        let app = Router::new().route(route, post(move || async move { route }));
        let (address, server) = serve(app.layer(IdempotencyLayer::new(engine.clone(), scope()))).await;
        let path = if route.contains("{{") { "/orders/{id}/pay" } else { "/orders/7/pay" };
        let reply = Call::new(address, "POST", path).caller("alice").key("k").send().await;
        replies.push((reply.body_text().to_owned(), reply.replayed()));
        server.abort();
    }
    let first = |route: &str| (route.to_owned(), false);
    assert_eq!(replies[0], first(routes[0]));
    assert_eq!(replies[1], (routes[0].to_owned(), true), "the same route by another name");
    assert_eq!(replies[2..], [first(routes[2]), first(routes[3])], "other routes");
}

#[tokio::test]
async fn the_scope_may_come_from_anything_in_the_request() {
    let bearer = |parts: &http::request::Parts| {
        let token = parts.headers.get("authorization")?.to_str().ok()?;
        Some(token.strip_prefix("Bearer ")?.split('.').next()?.to_owned())
    };
    let app = Setup::fenced().scope(ScopeFrom::with(bearer)).start(ok).await;
    let call = |token: &str| app.order().header("Authorization", token);
    call("Bearer alice.1").send().await;
    assert!(call("Bearer alice.2").send().await.replayed(), "a refreshed token does not run the request again");
    assert!(!call("Bearer bob.1").send().await.replayed());
    call("Basic alice").send().await.is_problem(400, "IDEMPOTENCY_SCOPE_REQUIRED");
}
