//! Without axum: any tower service, with its own bodies and errors.

use std::convert::Infallible;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, BoxStream};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use keylatch::http::{GuardedBody, IDEMPOTENT_REPLAYED, IdempotencyLayer, ScopeFrom};
use keylatch::store::Store;
use keylatch::{Guarantee, Key, Run, memory, sqlite};
use pin_project_lite::pin_project;
use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::PollSemaphore;
use tower::{Layer, Service, ServiceExt};

use crate::common::faulty::{Fault, Faulty, Op};

/// An error of the user's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Broken(&'static str);

pin_project! {
    /// A body that cannot be moved once it is polled, and whose errors are the user's own.
    struct Pinned {
        #[pin]
        body: Full<Bytes>,
        broken: bool,
        #[pin]
        pinned: PhantomPinned,
    }
}

impl Pinned {
    fn new(bytes: &'static str) -> Self {
        Self { body: Full::from(bytes), broken: false, pinned: PhantomPinned }
    }
}

impl Body for Pinned {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.broken {
            return Poll::Ready(Some(Err(Broken("the body broke"))));
        }
        self.project().body.poll_frame(cx).map_err(|never| match never {})
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A service that must be asked whether it is ready, and answers with what it was sent.
#[derive(Debug, Default)]
struct Echo {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

/// A clone is not ready, as the contract of tower says.
impl Clone for Echo {
    fn clone(&self) -> Self {
        Self { ready: false, calls: self.calls.clone() }
    }
}

impl Service<Request<GuardedBody<Pinned>>> for Echo {
    type Response = Response<Pinned>;
    type Error = Broken;
    type Future = BoxFuture<'static, Result<Response<Pinned>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<GuardedBody<Pinned>>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called before it was ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        let shown = format!("{request:?}");
        async move {
            assert!(!shown.contains("secret"), "{shown}");
            let body = request.into_body().collect().await?.to_bytes();
            let mut answer = Pinned::new("");
            answer.body = Full::new(body);
            Ok(Response::builder().status(StatusCode::CREATED).body(answer).expect("an answer"))
        }
        .boxed()
    }
}

fn request(method: &str, key: Option<&str>, body: Pinned) -> Request<Pinned> {
    let request = Request::builder().method(method).uri("/orders");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    request.body(body).expect("a request")
}

async fn text<B: Body<Data = Bytes, Error: std::fmt::Debug>>(body: B) -> String {
    String::from_utf8(body.collect().await.expect("it is whole").to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn bodies_and_errors_may_be_of_any_type() {
    let echo = Echo::default();
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::shared("one"));
    let mut service = layer.layer(echo.clone());
    // Unguarded, because of the method or because there is no key.
    for (method, key) in [("GET", Some("k")), ("POST", None)] {
        let answer = service.ready().await.unwrap().call(request(method, key, Pinned::new("secret"))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(text(answer.into_body()).await, "secret");
    }
    for replayed in [false, true] {
        let sent = request("POST", Some("k"), Pinned::new("secret"));
        let answer = service.ready().await.unwrap().call(sent).await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(answer.headers().contains_key("idempotent-replayed"), replayed);
        assert_eq!(answer.body().size_hint().exact(), Some(6));
        assert!(!format!("{answer:?}").contains("secret"));
        assert_eq!(text(answer.into_body()).await, "secret");
    }
    let other = service.ready().await.unwrap().call(request("POST", Some("k"), Pinned::new("other"))).await.unwrap();
    assert_eq!(other.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(echo.calls.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_request_body_that_breaks_is_400_whatever_its_error() {
    let echo = Echo::default();
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::shared("one"));
    let broken = request("POST", Some("k"), Pinned { broken: true, ..Pinned::new("") });
    let answer = layer.layer(echo.clone()).oneshot(broken).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(text(answer.into_body()).await.contains("REQUEST_INCOMPLETE"));
    assert_eq!(echo.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_service_that_was_ready_takes_the_request_that_bypasses_the_store() {
    let store = Faulty::new(memory::Store::new());
    store.always(Op::Claim, Fault::Unavailable);
    let echo = Echo::default();
    let service = IdempotencyLayer::fenced(store, ScopeFrom::shared("one")).fail_open().layer(echo);
    let answer = service.oneshot(request("POST", Some("k"), Pinned::new("body"))).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["idempotency-status"], "bypassed");
    assert_eq!(text(answer.into_body()).await, "body");
}

/// An error of the service is not an answer: the same request may run again, except where it must not start twice.
#[tokio::test]
async fn an_error_of_the_service_is_handed_on() {
    for (guarantee, expected) in [(Guarantee::Fenced, 2), (Guarantee::AtMostOnce, 1)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let inner = tower::service_fn(move |_: Request<GuardedBody<Pinned>>| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Err::<Response<Pinned>, _>(Broken("it broke")) }
        });
        let (store, scope) = (memory::Store::new(), ScopeFrom::shared("one"));
        let layer = match guarantee {
            Guarantee::AtMostOnce => IdempotencyLayer::at_most_once(store, scope),
            _ => IdempotencyLayer::fenced(store, scope),
        };
        let mut service = layer.layer(inner);
        let sent = || request("POST", Some("k"), Pinned::new(""));
        assert_eq!(service.ready().await.unwrap().call(sent()).await.unwrap_err(), Broken("it broke"));
        match service.ready().await.unwrap().call(sent()).await {
            Err(error) => assert_eq!((error, guarantee), (Broken("it broke"), Guarantee::Fenced)),
            Ok(answer) => {
                assert_eq!((answer.status(), guarantee), (StatusCode::CONFLICT, Guarantee::AtMostOnce));
                assert!(text(answer.into_body()).await.contains("IDEMPOTENCY_OUTCOME_UNKNOWN"));
            }
        }
        assert_eq!(calls.load(Ordering::Relaxed), expected);
    }
}

/// A service with one place, which is taken when it is asked whether it is ready, like tower's `ConcurrencyLimit`.
struct OnePlace {
    places: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
}

impl Clone for OnePlace {
    fn clone(&self) -> Self {
        Self { places: self.places.clone(), place: None }
    }
}

type Sent = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

impl Service<Request<GuardedBody<Sent>>> for OnePlace {
    type Response = Response<Pinned>;
    type Error = Broken;
    type Future = BoxFuture<'static, Result<Response<Pinned>, Broken>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.place.is_none() {
            self.place = ready!(self.places.poll_acquire(context));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<GuardedBody<Sent>>) -> Self::Future {
        let place = self.place.take().expect("it was found ready");
        async move {
            drop(place);
            Ok(Response::new(Pinned::new("done")))
        }
        .boxed()
    }
}

/// A client that sends slowly, or has not sent anything, takes no place from requests that run.
#[tokio::test]
async fn a_place_inside_is_not_taken_while_a_body_is_read() {
    let places = Arc::new(Semaphore::new(1));
    let inner = OnePlace { places: PollSemaphore::new(places.clone()), place: None };
    let mut service = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::shared("one")).layer(inner);
    let request = |key: &str, body: BoxStream<'static, _>| {
        Request::post("/orders").header("idempotency-key", key).body(StreamBody::new(body)).expect("a request")
    };
    let mut slow = service.ready().await.unwrap().call(request("slow", stream::pending().boxed()));
    assert!(futures_util::poll!(&mut slow).is_pending());
    let asked = async { service.ready().await.unwrap().call(request("quick", stream::empty().boxed())).await };
    let answer = timeout(Duration::from_secs(20), asked).await.expect("there is a place").unwrap();
    assert_eq!(text(answer.into_body()).await, "done");
    assert_eq!(places.available_permits(), 1);
}

/// Ready when the layer asks for itself, and broken when it asks for the first run.
#[derive(Debug, Clone)]
struct BrokenOnce(Arc<AtomicUsize>);

impl Service<Request<GuardedBody<Pinned>>> for BrokenOnce {
    type Response = Response<Pinned>;
    type Error = Broken;
    type Future = std::future::Ready<Result<Response<Pinned>, Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let asked = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        Poll::Ready(if asked == 2 { Err(Broken("no place")) } else { Ok(()) })
    }

