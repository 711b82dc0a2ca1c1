//! Nothing that an operator's request or a record has is logged, whatever is asked: words are planted everywhere, and the log
//! is searched for them. The exception is the reason, which is there to be logged.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt as _;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::store::{At, Store as _};
use keylatch::{Clock, Fingerprint, Guarantee, Key, LEASE, Outcome, Policy, Record, Scope, Timestamp, memory};
use keylatch_admin::{Access, Admin, Operator, Tokens};
use serde_json::{Value, json};
use testing_support::logs::Logs;
use tower::ServiceExt as _;

const TOKEN: &str = "sentinel-token-0123456789abcdef-012345";
const WRONG: &str = "sentinel-wrong-0123456789abcdef-012345";

async fn claim(store: &memory::Store, key: &str, guarantee: Guarantee) -> Record {
    let scope = Scope::new("sentinel-caller").unwrap().for_operation("POST /sentinel-operation").unwrap();
    let fingerprint = Fingerprint::of([key.as_bytes()]);
    let claim = Claim::new(scope, Key::new(key).unwrap(), fingerprint, guarantee, &Policy::default());
    match store.claim(claim).await.unwrap() {
        At { value: Claimed::Won(record), .. } => record,
        held => panic!("{held:?}"),
    }
}

async fn send(admin: &Admin, method: Method, path: &str, token: &str, body: &Value) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).header("host", "admin.example");
    let request = request.header("authorization", format!("Bearer {token}")).header("cookie", "sentinel-cookie");
    let request = request.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap();
    let response = admin.router().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    // A stream of events has no end.
    if path.contains("/live") {
        return (status, String::new());
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn no_key_scope_body_or_token_is_logged_whatever_is_asked() {
    let log = Logs::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    subscriber.with_writer(move || writer.clone()).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Clock::manual(Timestamp::from_millis(1_800_000_000_000));
        let store = memory::Store::with_clock(clock.clone());
        let kept = claim(&store, "sentinel-kept", Guarantee::Fenced).await;
        let completion = Completion::new(Outcome::bytes("sentinel-answer"), &Policy::default());
        let _ = store.complete(kept.lease(), completion).await.unwrap();
        let unknown = [
            claim(&store, "sentinel-unknown-1", Guarantee::AtMostOnce).await,
            claim(&store, "sentinel-unknown-2", Guarantee::AtMostOnce).await,
        ];
        clock.advance(LEASE + Duration::from_secs(1));
        let tokens = Tokens::parse(&format!("operate:alice:{TOKEN}\n")).unwrap();
        let access = Access::new(Some(tokens), IpAddr::from([10, 0, 0, 1]));
        let admin = Admin::new(Operator::new(Arc::new(store)), access);

        let (status, description) = send(&admin, Method::GET, "/api/v1/openapi.json", TOKEN, &json!({})).await;
        assert_eq!(status, 200, "{description}");
        let description: Value = serde_json::from_str(&description).unwrap();
        let anything = json!({
            "scope": { "caller": "sentinel-caller", "operation": "sentinel-operation" }, "key": "sentinel-kept",
            "epoch": 7, "reason": "because", "status": 200, "body": "sentinel-body", "sentinel-field": "sentinel-value",
        });
        let mut asked = 0;
        for (path, methods) in description["paths"].as_object().unwrap() {
            let path = path.replace("{id}", &unknown[0].id().to_string());
            for method in methods.as_object().unwrap().keys() {
                let method: Method = method.to_uppercase().parse().unwrap();
                for token in [TOKEN, WRONG] {
                    let query = format!("{path}?cursor=sentinel-cursor&caller=sentinel-caller");
                    for path in [&path, &query] {
                        send(&admin, method.clone(), path, token, &anything).await;
                        asked += 1;
                    }
                }
            }
        }
        assert!(asked > 40, "{asked} requests");

        // And what succeeds.
        let name = json!({
            "scope": { "caller": "sentinel-caller", "operation": "POST /sentinel-operation" }, "key": "sentinel-kept",
        });
        let of = |record: &Record, rest: &str| format!("/api/v1/records/{}{rest}", record.id());
        let resolution = json!({ "epoch": 1, "reason": "because", "status": 201, "body": "sentinel-resolution" });
        let release = json!({ "epoch": 1, "reason": "because" });
        for (method, path, body) in [
            (Method::POST, "/api/v1/records/find".to_owned(), &name),
            (Method::GET, of(&kept, "?body=true"), &json!({})),
            (Method::POST, of(&unknown[0], "/resolve"), &resolution),
            (Method::POST, of(&unknown[1], "/release"), &release),
        ] {
            let (status, answer) = send(&admin, method, &path, TOKEN, body).await;
            assert_eq!(status, 200, "{path}: {answer}");
        }
    });
    let log = log.text();
    for expected in ["keylatch::audit", "because", "alice", "resolve", "release"] {
        assert!(log.contains(expected), "{expected} is not in the log:\n{log}");
    }
    let found: Vec<_> = log.lines().filter(|line| line.contains("sentinel")).take(5).collect();
    assert!(found.is_empty(), "the log has what it must not: {found:#?}");
}
