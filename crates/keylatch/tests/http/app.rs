//! A service behind the layer, on a socket.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Cleanup, Clock, Engine, Guarantee, Limits, Policy, Record, Timestamp, memory, sqlite};
use tempfile::TempDir;
pub(crate) use testing_contract::Seen;
use testing_contract::{Handler, Running, Subject, nested, records, routes};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::faulty::Faulty;

/// When the tests' clocks start: 2023-11-14T22:13:20Z.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// The options of a service.
pub(crate) struct Setup {
    guarantee: Guarantee,
    policy: Policy,
    limits: Limits,
    scope: ScopeFrom,
    layer: Box<dyn FnOnce(IdempotencyLayer) -> IdempotencyLayer + Send>,
    outside: fn(Router) -> Router,
    pub(crate) clock: Clock,
    /// The store with leases.
    pub(crate) store: Faulty,
}

impl Setup {
    pub(crate) fn new(guarantee: Guarantee) -> Self {
        let clock = Clock::manual(START);
        Self {
            guarantee,
            policy: Policy::default(),
            // So that only the store's time counts: the cache uses the machine's clock.
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

    /// Changes the layer, after what was changed before.
    pub(crate) fn layer(self, change: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer + Send + 'static) -> Self {
        let before = self.layer;
        Self { layer: Box::new(|layer| change(before(layer))), ..self }
    }

    /// Layers outside of Keylatch's.
    pub(crate) fn outside(self, outside: fn(Router) -> Router) -> Self {
        Self { outside, ..self }
    }

    /// Another process on the same store, if the store allows it.
    pub(crate) fn beside(self, other: &App) -> Self {
        Self { clock: other.clock.clone(), store: other.store.clone(), ..self }
    }

    /// Serves `handler` on every route.
    pub(crate) async fn start<R: IntoResponse>(self, handler: impl Handler<R>) -> App {
        let (routes, runs) = routes(handler);
        let (address, running) = self.serve(routes).await;
        App::new(address, runs, running)
    }

    async fn serve(self, routes: Router) -> (SocketAddr, Behind) {
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
        let app = nested(routes.layer(layer(IdempotencyLayer::new(engine.clone(), scope))));
        let (address, server) = serve(outside(app)).await;
        (address, Behind { engine, clock, store, server, _directory: directory })
    }
}

/// Serves `app` on a free port.
pub(crate) async fn serve(app: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
    (address, server)
}

/// A service under test.
pub(crate) type App = testing_contract::App<Behind>;

/// What stands behind it. It stops when this is dropped.
pub(crate) struct Behind {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) store: Faulty,
    server: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl Running for Behind {
    async fn records(&self) -> Vec<Record> {
        records(self.engine.store()).await
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The layer, with a change to every service.
#[derive(Clone, Copy)]
pub(crate) struct Layer(pub(crate) fn(Setup) -> Setup);

impl Layer {
    pub(crate) const AS_IT_IS: Self = Self(|setup| setup);
}

impl Subject for Layer {
    type Running = Behind;

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce]
    }

    async fn serve(&self, chosen: testing_contract::Setup, routes: Router) -> (SocketAddr, Behind) {
        let mut setup = Setup::new(chosen.guarantee);
        if let Some((retention, tombstone)) = chosen.kept {
            setup.policy = Policy { retention, tombstone, ..setup.policy };
        }
        if let Some(wait_max) = chosen.wait_max {
            setup.limits.wait_max = wait_max;
        }
        let setup = setup.layer(move |layer| layer_of(chosen, layer));
        (self.0)(setup).serve(routes).await
    }
}

fn layer_of(chosen: testing_contract::Setup, mut layer: IdempotencyLayer) -> IdempotencyLayer {
    if chosen.require_key {
        layer = layer.require_key();
    }
    if chosen.canonical_json {
        layer = layer.with_canonical_json();
    }
    if let Some(methods) = chosen.methods {
        layer = layer.with_methods(methods);
    }
    if let Some(name) = chosen.key_header {
        layer = layer.with_key_header(name);
    }
    if let Some(pointer) = chosen.key_pointer {
        layer = layer.with_key_pointer(pointer);
    }
    if let Some(bytes) = chosen.body_bytes_max {
        layer = layer.with_body_bytes_max(bytes);
    }
    if let Some(stall) = chosen.body_stall_max {
        layer = layer.with_body_pace(stall, 0);
    }
    if let Some(bytes) = chosen.answer_bytes_max {
        layer = layer.with_answer_bytes_max(bytes);
    }
    if let Some(time) = chosen.answer_end_max {
        layer = layer.with_answer_end_max(time);
    }
    if let Some(wait) = chosen.wait {
        layer = layer.with_wait(wait);
    }
    layer
}
