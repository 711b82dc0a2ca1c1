//! Every refusal: when it happens, its content, and that it leaves no record.

use std::time::Duration;

use http::StatusCode;
use keylatch::{Guarantee, Policy};

use crate::app::{App, Seen, Setup};
use crate::common::Gate;
use crate::common::faulty::{Fault, Op};

/// A service whose handler waits for the gate.
async fn waiting(setup: Setup, gate: &Gate) -> App {
    let gate = gate.clone();
    setup
        .start(move |seen: Seen| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                format!("run {}", seen.nth)
            }
        })
        .await
}

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

/// Seen from another process, through the store.
#[tokio::test]
async fn a_duplicate_in_another_process_is_409_too() {
    let gate = Gate::closed();
    let app = waiting(Setup::fenced(), &gate).await;
    let other = Setup::fenced().beside(&app).start(ok).await;
    let there = |call: crate::wire::Call| call.at(other.address());
    let running = app.order().begin().await;
    app.ran(1).await;
    let duplicate = there(app.order()).send().await;
    duplicate.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    assert_eq!(duplicate.text("retry-after").as_deref(), Some("1"));
    there(app.order()).body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    let patient = there(app.order()).wait(20).begin().await;
    gate.open();
    assert_eq!(running.reply().await.body_text(), "run 1");
    let replayed = patient.reply().await;
    assert_eq!((replayed.body_text(), replayed.replayed(), other.runs()), ("run 1", true, 0));
}

#[tokio::test]
async fn an_outcome_that_nobody_knows_is_409() {
    let gate = Gate::closed();
    let app = waiting(Setup::new(Guarantee::AtMostOnce), &gate).await;
    let other = Setup::new(Guarantee::AtMostOnce).beside(&app).start(ok).await;
    let _running = app.order().begin().await;
    app.ran(1).await;
    // Its process is as good as dead: the lease ends without a release.
    app.clock.advance(Policy::default().lease);
    for _ in 0..2 {
        let reply = app.order().at(other.address()).wait(1).send().await;
        let problem = reply.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
        assert_eq!(problem["title"], "Outcome of the original request is unknown");
        assert_eq!(problem["retryable"], false);
        assert!(reply.text("retry-after").is_none());
    }
    app.order().at(other.address()).body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(other.runs(), 0, "never twice");
}

#[tokio::test]
async fn an_answer_is_kept_to_the_last_millisecond() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        let app = Setup::new(guarantee).start(ok).await;
        let Policy { retention, tombstone, .. } = *app.engine.policy();
        app.order().send().await;
        app.clock.advance(retention - Duration::from_millis(1));
        assert!(app.order().send().await.replayed(), "to the last millisecond");
        app.clock.advance(Duration::from_millis(1));
        for swept in [0, 1] {
            let problem = app.order().send().await.is_problem(410, "IDEMPOTENCY_KEY_EXPIRED");
            assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key expired".into(), &false.into()));
            app.order().body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
            assert_eq!(app.engine.sweep(10).await.unwrap().tombstoned, 1 - swept, "{guarantee:?}");
        }
        app.clock.advance(tombstone);
        let fresh = app.order().body("other").send().await;
        assert_eq!((fresh.body_text(), fresh.replayed()), ("run 2", false), "the key is anyone's again");
    }
}

// ---- 429 -----------------------------------------------------------------------------------------------

fn is_over_quota(reply: &crate::wire::Reply) {
    let problem = reply.is_problem(429, "IDEMPOTENCY_QUOTA_EXCEEDED");
    assert_eq!(
        (&problem["title"], &problem["retryable"]),
        (&"Too many requests from this caller".into(), &true.into())
    );
    assert_eq!(reply.text("retry-after").as_deref(), Some("1"));
}

#[tokio::test]
async fn too_many_running_requests_are_429() {
    type Limit = fn(&mut keylatch::Limits);
    let limits: [(Limit, u16); 2] =
        [(|limits| limits.running_per_caller_max = 2, 200), (|limits| limits.running_max = 2, 429)];
    for (limit, others) in limits {
        let gate = Gate::closed();
        let handler = gate.clone();
        let app = Setup::fenced()
            .limits(limit)
            .start(move |seen: Seen| {
                let gate = handler.clone();
                async move {
                    if seen.parts.headers.contains_key("x-slow") {
                        gate.pass().await;
                    }
                    format!("run {}", seen.nth)
                }
            })
            .await;
        app.order().without("Idempotency-Key").key("done").send().await;
        let slow = |key: &str| app.order().without("Idempotency-Key").key(key).header("X-Slow", "1");
        let (a, b) = (slow("a").begin().await, slow("b").begin().await);
        app.ran(3).await;
        is_over_quota(&slow("c").send().await);
        assert_eq!(slow("d").caller("bob").without("X-Slow").send().await.status, others);
        // A request that has a record gets the recorded answer.
        assert!(slow("done").send().await.replayed());
        slow("done").body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
        slow("a").send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
        gate.open();
        assert_eq!((a.reply().await.status, b.reply().await.status), (200, 200));
        assert!(app.records().await.iter().all(|record| record.key.as_str() != "c"), "it left no record");
        assert_eq!(slow("c").send().await.status, 200);
    }
}

