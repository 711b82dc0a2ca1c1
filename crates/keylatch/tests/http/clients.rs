//! Clients that wait, come all at once, or leave; and a service that shuts down.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keylatch::Guarantee;
use keylatch::store::State;

use crate::app::{App, Seen, Setup};
use crate::common::{Gate, until};

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

#[tokio::test]
async fn prefer_wait_gets_the_answer_of_the_run_that_is_under_way() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        let gate = Gate::closed();
        let app = waiting(Setup::new(guarantee), &gate).await;
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

#[tokio::test]
async fn nobody_waits_longer_than_the_servers_limit() {
    let gate = Gate::closed();
    let limit = Duration::from_millis(60);
    let app = waiting(Setup::fenced().limits(|limits| limits.wait_max = limit), &gate).await;
    let _running = app.order().begin().await;
    app.ran(1).await;
    let asked = Instant::now();
    let impatient = app.order().wait(3_600).send().await;
    impatient.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
    assert!(asked.elapsed() >= limit);
    gate.open();
}

/// 200 identical requests at once: one run; each gets the answer or 409, and with `Prefer: wait` each gets the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_identical_requests_run_once() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        for patient in [true, false] {
            let app = Setup::new(guarantee)
                .start(|seen: Seen| async move {
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

#[tokio::test]
async fn a_client_that_leaves_within_its_body_leaves_nothing() {
    let app = Setup::fenced().start(|seen: Seen| async move { format!("run {}", seen.nth) }).await;
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

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_work() {
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        let gate = Gate::closed();
        let app = waiting(Setup::new(guarantee), &gate).await;
        work_goes_on_without_its_client(&app, &gate).await;
    }
}

/// Checks it of a handler that waits at the gate.
pub(crate) async fn work_goes_on_without_its_client(app: &App, gate: &Gate) {
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

#[tokio::test]
async fn a_shutdown_drains_and_starts_nothing_new() {
    let gate = Gate::closed();
    let app = waiting(Setup::fenced(), &gate).await;
    let running = app.order().begin().await;
    app.ran(1).await;
    assert_eq!(app.engine.shutdown(Duration::ZERO).await, 1, "it is still under way");
    let engine = app.engine.clone();
    let draining = tokio::spawn(async move { engine.shutdown(Duration::MAX).await });
    let refused = app.order().without("Idempotency-Key").key("new").send().await;
    let problem = refused.is_problem(503, "IDEMPOTENCY_STORE_UNAVAILABLE");
    assert_eq!((&problem["retryable"], refused.text("retry-after").as_deref()), (&true.into(), Some("1")));
    assert!(!draining.is_finished());
    let patient = app.order().wait(30).begin().await;
    gate.open();
    assert_eq!(running.reply().await.body_text(), "run 1", "what runs comes to its end");
    assert!(patient.reply().await.replayed());
    assert_eq!(draining.await.unwrap(), 0);
    assert_eq!((app.runs(), app.records().await.len()), (1, 1));
}

/// A run whose client is gone is waited for as well.
#[tokio::test]
async fn a_shutdown_drains_what_has_lost_its_client() {
    let gate = Gate::closed();
    let app = waiting(Setup::fenced(), &gate).await;
    let leaving = app.order().begin().await;
    app.ran(1).await;
    leaving.hang_up();
    let engine = app.engine.clone();
    let draining = tokio::spawn(async move { engine.shutdown(Duration::MAX).await });
    // It has begun to shut down.
    let probe = app.order().without("Idempotency-Key").key("new");
    until("nothing new is started", async || probe.send().await.status == 503).await;
    assert!(!draining.is_finished());
    gate.open();
    assert_eq!(draining.await.unwrap(), 0);
    let records = app.records().await;
    assert!(records.iter().any(|record| record.key.as_str() == "k" && matches!(record.state, State::Completed { .. })));
}
