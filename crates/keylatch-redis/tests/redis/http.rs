//! What a client of the layer sees if Redis is down, hangs, or dies during a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::redis::{Options, Store};
use testing_support::eventually;
use testing_support::redis::{Config, Server};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::replicas::Pair;
use crate::support::connect_with;

const SOON: Duration = Duration::from_secs(10);

/// A service whose handler waits at a gate.
struct Service {
    router: Router,
    runs: Arc<AtomicUsize>,
    running: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Service {
    async fn new(server: &Server) -> Self {
        let options = Options::default().with_response_timeout(Duration::from_millis(300));
        Self::on(connect_with(server, options.with_connect_timeout(Duration::from_millis(300))).await)
    }

    fn on(store: Store) -> Self {
        let (runs, running, gate) = (Arc::default(), Arc::<Notify>::default(), Arc::new(Semaphore::new(0)));
        let handler = {
            let (runs, running, gate): (Arc<AtomicUsize>, _, _) = (Arc::clone(&runs), running.clone(), gate.clone());
            async move || {
                running.notify_one();
                gate.acquire().await.expect("it is never closed").forget();
                (StatusCode::CREATED, format!("run {}", runs.fetch_add(1, Ordering::Relaxed) + 1))
            }
        };
        let layer = IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id")).require_key();
        Self { router: Router::new().route("/", post(handler)).layer(layer), runs, running, gate }
    }

    async fn send(&self, key: &str) -> (StatusCode, String) {
        let request = Request::post("/").header("x-user-id", "u1").header("idempotency-key", key);
        let answer = self.router.clone().oneshot(request.body(Body::from("body")).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap())
    }
}

#[tokio::test]
async fn redis_that_is_down_is_a_503_at_once() {
    let mut server = Server::start(Config::new());
    let service = Service::new(&server).await;
    service.gate.add_permits(10);
    assert_eq!(service.send("before").await, (StatusCode::CREATED, "run 1".to_owned()));
    server.kill();
    let started = Instant::now();
    let keys: Vec<_> = (0..50).map(|at| format!("key-{at}")).collect();
    for (status, _) in join_all(keys.iter().map(|key| service.send(key))).await {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
    // This process still has the answer.
    assert_eq!(service.send("before").await, (StatusCode::CREATED, "run 1".to_owned()));
    assert_eq!(service.runs.load(Ordering::Relaxed), 1);
    server.start_again();
    assert_eq!(service.send("after").await, (StatusCode::CREATED, "run 2".to_owned()));
}

#[tokio::test]
async fn redis_that_stands_still_is_a_503_in_time() {
    let server = Server::start(Config::new());
    let service = Service::new(&server).await;
    service.gate.add_permits(10);
    server.pause();
    let started = Instant::now();
    assert_eq!(service.send("key").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    assert_eq!(service.runs.load(Ordering::Relaxed), 0);
    server.resume();
    assert_eq!(service.send("later").await, (StatusCode::CREATED, "run 1".to_owned()));
}

/// The server dies between a claim and its outcome, and restarts with its data: then the outcome is recorded.
#[tokio::test]
async fn i3_an_outcome_waits_for_redis_to_come_back() {
    let mut server = Server::start(Config::new().with("appendfsync", "always"));
    let service = Arc::new(Service::new(&server).await);
    let first = tokio::spawn({
        let service = service.clone();
        async move { service.send("key").await }
    });
    service.running.notified().await;
    server.kill();
    service.gate.add_permits(1);
    server.start_again();
    assert_eq!(first.await.unwrap(), (StatusCode::CREATED, "run 1".to_owned()));
    // Another process gets the same answer from Redis.
    let other = Service::new(&server).await;
    assert_eq!(other.send("key").await, (StatusCode::CREATED, "run 1".to_owned()));
    assert_eq!(other.runs.load(Ordering::Relaxed), 0);
}

/// The replica that each write waits for is gone: running requests end once, and nothing begins.
#[tokio::test]
async fn i1_nothing_runs_twice_while_the_replica_is_gone() {
    let mut pair = Pair::start();
    let store = pair.connect_whole().await;
    let service = Arc::new(Service::on(store.clone()));
    let first = tokio::spawn({
        let service = service.clone();
        async move { service.send("begun").await }
    });
    service.running.notified().await;
    pair.lose_replica();
    assert_eq!(service.send("new").await.0, StatusCode::SERVICE_UNAVAILABLE);
    service.gate.add_permits(10);
    eventually(SOON, "the end of the run", async || service.runs.load(Ordering::Relaxed) == 1).await;
    // Another process sees the run, and does not know whether its outcome will last.
    let other = Service::on(pair.connect().await);
    other.gate.add_permits(10);
    assert_eq!(other.send("begun").await.0, StatusCode::SERVICE_UNAVAILABLE);
    pair.find_replica(&store).await;
    let first = timeout(SOON, first).await.expect("the outcome is recorded").unwrap();
    assert_eq!(first, (StatusCode::CREATED, "run 1".to_owned()));
    assert_eq!(other.send("begun").await, (StatusCode::CREATED, "run 1".to_owned()));
    assert_eq!(other.runs.load(Ordering::Relaxed), 0);
    assert_eq!(service.send("begun").await, (StatusCode::CREATED, "run 1".to_owned()));
    assert_eq!(service.runs.load(Ordering::Relaxed), 1, "and what was refused did not run");
}
