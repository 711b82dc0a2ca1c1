//! Records: finding, reading and listing them, and what can be done to one.

use keylatch::Guarantee;
use keylatch::machine::Phase;
use keylatch::store::{At, Store as _};
use serde_json::{Value, json};

use crate::setup::{OPERATOR, VIEWER, World};

fn path(record: &keylatch::Record, action: &str) -> String {
    format!("/api/v1/records/{}{action}", record.id())
}

async fn phase(world: &World, record: &keylatch::Record) -> Phase {
    let At { value, now } = world.store.read(record.id()).await.unwrap();
    keylatch::machine::phase(value.as_ref(), now)
}

#[tokio::test]
async fn a_record_is_found_by_scope_and_key() {
    let world = World::new();
    let record = world.completed("key-1", "secret answer").await;
    let name = json!({ "scope": { "caller": "user-7", "operation": "POST /orders" }, "key": "key-1" });
    let answer = world.post(VIEWER, "/api/v1/records/find", &name).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let found = answer.json();
    assert_eq!(found["record"]["id"], record.id().to_string());
    assert_eq!(found["record"]["phase"], "completed");
    assert_eq!(found["record"]["outcome"], json!({ "status": 200, "body_bytes": 13 }));
    assert!(!answer.text.contains("secret answer"));
    let other = json!({ "scope": { "caller": "user-7" }, "key": "key-1" });
    assert_eq!(world.post(VIEWER, "/api/v1/records/find", &other).await.code(), "ADMIN_NOT_FOUND");
}

#[tokio::test]
async fn the_content_of_an_answer_is_for_operators_only() {
    let world = World::new();
    let record = world.completed("key-1", "secret answer").await;
    for query in ["", "?body=false"] {
        for token in [VIEWER, OPERATOR] {
            let answer = world.get(token, &path(&record, query)).await;
            assert!(answer.status == 200 && !answer.text.contains("secret"), "{answer:?}");
        }
    }
    let answer = world.get(VIEWER, &path(&record, "?body=true")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (403, "ADMIN_ROLE_TOO_WEAK"));
    assert!(!answer.text.contains("secret"));
    let kept = world.get(OPERATOR, &path(&record, "?body=true")).await.json()["kept"].clone();
    assert_eq!(kept, json!({ "status": 200, "headers": [], "body": "secret answer", "body_is_exact": true }));
}

#[tokio::test]
async fn an_unknown_run_is_released_in_the_epoch_that_was_seen() {
    let world = World::new();
    let record = world.unknown("key-1").await;
    let dry = json!({ "epoch": 1, "reason": "asked the bank", "dry_run": true });
    let plan = world.post(OPERATOR, &path(&record, "/release"), &dry).await.json();
    assert_eq!((&plan["applied"], &plan["plan"]["second_run"]), (&json!(false), &json!(true)));
    assert_eq!(phase(&world, &record).await, Phase::Unknown, "a dry run changes nothing");
    let acted =
        world.post(OPERATOR, &path(&record, "/release"), &json!({ "epoch": 1, "reason": "asked" })).await.json();
    assert_eq!((&acted["applied"], &acted["record"]["phase"]), (&json!(true), &json!("free")));
    assert_eq!(phase(&world, &record).await, Phase::Free);
}

#[tokio::test]
async fn an_unknown_run_gets_the_answer_that_the_operator_writes() {
    let world = World::new();
    let record = world.unknown("key-1").await;
    let answer = json!({
        "epoch": 1, "reason": "the payment is there", "status": 201,
        "headers": [{ "name": "content-type", "value": "text/plain" }], "body": "paid",
    });
    let acted = world.post(OPERATOR, &path(&record, "/resolve"), &answer).await;
    assert_eq!((acted.status.as_u16(), &acted.json()["record"]["phase"]), (200, &json!("completed")));
    let kept = world.get(OPERATOR, &path(&record, "?body=true")).await.json()["kept"].clone();
    assert_eq!((&kept["status"], &kept["body"]), (&json!(201), &json!("paid")));
}

#[tokio::test]
async fn an_operator_who_resolves_while_the_owner_lives_changes_nothing_and_is_told() {
    let world = World::new();
    for guarantee in [Guarantee::AtMostOnce, Guarantee::Fenced] {
        let record = world.claim(&format!("{guarantee:?}"), guarantee).await;
        for (action, body) in [
            ("/forget", json!({ "epoch": 1, "reason": "it hangs" })),
            ("/release", json!({ "epoch": 1, "reason": "it hangs" })),
            ("/resolve", json!({ "epoch": 1, "reason": "it hangs", "status": 200 })),
        ] {
            let answer = world.post(OPERATOR, &path(&record, action), &body).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "ADMIN_OWNER_ALIVE"), "{answer:?}");
            assert_eq!(answer.json()["now"]["record"]["phase"], "running");
            let At { value, .. } = world.store.read(record.id()).await.unwrap();
            assert_eq!(value, Some(record.clone()));
        }
    }
}

#[tokio::test]
async fn an_action_needs_the_epoch_that_was_seen_and_a_reason() {
    let world = World::new();
    let record = world.unknown("key-1").await;
    let resolve = |mut body: Value| {
        body["status"] = json!(200);
        body
    };
    for (action, dress) in [("/release", (|body| body) as fn(Value) -> Value), ("/resolve", resolve)] {
        let answer = world.post(OPERATOR, &path(&record, action), &dress(json!({ "epoch": 2, "reason": "r" }))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "ADMIN_EPOCH_STALE"));
        assert_eq!(answer.json()["now"]["record"]["epoch"], 1, "it says what is there now");
        for wrong in [
            json!({ "reason": "r" }),
            json!({ "epoch": 1 }),
            json!({ "epoch": 1, "reason": "" }),
            json!({ "epoch": 1, "reason": " " }),
            json!({ "epoch": 1, "reason": "a\nb" }),
            json!({ "epoch": 1, "reason": "r".repeat(1_001) }),
            json!({ "epoch": "1", "reason": "r" }),
            json!({ "epoch": 1, "reason": "r", "force": true }),
        ] {
            let answer = world.post(OPERATOR, &path(&record, action), &dress(wrong)).await;
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "ADMIN_REQUEST_INVALID"), "{answer:?}");
        }
        assert_eq!(phase(&world, &record).await, Phase::Unknown);
    }
}

#[tokio::test]
async fn a_forgotten_answer_leaves_a_tombstone() {
    let world = World::new();
    let record = world.completed("key-1", "secret answer").await;
    let stale = world.post(OPERATOR, &path(&record, "/forget"), &json!({ "epoch": 2, "reason": "asked" })).await;
    assert_eq!((stale.status.as_u16(), stale.code().as_str()), (409, "ADMIN_EPOCH_STALE"));
    for wrong in [json!({ "reason": "asked" }), json!({ "epoch": 1 })] {
        assert_eq!(world.post(OPERATOR, &path(&record, "/forget"), &wrong).await.code(), "ADMIN_REQUEST_INVALID");
    }
    assert_eq!(phase(&world, &record).await, Phase::Completed);
    let acted = world.post(OPERATOR, &path(&record, "/forget"), &json!({ "epoch": 1, "reason": "asked" })).await.json();
    assert_eq!((&acted["applied"], &acted["record"]["phase"]), (&json!(true), &json!("tombstone")));
    assert_eq!(acted["plan"]["second_run"], false);
    assert_eq!(phase(&world, &record).await, Phase::Tombstone);
    let gone = world.get(OPERATOR, &path(&record, "?body=true")).await;
    assert!(!gone.text.contains("secret answer"), "{gone:?}");
}
