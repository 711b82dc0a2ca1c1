//! Handlers that take longer than their layer allows.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::routing::post;
use axum::{Extension, Router};
use http::{Request, Response, StatusCode};
use keylatch::http::{GuardedBody, IdempotencyLayer, ScopeFrom};
use keylatch::sqlite::{self, Sqlite};
use keylatch::{Engine, Guarantee, Limits, Policy, Resolution, Resolved, Run, Tx, memory};
use tempfile::TempDir;
use tokio::sync::{Mutex, oneshot};
use tower::{Layer as _, Service, ServiceExt as _};

use crate::app::{Seen, Setup, serve};
use crate::common::until;
use crate::wire::Call;

/// How long handlers that never end may run. The others answer when they are first polled, even on a busy machine.
const RUN_MAX: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_run_that_takes_too_long_is_dropped_and_may_run_again_in_fenced() {
    let (tell, told) = oneshot::channel::<()>();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let handler = move |seen: Seen| {
        let tell = tell.clone();
        async move {
            let run = seen.parts.extensions.get::<Run>().expect("it is on a lease").clone();
            if seen.nth == 1 {
                let _held = tell.lock().await.take();
                run.step("charge", |_| async { Ok::<_, Infallible>("charged at first".to_owned()) })
                    .await
                    .expect("it is recorded");
                pending::<()>().await;
            }
            let step = run.step("charge", |_| async { Ok::<_, Infallible>("charged again".to_owned()) }).await;
            format!("attempt {}, {}", run.attempt(), step.expect("it is recorded"))
        }
    };
    let app = Setup::fenced().layer(|layer| layer.with_run_max(RUN_MAX)).start(handler).await;
    let problem = app.order().send().await.is_problem(500, "HANDLER_FAILED");
    assert_eq!(problem["retryable"], true);
    told.await.expect_err("the handler has been dropped");
    let again = app.order().send().await;
    assert_eq!((again.body_text(), again.replayed()), ("attempt 2, charged at first", false));
    assert!(app.order().send().await.replayed());
    assert_eq!(app.runs(), 2);
}

#[tokio::test]
async fn i1_a_run_that_takes_too_long_never_starts_again_in_at_most_once() {
    let handler = |seen: Seen| async move {
        if seen.nth == 1 {
            pending::<()>().await;
        }
        "made"
    };
    let app = Setup::new(Guarantee::AtMostOnce).layer(|layer| layer.with_run_max(RUN_MAX)).start(handler).await;
    for _ in 0..2 {
        app.order().send().await.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    }
    assert_eq!(app.runs(), 1);
    let id = app.records().await[0].id();
    assert_eq!(app.engine.resolve(id, Resolution::NeverHappened).await.unwrap(), Resolved::Applied);
    assert_eq!(app.order().send().await.body_text(), "made");
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_rolled_back_in_atomic() {
    async fn create(Extension(hangs): Extension<Option<Arc<AtomicUsize>>>, mut tx: Tx<Sqlite>) -> StatusCode {
        tx.run(|db| db.execute("INSERT INTO effect DEFAULT VALUES", [])).await.expect("it is written");
        if let Some(written) = hangs {
            written.fetch_add(1, Ordering::Relaxed);
            pending::<()>().await;
        }
        StatusCode::CREATED
    }
    let directory = TempDir::new().unwrap();
    let store = sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    store.execute(|db| db.execute_batch("CREATE TABLE effect (id INTEGER PRIMARY KEY)")).await.unwrap();
    let effects = async || store.execute(|db| db.query_row("SELECT count(*) FROM effect", [], |row| row.get(0))).await;
    let engine = Engine::atomic(store.clone(), Policy::default(), Limits::default()).unwrap();
    let layer = || IdempotencyLayer::new(engine.clone(), ScopeFrom::header("x-user-id"));
    let app = |layer: IdempotencyLayer, hangs: Option<Arc<AtomicUsize>>| {
        serve(Router::new().route("/orders", post(create)).layer(Extension(hangs)).layer(layer))
    };

    let written = Arc::new(AtomicUsize::new(0));
    let (address, server) = app(layer().with_run_max(RUN_MAX), Some(written.clone())).await;
    let call = Call::new(address, "POST", "/orders").caller("alice").key("k");
    // On a busy machine the time may be over before the handler has written.
    until("the handler has written", async || {
        assert_eq!(call.send().await.is_problem(500, "HANDLER_FAILED")["retryable"], true);
        written.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(effects().await.unwrap(), 0_i64);
    let (unlimited, other) = app(layer(), None).await;
    let reply = call.at(unlimited).send().await;
    assert_eq!((reply.status, reply.replayed(), effects().await.unwrap()), (201, false, 1));
    server.abort();
    other.abort();
}

/// A service that accepts no request.
#[derive(Clone)]
struct Full;

impl Service<Request<GuardedBody<Body>>> for Full {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<GuardedBody<Body>>) -> Self::Future {
        ready(Ok(Response::default()))
    }
}

/// Nothing has happened, and the key is free for any request, even in `AtMostOnce`.
#[tokio::test(start_paused = true)]
async fn a_handler_that_cannot_start_in_time_has_had_no_effect() {
    let engine = Engine::at_most_once(memory::Store::new(), Policy::default(), Limits::default()).unwrap();
    let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id"));
    let request = || {
        let request = Request::post("/").header("x-user-id", "alice").header("idempotency-key", "k");
        request.body(Body::empty()).unwrap()
    };
    // It is not asked whether it is ready: something outside may have reserved its place.
    let refused = layer.clone().with_run_max(RUN_MAX).layer(Full).call(request()).await.unwrap();
    assert_eq!(refused.status(), 500);
    let served =
        tower::service_fn(|_: Request<GuardedBody<Body>>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
    assert_eq!(layer.layer(served).oneshot(request()).await.unwrap().status(), 200);
}

#[test]
#[should_panic(expected = "some time to run")]
fn no_time_at_all_is_refused() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id"));
    let _ = layer.with_run_max(Duration::ZERO);
}
