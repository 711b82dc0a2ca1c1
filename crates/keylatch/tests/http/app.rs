//! A service behind the layer, on a socket.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::store::PageRequest;
use keylatch::{Cleanup, Clock, Engine, Guarantee, Limits, Policy, Record, Timestamp, memory, sqlite};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::faulty::Faulty;
use crate::wire::Call;

/// When the tests' clocks start: 2023-11-14T22:13:20Z.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// What is chosen of a service.
pub(crate) struct Setup {
    guarantee: Guarantee,
    policy: Policy,
    limits: Limits,
    scope: ScopeFrom,
    layer: Box<dyn FnOnce(IdempotencyLayer) -> IdempotencyLayer>,
    outside: fn(Router) -> Router,
    pub(crate) clock: Clock,
    /// The store of leases.
    pub(crate) store: Faulty,
}

impl Setup {
    pub(crate) fn new(guarantee: Guarantee) -> Self {
        let clock = Clock::manual(START);
        Self {
            guarantee,
            policy: Policy::default(),
            // Only what the store says counts: the cache has the machine's clock.
            limits: Limits { cache_bytes_max: 0, ..Limits::default() },
            scope: ScopeFrom::header("x-user-id"),
            layer: Box::new(|layer| layer),
            outside: |app| app,
            store: Faulty::new(memory::Store::with_clock(clock.clone())),
            clock,
        }
    }

    pub(crate) fn fenced() -> Self {
        Self::new(Guarantee::Fenced)
    }

    pub(crate) fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    pub(crate) fn scope(self, scope: ScopeFrom) -> Self {
        Self { scope, ..self }
    }

    pub(crate) fn layer(self, change: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer + 'static) -> Self {
        Self { layer: Box::new(change), ..self }
    }

    /// What stands outside of the layer.
    pub(crate) fn outside(self, outside: fn(Router) -> Router) -> Self {
        Self { outside, ..self }
    }

    /// Another process on the same store, where there is one.
    pub(crate) fn beside(self, other: &App) -> Self {
        Self { clock: other.clock.clone(), store: other.store.clone(), ..self }
    }

    /// Serves `handler` on every route.
    pub(crate) async fn start<R: IntoResponse>(self, handler: impl Handler<R>) -> App {
        let Self { guarantee, policy, limits, scope, layer, outside, clock, store } = self;
        let mut directory = None;
        let engine = match guarantee {
            Guarantee::Fenced => Engine::fenced(store.clone(), policy, limits),
            Guarantee::AtMostOnce => Engine::at_most_once(store.clone(), policy, limits),
            Guarantee::Atomic => {
                let directory = directory.insert(TempDir::new().expect("a temporary directory"));
                let options = sqlite::Options::default().with_clock(clock.clone());
                let store = sqlite::Store::open_with(directory.path().join("test.db"), options).await;
                Engine::atomic(store.expect("a new file opens"), policy, limits)
            }
        };
        let engine = engine.expect("the policy can be kept").with_cleanup(Cleanup::off());
        let (run, runs) = watch::channel(0);
        let run = Arc::new(run);
        let handler = Arc::new(handler);
        let handle = any(move |request: Request| handle(run.clone(), handler.clone(), request));
        let routes = Router::new()
            .route("/orders", handle.clone())
            .route("/orders/{id}", handle.clone())
            .route("/refunds", handle)
            .layer(layer(IdempotencyLayer::new(engine.clone(), scope)));
        let app = Router::new().nest("/tenants/{tenant}", routes.clone()).merge(routes);
        let (address, server) = serve(outside(app)).await;
        App { address, engine, clock, store, runs, server, _directory: directory }
    }
}

/// Serves `app` on a free port.
pub(crate) async fn serve(app: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
    (address, server)
}

/// What a handler sees of a request.
pub(crate) struct Seen {
    /// The number of the run, from 1.
    pub(crate) nth: usize,
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
}

/// A handler that answers with something.
pub(crate) trait Handler<R>: Send + Sync + 'static {
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

async fn handle<R: IntoResponse>(
    run: Arc<watch::Sender<usize>>,
    handler: Arc<impl Handler<R>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("the layer has read it");
    let mut nth = 0;
    run.send_modify(|runs| {
        *runs += 1;
        nth = *runs;
    });
    handler.handle(Seen { nth, parts, body }).await.into_response()
}

/// A service under test. It stops when it is dropped.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) store: Faulty,
    runs: watch::Receiver<usize>,
    server: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl App {
    /// A request of alice's.
    pub(crate) fn call(&self, method: &'static str, target: &str) -> Call {
        Call::new(self.address, method, target).caller("alice")
    }

    /// A request of alice's to make an order, under the key `k`.
    pub(crate) fn order(&self) -> Call {
        self.call("POST", "/orders").key("k").json("{\"item\":1}")
    }

    /// How often the handler was called.
    pub(crate) fn runs(&self) -> usize {
        *self.runs.borrow()
    }

    /// Waits until the handler was called this often.
    pub(crate) async fn ran(&self, times: usize) {
        self.runs.clone().wait_for(|runs| *runs >= times).await.expect("the service is there");
    }

    /// All records.
    pub(crate) async fn records(&self) -> Vec<Record> {
        let page = PageRequest { limit: 1_000, ..PageRequest::default() };
        self.engine.store().list(page).await.expect("the store works").value.records
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}
