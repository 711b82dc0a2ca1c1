//! A service behind Keylatch: what is chosen of it, and what a case sees of it.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Method;
use http::request::Parts;
use keylatch_core::store::{Inspect, PageRequest};
use keylatch_core::{Guarantee, Record, Timestamp};
use tokio::sync::watch;

use crate::wire::Call;

/// A way in which Keylatch stands before a service.
pub trait Subject: Sync {
    /// What runs then.
    type Running: Running;

    /// The guarantees that it can give.
    fn guarantees(&self) -> &'static [Guarantee];

    /// Serves `routes`, guarded as `setup` says, also below `/tenants/{tenant}` (see [`nested`]). Callers are told apart by
    /// `X-User-Id`.
    fn serve(&self, setup: Setup, routes: Router) -> impl Future<Output = (SocketAddr, Self::Running)> + Send;
}

/// A service that runs until this is dropped.
pub trait Running: Send + Sync {
    /// All its records.
    fn records(&self) -> impl Future<Output = Vec<Record>> + Send;

    /// The time on the clock of its store.
    fn now(&self) -> Timestamp;

    /// Lets this time pass on that clock.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// What is chosen of a service. What is `None` is as Keylatch has it by default.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is an option of the layer by the same name")]
pub struct Setup {
    pub guarantee: Guarantee,
    pub require_key: bool,
    pub canonical_json: bool,
    pub methods: Option<Vec<Method>>,
    pub key_header: Option<&'static str>,
    pub key_pointer: Option<&'static str>,
    pub body_bytes_max: Option<usize>,
    pub body_stall_max: Option<Duration>,
    pub answer_bytes_max: Option<usize>,
    pub answer_end_max: Option<Duration>,
    pub wait: Option<Duration>,
    pub wait_max: Option<Duration>,
    /// How long answers are kept, and tombstones after them.
    pub kept: Option<(Duration, Duration)>,
}

impl Setup {
    /// With this guarantee, and nothing else chosen.
    pub fn new(guarantee: Guarantee) -> Self {
        Self {
            guarantee,
            require_key: false,
            canonical_json: false,
            methods: None,
            key_header: None,
            key_pointer: None,
            body_bytes_max: None,
            body_stall_max: None,
            answer_bytes_max: None,
            answer_end_max: None,
            wait: None,
            wait_max: None,
            kept: None,
        }
    }

    /// `Fenced`, which every subject can give.
    pub fn fenced() -> Self {
        Self::new(Guarantee::Fenced)
    }

    /// Serves `handler` on every route, behind `at`.
    pub async fn start<S, H, R>(self, at: &S, handler: H) -> App<S::Running>
    where
        S: Subject,
        H: Handler<R>,
        R: IntoResponse,
    {
        let (routes, runs) = routes(handler);
        let (address, running) = at.serve(self, routes).await;
        App { address, runs, running }
    }
}

/// What a handler sees of a request.
#[derive(Debug)]
pub struct Seen {
    /// The number of the run, from 1.
    pub nth: usize,
    /// Its head.
    pub parts: Parts,
    /// Its whole body.
    pub body: Bytes,
}

/// A handler that answers with something.
pub trait Handler<R>: Send + Sync + 'static {
    /// Answers.
    fn handle(&self, seen: Seen) -> BoxFuture<'static, R>;
}

impl<R, H, F> Handler<R> for H
where
    H: Fn(Seen) -> F + Send + Sync + 'static,
    F: Future<Output = R> + Send + 'static,
{
    fn handle(&self, seen: Seen) -> BoxFuture<'static, R> {
        Box::pin(self(seen))
    }
}

/// The patterns of all paths on which a service is served, each its own name space of keys.
pub const PATTERNS: [&str; 6] = [
    "/orders",
    "/orders/{id}",
    "/refunds",
    "/tenants/{tenant}/orders",
    "/tenants/{tenant}/orders/{id}",
    "/tenants/{tenant}/refunds",
];

/// The routes of a service, and how often its handler was called.
pub fn routes<R: IntoResponse>(handler: impl Handler<R>) -> (Router, watch::Receiver<usize>) {
    let (run, runs) = watch::channel(0);
    let (run, handler) = (Arc::new(run), Arc::new(handler));
    let handle = any(move |request: Request| handle(run.clone(), handler.clone(), request));
    let routes =
        Router::new().route("/orders", handle.clone()).route("/orders/{id}", handle.clone()).route("/refunds", handle);
    (routes, runs)
}

/// These routes, and the same once more below `/tenants/{tenant}`.
pub fn nested(routes: Router) -> Router {
    Router::new().nest("/tenants/{tenant}", routes.clone()).merge(routes)
}

async fn handle<R: IntoResponse>(
    run: Arc<watch::Sender<usize>>,
    handler: Arc<impl Handler<R>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("it comes whole");
    let mut nth = 0;
    run.send_modify(|runs| {
        *runs += 1;
        nth = *runs;
    });
    handler.handle(Seen { nth, parts, body }).await.into_response()
}

/// All records in `store`.
///
/// # Panics
///
/// If it cannot be read.
pub async fn records(store: &(impl Inspect + ?Sized)) -> Vec<Record> {
    let page = PageRequest { limit: 1_000, ..PageRequest::default() };
    store.list(page).await.expect("the store works").value.records
}

/// A service under test. It stops when it is dropped.
#[derive(Debug)]
pub struct App<R> {
    address: SocketAddr,
    runs: watch::Receiver<usize>,
    running: R,
}

impl<R> App<R> {
    /// One that runs at `address`.
    pub fn new(address: SocketAddr, runs: watch::Receiver<usize>, running: R) -> Self {
        Self { address, runs, running }
    }

    /// Where its clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A request of alice's.
    pub fn call(&self, method: &'static str, target: &str) -> Call {
        Call::new(self.address, method, target).caller("alice")
    }

    /// A request of alice's to make an order, under the key `k`.
    pub fn order(&self) -> Call {
        self.call("POST", "/orders").key("k").json("{\"item\":1}")
    }

    /// How often the handler was called.
    pub fn runs(&self) -> usize {
        *self.runs.borrow()
    }

    /// Waits until the handler was called this often.
    ///
    /// # Panics
    ///
    /// If the service is gone.
    pub async fn ran(&self, times: usize) {
        self.runs.clone().wait_for(|runs| *runs >= times).await.expect("the service is there");
    }
}

impl<R: Running> App<R> {
    /// All its records.
    pub async fn records(&self) -> Vec<Record> {
        self.running.records().await
    }

    /// The time on the clock of its store.
    pub fn now(&self) -> Timestamp {
        self.running.now()
    }

    /// Lets this time pass on that clock.
    pub async fn pass(&self, time: Duration) {
        self.running.pass(time).await;
    }
}

/// What its subject offers besides.
impl<R> Deref for App<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.running
    }
}
