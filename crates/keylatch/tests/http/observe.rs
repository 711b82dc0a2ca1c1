//! A layer that only observes: the service and the client get what they would get without it, and the layer counts what
//! it would have answered.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use keylatch::http::{IdempotencyLayer, ScopeFrom, Unguarded, UpstreamKey};
use keylatch::{Guarantee, Identity, Run, sqlite};
use metrics::{LocalRecorderGuard, set_default_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tempfile::TempDir;
use testing_support::logs::Logs;

use crate::app::{App, Seen, Setup};
use crate::common::Gate;
use crate::common::faulty::{Fault, Op};
use crate::wire::Reply;

async fn nth(seen: Seen) -> (StatusCode, String) {
    (StatusCode::CREATED, format!("run {} of {} bytes", seen.nth, seen.body.len()))
}

fn observing(guarantee: Guarantee) -> Setup {
    Setup::new(guarantee).layer(IdempotencyLayer::observe)
}

/// Counts events on this thread: a test's runtime has no other.
fn recorder() -> &'static PrometheusRecorder {
    Box::leak(Box::new(PrometheusBuilder::new().build_recorder()))
}

/// The counts, by the answer that would have been given.
fn counted(recorder: &PrometheusRecorder) -> Vec<(String, u64)> {
    let rendered = recorder.handle().render();
    let series = rendered.lines().filter_map(|line| line.strip_prefix("keylatch_observed_total{answer=\""));
    let mut counted: Vec<_> = series
        .map(|series| {
            let (answer, count) = series.split_once("\"} ").expect("one label");
            (answer.to_owned(), count.parse().expect("a count"))
        })
        .collect();
    counted.sort();
    counted
}

fn listening() -> (&'static PrometheusRecorder, LocalRecorderGuard<'static>) {
    let recorder = recorder();
    (recorder, set_default_local_recorder(recorder))
}

/// Checks that this is the service's answer, and that the layer has added nothing.
#[track_caller]
fn is_plain(reply: &Reply, status: u16, body: &str) {
    assert_eq!((reply.status, reply.body_text()), (status, body), "{reply:?}");
    let ours = |name: &str| name.starts_with("idempoten") || ["preference-applied", "retry-after"].contains(&name);
    assert!(!reply.headers.iter().any(|(name, _)| ours(name)), "{reply:?}");
}

#[tokio::test]
async fn what_would_be_a_replay_or_a_422_runs_and_changes_no_record() {
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let (recorder, _listening) = listening();
        let app = observing(guarantee).start(nth).await;
        is_plain(&app.order().send().await, 201, "run 1 of 10 bytes");
        let records = app.records().await;
        assert_eq!((records.len(), records[0].attempt), (1, 1));
        is_plain(&app.order().send().await, 201, "run 2 of 10 bytes");
        is_plain(&app.order().wait(5).send().await, 201, "run 3 of 10 bytes");
        is_plain(&app.order().body("other").send().await, 201, "run 4 of 5 bytes");
        assert_eq!(app.records().await, records, "the record stays that of the first run");
        let expected = [("IDEMPOTENCY_KEY_REUSED".to_owned(), 1), ("replay".to_owned(), 2)];
        assert_eq!(counted(recorder), expected, "{guarantee:?}");
        // The clients' answers agree with the counts: four runs, of which one was the run of its key.
        let rendered = recorder.handle().render();
        let answers = rendered.lines().filter(|line| line.starts_with("keylatch_answers_total{"));
        let answers: Vec<_> = answers.filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(answers, ["keylatch_answers_total{answer=\"run\"} 1"]);
        // Once the layer no longer only observes, the first answer is replayed.
        let enforcing = Setup::new(guarantee).beside(&app).start(nth).await;
        let replay = enforcing.order().send().await;
        assert_eq!((replay.replayed(), replay.body_text()), (true, "run 1 of 10 bytes"));
        enforcing.order().body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    }
}

#[tokio::test]
async fn what_would_be_in_progress_runs_at_once() {
    let (recorder, _listening) = listening();
    let gate = Gate::closed();
    let first = gate.clone();
    let setup = Setup::fenced().layer(|layer| layer.observe().with_wait(Duration::from_secs(600)));
    let app = setup
        .start(move |seen: Seen| {
            let first = first.clone();
            async move {
                if seen.nth == 1 {
                    first.pass().await;
                }
                format!("run {}", seen.nth)
            }
        })
        .await;
    let running = app.order().begin().await;
    app.ran(1).await;
    is_plain(&app.order().send().await, 200, "run 2");
    is_plain(&app.order().wait(600).send().await, 200, "run 3");
    is_plain(&app.order().body("other").send().await, 200, "run 4");
    gate.open();
    is_plain(&running.reply().await, 200, "run 1");
    let expected = [("IDEMPOTENCY_KEY_IN_PROGRESS".to_owned(), 2), ("IDEMPOTENCY_KEY_REUSED".to_owned(), 1)];
    assert_eq!(counted(recorder), expected);
    let replay = Setup::fenced().beside(&app).start(nth).await.order().send().await;
    assert_eq!((replay.replayed(), replay.body_text()), (true, "run 1"));
}

