//! Abandoned runs, finished without their clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use http_body_util::BodyExt;
use keylatch::http::{Completer, IdempotencyLayer, Round, ScopeFrom, SealingKey};
use keylatch::{Engine, Key, Run};
use tower::ServiceExt;

use crate::{Fixture, dies_while};

const SECRET: [u8; 32] = [7; 32];

/// Counts its runs; the first never ends.
#[derive(Clone)]
struct Counted {
    runs: Arc<AtomicU32>,
    started: tokio::sync::mpsc::UnboundedSender<()>,
}

async fn handle(State(counted): State<Counted>, run: Run, key: Key, headers: HeaderMap, body: String) -> String {
    let first = counted.runs.fetch_add(1, Ordering::SeqCst) == 0;
    let _ = counted.started.send(());
    if first {
        std::future::pending::<()>().await;
    }
    let token = headers["authorization"].to_str().unwrap();
    format!("{} {} {} {token} {body}", key.as_str(), run.attempt(), run.after_crash())
}

struct Service {
    layer: IdempotencyLayer,
    handlers: Router,
}

impl Service {
    fn new(engine: Engine, sealing: Option<SealingKey>, counted: Counted) -> Self {
        let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")).require_key();
        let layer = if let Some(key) = sealing { layer.with_stored_requests(key) } else { layer };
        Self { layer, handlers: Router::new().route("/jobs", post(handle)).with_state(counted) }
    }

    fn completer(&self) -> Completer<Router> {
        self.layer.completer(self.handlers.clone())
    }

    async fn send(&self) -> (StatusCode, bool, String) {
        let request = Request::post("/jobs?x=1").header("idempotency-key", "k1").header("x-user-id", "ada");
        let request = request.header("authorization", "token").body(Body::from("the body")).unwrap();
        let response = self.handlers.clone().layer(self.layer.clone()).oneshot(request).await.unwrap();
        let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, replayed, String::from_utf8(body.to_vec()).unwrap())
    }
}

/// A run is begun by a process that dies; then `test` runs in another.
fn abandoned<F>(
    engine: fn(&Fixture) -> Engine,
    first: Option<SealingKey>,
    second: Option<SealingKey>,
    test: fn(Service, Fixture) -> F,
) where
    F: Future<Output = u32>,
{
    let fixture = Fixture::new();
    let runs = Arc::new(AtomicU32::new(0));
    let (started, mut has_started) = tokio::sync::mpsc::unbounded_channel();
    let counted = Counted { runs: runs.clone(), started };
    let dying = Service::new(engine(&fixture), first, counted.clone());
    dies_while(async move {
        tokio::spawn(async move { dying.send().await });
        has_started.recv().await.unwrap();
    });
    let service = Service::new(engine(&fixture), second, counted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let expected = runtime.block_on(test(service, fixture));
    assert_eq!(runs.load(Ordering::SeqCst), expected, "how often the handler ran");
}

fn key() -> Option<SealingKey> {
    Some(SealingKey::new(&SECRET))
}

#[test]
fn an_abandoned_run_is_finished_and_its_client_gets_the_answer() {
    abandoned(Fixture::fenced, key(), key(), |service, fixture| async move {
        let mut completer = service.completer();
        assert_eq!(completer.round::<Body, _>().await.unwrap(), Round::default(), "its lease has not ended");
        fixture.lease_ends();
        let finished = Round { run: 1, recorded: 1, skipped: 0 };
        assert_eq!(completer.round::<Body, _>().await.unwrap(), finished);
        assert_eq!(completer.round::<Body, _>().await.unwrap(), Round::default(), "there is nothing left to do");
        let answer = (StatusCode::OK, true, "k1 2 true token the body".to_owned());
        assert_eq!(service.send().await, answer);
        2
    });
}

#[test]
fn a_request_that_was_not_stored_or_cannot_be_opened_waits_for_its_client() {
    for (first, second) in [(None, key()), (key(), Some(SealingKey::new(&[8; 32]))), (key(), None)] {
        abandoned(Fixture::fenced, first, second, |service, fixture| async move {
            fixture.lease_ends();
            let skipped = Round { run: 0, recorded: 0, skipped: 1 };
            assert_eq!(service.completer().round::<Body, _>().await.unwrap(), skipped);
            assert_eq!(service.send().await.0, StatusCode::OK);
            2
        });
    }
}

#[test]
fn what_must_never_start_twice_is_not_finished() {
    abandoned(Fixture::at_most_once, key(), key(), |service, fixture| async move {
        fixture.lease_ends();
        assert_eq!(service.completer().round::<Body, _>().await.unwrap(), Round::default());
        assert_eq!(service.send().await.0, StatusCode::CONFLICT);
        1
    });
}
