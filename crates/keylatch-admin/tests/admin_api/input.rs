//! What comes in is checked and bounded, and what goes out says so.

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;

use crate::setup::{OPERATOR, VIEWER, World, request};

#[tokio::test]
async fn a_query_that_cannot_be_used_says_why() {
    let world = World::new();
    for (path, why) in [
        ("records?limit=0", "limit must be"),
        ("records?limit=501", "limit must be"),
        ("records?limit=many", "the query"),
        ("records?phase=dead", "the query"),
        ("records?cursor=x", "cursor must be"),
        ("records?cursor=00", "cursor cannot be used"),
        ("records?operation=x", "operation needs"),
        ("records?caller=", "scope cannot be used"),
        ("records?colour=red", "the query"),
        ("records/lapsed?caller=a", "caller cannot be given"),
        ("records/lapsed?phase=running", "phase must be"),
        ("records/abc", "id must be"),
        ("records/abc?body=perhaps", "the query"),
        ("stats?operation=x", "operation needs"),
    ] {
        let answer = world.get(OPERATOR, &format!("/api/v1/{path}")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, "ADMIN_REQUEST_INVALID"),
            "{path}"
        );
        let detail = answer.json()["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains(&why.to_lowercase()), "{path}: {detail}");
    }
}

#[tokio::test]
async fn a_body_is_json_and_bounded() {
    let world = World::new();
    let mut plain = request(Method::POST, "/api/v1/sweep", Some(OPERATOR), Some(&json!({})));
    plain.headers_mut().insert("content-type", "text/plain".parse().unwrap());
    assert_eq!(world.send(plain).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = json!({ "reason": "r".repeat(300_000) });
    let answer = world.post(OPERATOR, "/api/v1/sweep", &large).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "REQUEST_TOO_LARGE"));
    let answer = world.post(OPERATOR, "/api/v1/sweep", &json!({ "force": true })).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "ADMIN_REQUEST_INVALID"));
}

/// The answer of an operator may be as large as the answers that are kept.
#[tokio::test]
async fn an_answer_of_a_mebibyte_can_be_written_and_no_larger_one() {
    let world = World::new();
    for (bytes, status) in [(1 << 20, 200), ((1 << 20) + 1, 400)] {
        let record = world.unknown(&format!("key-{bytes}")).await;
        let body = json!({ "epoch": 1, "reason": "r", "status": 200, "body": "b".repeat(bytes) });
        let answer = world.post(OPERATOR, &format!("/api/v1/records/{}/resolve", record.id()), &body).await;
        assert_eq!(answer.status.as_u16(), status, "{bytes}");
    }
    let record = world.unknown("headers").await;
    for header in ["set-cookie", "date", "idempotency-epoch", "content-length", "not a name"] {
        let body = json!({
            "epoch": 1, "reason": "r", "status": 200, "headers": [{ "name": header, "value": "v" }],
        });
        let answer = world.post(OPERATOR, &format!("/api/v1/records/{}/resolve", record.id()), &body).await;
        assert_eq!(answer.status.as_u16(), 400, "{header}");
    }
}

#[tokio::test]
async fn what_the_store_does_not_have_is_said_with_who_has_it() {
    let world = World::new();
    for path in ["outbox", "places", "dead-letters"] {
        let answer = world.get(VIEWER, &format!("/api/v1/{path}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (501, "ADMIN_UNSUPPORTED"), "{path}");
        assert!(answer.text.contains("SQLite and PostgreSQL"), "{answer:?}");
    }
    let stats = world.get(VIEWER, "/api/v1/stats").await.json();
    assert_eq!((&stats["outbox"], &stats["store"]["durability"]), (&json!(null), &json!("process")));
}

#[tokio::test]
async fn pages_have_each_record_once_and_phases_can_be_chosen() {
    let world = World::new();
    for nth in 0..70 {
        world.completed(&format!("done-{nth}"), "answer").await;
    }
    world.unknown("lost").await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(VIEWER, &format!("/api/v1/records?limit=30{cursor}")).await.json();
        seen.extend(
            page["records"].as_array().unwrap().iter().map(|record| record["key"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 71);
    for path in
        ["records?phase=unknown", "records/lapsed", "records?caller=user-7&operation=POST%20/orders&phase=unknown"]
    {
        let page = world.get(VIEWER, &format!("/api/v1/{path}")).await.json();
        assert_eq!(page["records"].as_array().unwrap().len(), 1, "{path}: {page}");
        assert_eq!(page["records"][0]["key"], "lost");
    }
    let stats = world.get(VIEWER, "/api/v1/stats?caller=user-7&operation=POST%20/orders").await.json();
    assert_eq!(stats["lapsed"], json!({ "abandoned": 0, "unknown": 1, "at_least": false }));
    assert_eq!(stats["records"], json!({ "count": 71, "at_least": false }));
}

#[tokio::test]
async fn live_numbers_come_each_second_until_the_process_stops() {
    let world = World::new();
    world.unknown("lost").await;
    let asked = request(Method::GET, "/api/v1/live", Some(VIEWER), None);
    let answer = world.router.clone().oneshot(asked).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let mut text = String::new();
    while text.matches("event: snapshot").count() < 2 {
        text += std::str::from_utf8(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap();
    }
    assert!(text.contains(r#""unknown":1"#), "{text}");
    world.admin.stop();
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    let ready = world.send(request(Method::GET, "/readyz", None, None)).await;
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (503, "stopping\n"));
}

#[tokio::test]
async fn live_streams_are_bounded() {
    let world = World::new();
    let mut open = Vec::new();
    loop {
        let asked = request(Method::GET, "/api/v1/live", Some(VIEWER), None);
        let answer = world.router.clone().oneshot(asked).await.unwrap();
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            assert_eq!(answer.headers()["retry-after"], "1");
            break;
        }
        open.push(answer);
    }
    assert_eq!(open.len(), 32);
    open.pop();
    let asked = request(Method::GET, "/api/v1/live", Some(VIEWER), None);
    assert_eq!(world.router.clone().oneshot(asked).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn monitoring_needs_no_token_and_the_description_is_openapi() {
    let world = World::new();
    for (path, text) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = world.send(request(Method::GET, path, None, None)).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, text));
    }
    let description = world.get(VIEWER, "/api/v1/openapi.json").await.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"), "{}", description["openapi"]);
    assert_eq!(description["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert!(description["components"]["schemas"]["RecordView"]["properties"]["epoch"].is_object());
    let references = description.to_string();
    for reference in references.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(description["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}