/// A refusal before the claim still passes on the whole body.
#[tokio::test]
async fn what_would_be_refused_before_its_claim_passes_whole() {
    let (recorder, _listening) = listening();
    let setup = Setup::fenced().layer(|layer| layer.observe().require_key().with_body_bytes_max(1_000));
    let app = setup.start(nth).await;
    let post = || app.call("POST", "/orders").body("body");
    is_plain(&post().send().await, 201, "run 1 of 4 bytes");
    is_plain(&post().key("a b").send().await, 201, "run 2 of 4 bytes");
    is_plain(&post().key("a").key("b").send().await, 201, "run 3 of 4 bytes");
    is_plain(&post().key("k").without("X-User-Id").send().await, 201, "run 4 of 4 bytes");
    let large = "x".repeat(100_000);
    is_plain(&post().key("k").body(&large).send().await, 201, "run 5 of 100000 bytes");
    is_plain(&post().key("k").chunked(["x"; 2_000]).send().await, 201, "run 6 of 2000 bytes");
    is_plain(&app.call("GET", "/orders").key("k").send().await, 201, "run 7 of 0 bytes");
    let expected = [
        ("IDEMPOTENCY_KEY_INVALID", 2),
        ("IDEMPOTENCY_KEY_REQUIRED", 1),
        ("IDEMPOTENCY_SCOPE_REQUIRED", 1),
        ("REQUEST_TOO_LARGE", 2),
    ];
    assert_eq!(counted(recorder), expected.map(|(answer, count)| (answer.to_owned(), count)));
    assert_eq!(app.records().await.len(), 0);
}

#[tokio::test]
async fn a_slow_body_is_passed_on_as_it_comes() {
    let (recorder, _listening) = listening();
    let setup = Setup::fenced().layer(|layer| layer.observe().with_body_pace(Duration::from_millis(50), 0));
    let app = setup.start(nth).await;
    let call = app.order().body("").length(6);
    let head = [call.head().as_slice(), b"abc"].concat();
    let mut slow = call.open(&head).await;
    crate::common::until("it is too slow", async || !counted(recorder).is_empty()).await;
    tokio::io::AsyncWriteExt::write_all(slow.stream(), b"def").await.expect("the connection holds");
    is_plain(&slow.reply().await, 201, "run 1 of 6 bytes");
    assert_eq!(counted(recorder), [("REQUEST_TIMEOUT".to_owned(), 1)]);
}

#[tokio::test]
async fn a_store_that_fails_is_counted_and_keeps_nobody_from_an_answer() {
    let (recorder, _listening) = listening();
    let app = observing(Guarantee::Fenced).start(nth).await;
    app.store.always(Op::Claim, Fault::Unavailable);
    is_plain(&app.order().send().await, 201, "run 1 of 10 bytes");
    app.store.is_mended();
    app.store.always(Op::Claim, Fault::Corrupt);
    is_plain(&app.order().send().await, 201, "run 2 of 10 bytes");
    app.store.is_mended();
    // Its run has an answer, and no record.
    app.store.always(Op::Complete, Fault::Corrupt);
    is_plain(&app.order().send().await, 201, "run 3 of 10 bytes");
    assert_eq!(counted(recorder), [("IDEMPOTENCY_STORE_UNAVAILABLE".to_owned(), 3)]);
}

/// A run that was taken over gives its own answer, as it would without the layer.
#[tokio::test]
async fn a_run_that_lost_its_lease_gives_its_own_answer() {
    let (recorder, _listening) = listening();
    let gate = Gate::closed();
    let held = gate.clone();
    let app = observing(Guarantee::Fenced)
        .start(move |_| {
            let held = held.clone();
            async move {
                held.pass().await;
                "late"
            }
        })
        .await;
    let running = app.order().begin().await;
    app.ran(1).await;
    app.clock.advance(app.engine.policy().lease);
    let other = observing(Guarantee::Fenced).beside(&app).start(|_| async { "winner" }).await;
    is_plain(&other.order().send().await, 200, "winner");
    gate.open();
    is_plain(&running.reply().await, 200, "late");
    assert_eq!(counted(recorder), [("replay".to_owned(), 1)]);
}