    fn call(&mut self, _: Request<GuardedBody<Pinned>>) -> Self::Future {
        std::future::ready(Ok(Response::new(Pinned::new("done"))))
    }
}

/// Nothing has started then, so even `AtMostOnce` lets the same request run.
#[tokio::test]
async fn a_service_that_does_not_become_ready_has_not_run() {
    let scope = || ScopeFrom::shared("one");
    let directory = TempDir::new().unwrap();
    let database = sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    let layers = [
        IdempotencyLayer::atomic(database, scope()),
        IdempotencyLayer::fenced(memory::Store::new(), scope()),
        IdempotencyLayer::at_most_once(memory::Store::new(), scope()),
    ];
    for layer in layers {
        let mut service = layer.layer(BrokenOnce(Arc::default()));
        let sent = || request("POST", Some("k"), Pinned::new(""));
        assert_eq!(service.ready().await.unwrap().call(sent()).await.unwrap_err(), Broken("no place"));
        let answer = service.ready().await.unwrap().call(sent()).await.unwrap();
        assert_eq!((answer.status(), answer.headers().get("idempotent-replayed")), (StatusCode::OK, None));
        assert_eq!(text(answer.into_body()).await, "done");
    }
}

/// What axum's extractors read is in the request's extensions for any other service.
#[tokio::test]
async fn a_service_without_axum_finds_its_run() {
    let inner = tower::service_fn(|request: Request<GuardedBody<Pinned>>| async move {
        let run = request.extensions().get::<Run>().expect("a run");
        assert_eq!((run.attempt(), run.epoch().as_u64()), (1, 1));
        assert_eq!(run.key(), &Key::new("k").unwrap());
        assert_eq!((run.scope().caller(), run.scope().operation()), ("one", "POST *"));
        Ok::<_, Broken>(Response::new(Pinned::new("done")))
    });
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::shared("one"));
    let answer = layer.layer(inner).oneshot(request("POST", Some("k"), Pinned::new(""))).await.unwrap();
    assert_eq!(text(answer.into_body()).await, "done");
}

#[tokio::test]
async fn a_store_may_be_chosen_at_run_time() {
    let directory = TempDir::new().unwrap();
    let database = sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    let stores: [Arc<dyn Store>; 2] = [Arc::new(memory::Store::new()), Arc::new(database)];
    for store in stores {
        let layers = [
            IdempotencyLayer::fenced(store.clone(), ScopeFrom::shared("fenced")),
            IdempotencyLayer::at_most_once(store, ScopeFrom::shared("at most once")),
        ];
        for layer in layers {
            let echo = Echo::default();
            let mut service = layer.layer(echo.clone());
            for replayed in [false, true] {
                let sent = request("POST", Some("k"), Pinned::new("body"));
                let answer = service.ready().await.unwrap().call(sent).await.unwrap();
                assert_eq!(answer.headers().contains_key(IDEMPOTENT_REPLAYED), replayed);
                assert_eq!(text(answer.into_body()).await, "body");
            }
            assert_eq!(echo.calls.load(Ordering::Relaxed), 1);
        }
    }
}
