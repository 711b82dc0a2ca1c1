//! Each action is on record before it happens, and is refused if it cannot be.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use keylatch::machine::Phase;
use keylatch::store::{At, Store as _};
use keylatch_admin::{Access, Actor, Admin, Audit, Operator, Role, Tokens, Via};
use serde_json::{Value, json};

use crate::setup::{OPERATOR, World};

fn audited(world: &mut World, audit: Audit) {
    let operator = Operator::new(Arc::new(world.store.clone())).with_audit(audit);
    let access = Access::new(Some(Tokens::one(Role::Operate, "alice", OPERATOR)), IpAddr::from([10, 0, 0, 1]));
    world.admin = Admin::new(operator, access);
    world.router = world.admin.router();
}

#[tokio::test]
async fn who_what_why_and_the_state_before_are_written_before_and_after() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let mut world = World::new();
    audited(&mut world, Audit::to_file(&path).unwrap());
    let record = world.unknown("key-sentinel").await;
    let release = format!("/api/v1/records/{}/release", record.id());
    for (epoch, dry_run) in [(9, false), (1, true), (1, false)] {
        world.post(OPERATOR, &release, &json!({ "epoch": epoch, "reason": "because", "dry_run": dry_run })).await;
    }
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages: Vec<_> = lines.iter().map(|line| line["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["asked", "refused", "asked", "done"], "a dry run is no action");
    for line in &lines {
        assert_eq!(line["who"], json!({ "name": "alice", "role": "operate", "via": "token" }));
        assert_eq!((&line["action"], &line["reason"]), (&json!("release"), &json!("because")));
        assert_eq!(line["target"], json!([record.id().to_string()]));
        assert_eq!(line["before"], json!({ "epoch": 1, "phase": "unknown" }));
    }
    assert_eq!(lines[2]["event"], lines[3]["event"]);
    assert_ne!(lines[0]["event"], lines[2]["event"]);
    assert!(!text.contains("key-sentinel") && !text.contains(OPERATOR));
}

#[tokio::test]
async fn an_action_whose_line_cannot_be_written_does_not_happen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("logs").join("audit.jsonl");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut world = World::new();
    audited(&mut world, Audit::to_file(&path).unwrap());
    let record = world.unknown("key").await;
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let release = format!("/api/v1/records/{}/release", record.id());
    let answer = world.post(OPERATOR, &release, &json!({ "epoch": 1, "reason": "because" })).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "ADMIN_AUDIT_FAILED"));
    let At { value, now } = world.store.read(record.id()).await.unwrap();
    assert_eq!(keylatch::machine::phase(value.as_ref(), now), Phase::Unknown);
    assert_eq!(world.post(OPERATOR, "/api/v1/sweep", &json!({})).await.code(), "ADMIN_AUDIT_FAILED");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let answer = world.post(OPERATOR, &release, &json!({ "epoch": 1, "reason": "because" })).await;
    assert_eq!(answer.status, 200, "it works again once the file can be written");
}

#[tokio::test]
async fn a_program_acts_without_http() {
    let world = World::new();
    let record = world.completed("key", "secret").await;
    let operator = world.admin.operator();
    let who = Actor { name: "root".to_owned(), role: Role::Operate, via: Via::CommandLine };
    let change = |epoch| keylatch_admin::ops::Change { epoch, reason: "asked".to_owned(), dry_run: false };
    let id = record.id().to_string();
    assert!(matches!(operator.forget(&who, &id, change(2)).await, Err(keylatch_admin::Error::Stale(_))));
    let acted = operator.forget(&who, &id, change(1)).await.unwrap();
    assert_eq!(acted.record.unwrap().phase, keylatch_admin::view::Phase::Tombstone);
    // Sent again it succeeds, for a cache that could not be told the first time.
    assert!(operator.forget(&who, &id, change(1)).await.is_ok());
    assert!(matches!(operator.release(&who, &id, change(1)).await, Err(keylatch_admin::Error::NotPossible { .. })));
}