#[tokio::test]
async fn unknown_expired_and_full_pass_too() {
    let (recorder, _listening) = listening();
    async fn stopped(seen: Seen) -> Response {
        let status = if seen.nth == 1 { StatusCode::REQUEST_TIMEOUT } else { StatusCode::OK };
        (status, format!("run {}", seen.nth)).into_response()
    }
    let app = observing(Guarantee::AtMostOnce).start(stopped).await;
    is_plain(&app.order().send().await, 408, "run 1");
    is_plain(&app.order().send().await, 200, "run 2");
    is_plain(&app.call("POST", "/orders").key("other").send().await, 200, "run 3");
    app.clock.advance(app.engine.policy().retention);
    is_plain(&app.call("POST", "/orders").key("other").send().await, 200, "run 4");
    let full = observing(Guarantee::Fenced).limits(|limits| limits.running_max = 0).start(nth).await;
    is_plain(&full.order().send().await, 201, "run 1 of 10 bytes");
    let expected =
        [("IDEMPOTENCY_KEY_EXPIRED", 1), ("IDEMPOTENCY_OUTCOME_UNKNOWN", 1), ("IDEMPOTENCY_QUOTA_EXCEEDED", 1)];
    assert_eq!(counted(recorder), expected.map(|(answer, count)| (answer.to_owned(), count)));
}

/// A service gets its run if there is one, and otherwise is told why there is none.
#[tokio::test]
async fn a_service_is_told_what_it_gets() {
    async fn told(seen: Seen) -> String {
        let extensions = &seen.parts.extensions;
        let why = extensions.get::<Unguarded>().map(|why| format!("{why:?}"));
        let run = extensions.get::<Run>().map(|run| format!("epoch {}", run.epoch().as_u64()));
        let headers = seen.parts.headers.keys().filter(|name| name.as_str().starts_with("idempotency-"));
        format!("{:?} {:?} {:?}", run, why, headers.map(|name| name.as_str()).collect::<Vec<_>>())
    }
    let setup = Setup::fenced();
    let layer = |layer: IdempotencyLayer| layer.observe().with_upstream_headers(UpstreamKey::Withheld);
    let app = setup.layer(layer).start(told).await;
    is_plain(&app.order().send().await, 200, "Some(\"epoch 1\") None [\"idempotency-key\"]");
    is_plain(&app.order().send().await, 200, "None Some(\"Observed\") [\"idempotency-key\"]");
}

#[tokio::test]
async fn axum_handlers_may_ask_for_what_may_not_be_there() {
    async fn handler(run: Option<Run>, Identity { key, .. }: Identity) -> String {
        format!("{} {}", run.is_some(), key.as_str())
    }
    let layer = IdempotencyLayer::fenced(keylatch::memory::Store::new(), ScopeFrom::header("x-user-id")).observe();
    let app = axum::Router::new().route("/orders", axum::routing::post(handler)).layer(layer);
    let (address, server) = crate::app::serve(app).await;
    let call = crate::wire::Call::new(address, "POST", "/orders").caller("alice").key("k");
    assert_eq!(call.send().await.body_text(), "true k");
    assert_eq!(call.send().await.body_text(), "false k");
    server.abort();
}

/// A run is not stopped, and a run without an answer gets the answer that it would get otherwise.
#[tokio::test]
async fn a_run_is_not_ended_and_a_panic_is_an_answer() {
    let gate = Gate::closed();
    let held = gate.clone();
    let setup = Setup::fenced().layer(|layer| layer.observe().with_run_max(Duration::from_millis(1)));
    let app = setup
        .start(move |_| {
            let held = held.clone();
            async move {
                held.pass().await;
                "made"
            }
        })
        .await;
    let running = app.order().begin().await;
    app.ran(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.open();
    is_plain(&running.reply().await, 200, "made");
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let app = observing(guarantee).start(|_| async { panic!("planned") as () }).await;
        app.order().send().await.is_problem(500, "HANDLER_FAILED");
    }
}

#[tokio::test]
async fn what_would_have_been_is_logged_with_the_record_and_without_the_key() {
    let log = Logs::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let app: App = observing(Guarantee::Fenced).start(nth).await;
    for body in ["a", "a", "b"] {
        app.call("POST", "/orders").key("a-secret-key").body(body).send().await;
    }
    let text = log.text();
    let id = app.records().await[0].id().to_string();
    let observed: Vec<_> = text.lines().filter(|line| line.contains("a layer that observes")).collect();
    assert_eq!(observed.len(), 2, "{text}");
    assert!(observed[0].contains("answer=\"replay\"") && observed[1].contains("answer=\"IDEMPOTENCY_KEY_REUSED\""));
    assert!(observed.iter().all(|line| line.contains(&id)), "{text}");
    assert!(!text.contains("a-secret-key") && !text.contains("alice"), "{text}");
}

#[tokio::test]
#[should_panic(expected = "cannot observe in `Atomic`")]
async fn atomic_cannot_be_observed() {
    let directory = TempDir::new().expect("a temporary directory");
    let store = sqlite::Store::open(directory.path().join("test.db")).await.expect("a new file opens");
    let _ = IdempotencyLayer::atomic(store, ScopeFrom::header("x-user-id")).observe();
}
