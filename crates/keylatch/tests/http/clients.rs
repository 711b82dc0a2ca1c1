//! Clients of a service that shuts down.

use std::time::Duration;

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

/// A shutdown also waits for a run whose client has disconnected.
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
