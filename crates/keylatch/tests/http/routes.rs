//! Behind a router other than axum's: the pattern that it reports is the route.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use keylatch::http::{GuardedBody, IDEMPOTENT_REPLAYED, IdempotencyLayer, Route, ScopeFrom};
use keylatch::store::PageRequest;
use keylatch::{Engine, Limits, Policy, Run, memory};
use matchit::Router;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceExt};

type Guarded = BoxCloneSyncService<Request<Full<Bytes>>, Response<GuardedBody<Full<Bytes>>>, Infallible>;

/// A router as in a proxy: it matches a path, reports the pattern, and passes the request on.
#[derive(Clone)]
struct Patterns {
    router: Arc<Router<&'static str>>,
    guarded: Guarded,
}

impl Service<Request<Full<Bytes>>> for Patterns {
    type Response = Response<GuardedBody<Full<Bytes>>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.guarded.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Full<Bytes>>) -> Self::Future {
        let found = self.router.at(request.uri().path()).map(|found| *found.value);
        if let Ok(pattern) = found {
            request.extensions_mut().insert(Route::new(pattern));
        }
        let mut guarded = self.guarded.clone();
        async move { guarded.ready().await?.call(request).await }.boxed()
    }
}

struct App {
    service: Patterns,
    engine: Engine,
    runs: Arc<AtomicUsize>,
}

impl App {
    fn new(patterns: &[&'static str], limits: Limits) -> Self {
        let engine = Engine::fenced(memory::Store::new(), Policy::default(), limits).expect("the policy can be kept");
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let handler = tower::service_fn(move |request: Request<GuardedBody<Full<Bytes>>>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let operation = request.extensions().get::<Run>().expect("a run").scope().operation().to_owned();
            async { Ok::<_, Infallible>(Response::new(Full::from(operation))) }
        });
        let layer = IdempotencyLayer::new(engine.clone(), ScopeFrom::header("x-user-id"));
        let guarded = BoxCloneSyncService::new(layer.layer(handler));
        let mut router = Router::new();
        patterns.iter().for_each(|pattern| router.insert(*pattern, *pattern).expect("a pattern"));
        Self { service: Patterns { router: Arc::new(router), guarded }, engine, runs }
    }

    /// The status, whether it was replayed, and the body.
    async fn post(&self, path: &str, key: &str) -> (StatusCode, bool, String) {
        let request = Request::post(path).header("x-user-id", "alice").header("idempotency-key", key);
        let request = request.body(Full::default()).expect("a request");
        let answer = self.service.clone().oneshot(request).await.expect("it cannot fail");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("it is whole").to_bytes();
        let replayed = parts.headers.contains_key(IDEMPOTENT_REPLAYED);
        (parts.status, replayed, String::from_utf8_lossy(&body).into_owned())
    }
}

#[tokio::test]
async fn the_pattern_is_the_operation_and_each_pattern_has_its_own_keys() {
    let app = App::new(&["/orders", "/orders/{id}/pay", "/files/{*path}"], Limits::default());
    let rows = [
        ("/orders", "POST /orders"),
        ("/orders/1/pay", "POST /orders/{}/pay"),
        ("/files/a/b", "POST /files/{*}"),
        ("/elsewhere", "POST *"),
    ];
    for (nth, (path, operation)) in rows.into_iter().enumerate() {
        assert_eq!(app.post(path, "k").await, (StatusCode::OK, false, operation.to_owned()));
        assert_eq!(app.post(path, "k").await, (StatusCode::OK, true, operation.to_owned()));
        assert_eq!(app.runs.load(Ordering::Relaxed), nth + 1);
    }
}

/// So that a quota of records applies to a pattern, and not to each path under it.
#[tokio::test]
async fn all_paths_of_a_pattern_are_one_scope() {
    let app = App::new(&["/orders/{id}/pay"], Limits::default());
    for order in 0..20 {
        assert_eq!(app.post(&format!("/orders/{order}/pay"), &format!("k-{order}")).await.0, StatusCode::OK);
    }
    let page = PageRequest { limit: 1_000, ..PageRequest::default() };
    let records = app.engine.store().list(page).await.expect("the store works").value.records;
    assert_eq!(records.len(), 20);
    assert!(records.iter().all(|record| record.scope == records[0].scope));
    let (status, replayed, body) = app.post("/orders/1/pay", "k-0").await;
    assert_eq!((status, replayed), (StatusCode::UNPROCESSABLE_ENTITY, false), "{body}");
    assert!(body.contains("IDEMPOTENCY_KEY_REUSED"));
}