#[tokio::test]
async fn too_many_records_are_429() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced] {
        let failing = |seen: Seen| async move {
            let fails = seen.parts.headers.contains_key("x-fail");
            (if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }, format!("run {}", seen.nth))
        };
        let app = Setup::new(guarantee).limits(|limits| limits.records_per_scope_max = 3).start(failing).await;
        let order = |key: &str| app.order().without("Idempotency-Key").key(key);
        if guarantee == Guarantee::Fenced {
            // A record that is kept for its retry counts.
            assert_eq!(order("c").header("X-Fail", "1").send().await.status, 500);
        }
        for key in ["a", "b"] {
            assert_eq!(order(key).send().await.status, 200);
        }
        if guarantee == Guarantee::Atomic {
            assert_eq!(order("c").send().await.status, 200);
        }
        is_over_quota(&order("d").send().await);
        assert_eq!(app.records().await.len(), 3);
        assert!(order("a").send().await.replayed());
        order("a").body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(order("c").send().await.status, 200, "a retry makes no record more");
        assert_eq!(order("d").caller("bob").send().await.status, 200, "of another scope");
        let Policy { retention, tombstone, .. } = *app.engine.policy();
        app.clock.advance(retention + tombstone);
        while app.engine.sweep(100).await.unwrap().more {}
        assert!(app.records().await.is_empty());
        // The engine remembers for a second that the scope was full.
        crate::common::until("there is room", async || order("d").send().await.status == 200).await;
    }
}

// ---- 503 -----------------------------------------------------------------------------------------------

fn is_unavailable(reply: &crate::wire::Reply) {
    let problem = reply.is_problem(503, "IDEMPOTENCY_STORE_UNAVAILABLE");
    assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency store unavailable".into(), &true.into()));
    assert_eq!(reply.text("retry-after").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_store_that_cannot_say_is_503() {
    let app = Setup::fenced().start(ok).await;
    app.order().without("Idempotency-Key").key("done").send().await;
    app.store.goes_down();
    for key in ["k", "done"] {
        let reply = app.order().without("Idempotency-Key").key(key).send().await;
        is_unavailable(&reply);
        assert!(reply.text("idempotency-status").is_none());
    }
    assert_eq!(app.runs(), 1, "nothing ran");
    app.store.is_mended();
    assert_eq!(app.records().await.len(), 1, "it left no record");
    assert_eq!(app.order().send().await.body_text(), "run 2");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_503() {
    for fail_open in [false, true] {
        let layer = move |layer: keylatch::http::IdempotencyLayer| if fail_open { layer.fail_open() } else { layer };
        let app = Setup::fenced().layer(layer).start(ok).await;
        app.store.always(Op::Claim, Fault::Corrupt);
        is_unavailable(&app.order().send().await);
        assert_eq!(app.runs(), 0, "a record is there: to run without one would be a second time");
    }
}

#[tokio::test]
async fn an_outcome_that_could_not_be_stored_is_503_and_no_second_run() {
    let lease = Duration::from_millis(keylatch::LEASE_MS_MIN);
    let policy = Policy { lease, ..Policy::default() };
    let setup = Setup::new(Guarantee::AtMostOnce).policy(policy).layer(|layer| layer.fail_open());
    let app = setup.start(ok).await;
    app.store.always(Op::Complete, Fault::Unavailable);
    let reply = app.order().send().await;
    is_unavailable(&reply);
    assert!(reply.text("idempotency-status").is_none(), "it has begun: there is nothing to bypass");
    app.store.is_mended();
    app.order().send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    app.clock.advance(lease);
    app.order().send().await.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    assert_eq!(app.runs(), 1);
}

#[tokio::test]
async fn fail_open_is_a_choice_and_says_so() {
    for fault in [Fault::Unavailable, Fault::RequestLost] {
        let app = Setup::fenced().layer(|layer| layer.fail_open()).start(ok).await;
        app.store.always(Op::Claim, fault);
        for run in ["run 1", "run 2"] {
            let bypassed = app.order().send().await;
            assert_eq!((bypassed.status, bypassed.body_text()), (200, run));
            assert_eq!(bypassed.text("idempotency-status").as_deref(), Some("bypassed"));
            assert!(bypassed.text("idempotency-expires").is_none() && !bypassed.replayed());
        }
        app.store.is_mended();
        let guarded = app.order().send().await;
        assert_eq!((guarded.body_text(), guarded.text("idempotency-status")), ("run 3", None));
        assert!(app.order().send().await.replayed());
    }
}

/// The claim is granted, its reply is lost, and the request runs without it: the record must not stay.
#[tokio::test]
async fn fail_open_takes_back_a_claim_that_may_have_been_granted() {
    let app = Setup::fenced().layer(|layer| layer.fail_open()).start(ok).await;
    app.store.next(Op::Claim, [Fault::ReplyLost, Fault::ReplyLost]);
    let bypassed = app.order().send().await;
    assert_eq!(bypassed.text("idempotency-status").as_deref(), Some("bypassed"));
    crate::common::until("the claim is withdrawn", async || app.records().await.is_empty()).await;
    assert_eq!(app.order().send().await.text("idempotency-status"), None);
}
