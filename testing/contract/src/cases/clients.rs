//! Clients that wait, come all at once, or leave.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keylatch_core::store::State;

use super::waiting;
use crate::{App, Gate, Running, Seen, Setup, Subject, until};

pub async fn prefer_wait_gets_the_answer_of_the_run_that_is_under_way(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let gate = Gate::closed();
        let app = waiting(at, Setup::new(guarantee), &gate).await;
        let running = app.order().begin().await;
        app.ran(1).await;
        let patient = app.order().header("Prefer", "respond-async, wait=\"30\"").begin().await;
        app.order().header("Prefer", "wait=0").send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
        app.order().header("Prefer", "wait=soon").send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
        gate.open();
        let first = running.reply().await;
        let waited = patient.reply().await;
        assert_eq!((waited.status, &waited.body, waited.replayed()), (first.status, &first.body, true));
        assert_eq!(app.runs(), 1, "{guarantee:?}");
    }
}

pub async fn nobody_waits_longer_than_the_servers_limit(at: &impl Subject) {
    let gate = Gate::closed();
    let limit = Duration::from_millis(60);
    let app = waiting(at, Setup { wait_max: Some(limit), ..Setup::fenced() }, &gate).await;
    let _running = app.order().begin().await;
    app.ran(1).await;
    let asked = Instant::now();
    let impatient = app.order().wait(3_600).send().await;
    impatient.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    assert!(asked.elapsed() >= limit);
    gate.open();
}

/// 200 identical requests at once: one run; each gets the answer or 409, and with `Prefer: wait` each gets the answer.
pub async fn two_hundred_identical_requests_run_once(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        for patient in [true, false] {
            let app = Setup::new(guarantee)
                .start(at, |seen: Seen| async move {
                    tokio::task::yield_now().await;
                    (http::StatusCode::CREATED, [("location", format!("/{}", seen.nth))], vec![7_u8; 5_000])
                })
                .await;
            let call = if patient { app.order().wait(30) } else { app.order() };
            let replies = join_all((0..200).map(|_| call.send())).await;
            assert_eq!(app.runs(), 1, "{guarantee:?}");
            let (answers, refusals): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 201);
            assert!(answers.iter().all(|reply| reply.body == [7; 5_000]));
            assert!(answers.iter().all(|reply| reply.text("location").as_deref() == Some("/1")));
            assert_eq!(answers.iter().filter(|reply| !reply.replayed()).count(), 1, "one of them is the first");
            for refusal in &refusals {
                refusal.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
            }
            assert!(!patient || refusals.is_empty(), "{guarantee:?}: {} refusals", refusals.len());
        }
    }
}

pub async fn a_client_that_leaves_within_its_body_leaves_nothing(at: &impl Subject) {
    let app = Setup::fenced().start(at, |seen: Seen| async move { format!("run {}", seen.nth) }).await;
    let call = app.order();
    let half = [call.head(), b"{\"it".to_vec()].concat();
    for polite in [true, false] {
        let mut gone = call.open(&half).await;
        // Once it has answered another, the server has seen this one.
        assert_eq!(app.order().caller("bob").send().await.status, 200);
        if polite {
            // Half-closed: the body ends where it must not.
            gone.finish().await;
        } else {
            gone.hang_up();
        }
    }
    let first = call.send().await;
    assert_eq!((first.status, first.replayed(), app.runs()), (200, false, 2));
    assert_eq!(app.records().await.len(), 2);
}

pub async fn a_client_that_leaves_does_not_stop_the_work(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let gate = Gate::closed();
        let app = waiting(at, Setup::new(guarantee), &gate).await;
        work_goes_on_without_its_client(&app, &gate).await;
    }
}

/// Checks it of a handler that waits at the gate.
pub async fn work_goes_on_without_its_client(app: &App<impl Running>, gate: &Gate) {
    let leaving = app.order().begin().await;
    app.ran(1).await;
    leaving.hang_up();
    app.order().send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    gate.open();
    let completed = async || {
        let records = app.records().await;
        matches!(records.first().map(|record| &record.state), Some(State::Completed { .. }))
    };
    until("the work has come to its end", completed).await;
    let again = app.order().send().await;
    assert_eq!((again.status, again.body_text(), again.replayed()), (200, "run 1", true));
    assert_eq!(app.runs(), 1);
}

pub async fn a_duplicate_waits_as_long_as_the_layer_says(at: &impl Subject) {
    let gate = Gate::closed();
    let passed = gate.clone();
    let handler = move |_: Seen| {
        let gate = passed.clone();
        async move {
            gate.pass().await;
            "made"
        }
    };
    let app = Setup { wait: Some(Duration::from_secs(30)), ..Setup::fenced() }.start(at, handler).await;
    let running = app.order().begin().await;
    app.ran(1).await;
    // Its own word counts before the layer's.
    app.order().header("Prefer", "wait=0").send().await.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    let waiting = app.order().begin().await;
    gate.open();
    assert_eq!(running.reply().await.status, 200);
    let reply = waiting.reply().await;
    assert_eq!((reply.status, reply.replayed(), reply.text("preference-applied")), (200, true, None));
}
