//! A service with the console in it, and an operator at a browser.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use futures_util::future::{BoxFuture, join_all};
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::inbox::{DeadLettersRequest, Inbox as _, LastMessage, PlaceName, Places as _, Reason, Step, Trouble};
use keylatch::outbox::{Event, Events, Published, Publisher, Relay, RunningRelay, Sent};
use keylatch::recent::{RECENT_RECORDS, Recent};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::store::{Owner, State};
use keylatch::{Engine, Fingerprint, Key, Limits, Policy, RecordId, Scope, Tx};
use keylatch_admin::{Access, Admin, Operator, Tokens};
use metrics_exporter_prometheus::PrometheusBuilder;
use tempfile::TempDir;
use testing_support::browser::{Browser, SHOWN_MAX};
use testing_support::eventually;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) const ALICE: &str = "operate-token-0123456789abcdef-alice";
pub(crate) const BOB: &str = "view-token-0123456789abcdef-bob-bob";

/// Whose requests they are, unless a test says otherwise.
pub(crate) const CALLER: &str = "ada@example.org";

/// A service with orders (each is one transaction) and payments (never twice), and the console at `/admin/console/`.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) access: Access,
    url: String,
    client: reqwest::Client,
    server: JoinHandle<()>,
    _directory: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("keylatch.db")).await.unwrap();
        let recent = Recent::new(RECENT_RECORDS);
        // Without a cache: it would give an answer for a while after an operator has taken it away.
        let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
        let orders = Engine::atomic(store.clone(), Policy::default(), limits).unwrap();
        let orders = orders.with_recent(recent.clone());
        let payments = Engine::at_most_once(store.clone(), Policy::default(), Limits::default()).unwrap();
        let payments = payments.with_recent(recent.clone());
        let guarded = |engine: &Engine| IdempotencyLayer::new(engine.clone(), ScopeFrom::header("x-user-id"));
        let access = Access::new(Some(tokens()), IpAddr::from(Ipv4Addr::LOCALHOST));
        let operator = Operator::of(&orders)
            .with_recent(recent)
            .with_outbox(Arc::new(store.clone()))
            .with_places(Arc::new(store.clone()));
        let admin = Admin::with_metrics(operator, access.clone(), recorder());
        let app = Router::new()
            .route("/api/orders", post(order).layer(guarded(&orders)))
            .route("/api/payments", post(pay).layer(guarded(&payments)))
            .nest("/admin", admin.router());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { store, access, url, client: reqwest::Client::new(), server, _directory: directory }
    }

    pub(crate) fn console(&self) -> String {
        format!("{}/admin/console/", self.url)
    }

    /// Sends a request of [`CALLER`], and returns its status and answer.
    pub(crate) async fn send(&self, path: &str, key: &str, body: &str) -> (u16, String) {
        self.send_as(CALLER, path, key, body).await
    }

    pub(crate) async fn send_as(&self, caller: &str, path: &str, key: &str, body: &str) -> (u16, String) {
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        let request = self.client.post(format!("{}{path}", self.url)).header("x-user-id", caller);
        let answer = request.header("idempotency-key", quoted).body(body.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// A payment whose outcome is unknown. Returns its record.
    pub(crate) async fn unknown_payment(&self, key: &str) -> RecordId {
        assert_eq!(self.send("/api/payments", key, "lost").await.0, 408);
        id(CALLER, "POST /api/payments", key)
    }

    /// So many records with an answer.
    pub(crate) async fn many_records(&self, records: usize) {
        const AT_ONCE: usize = 500;
        let engine = Engine::fenced(self.store.clone(), Policy::default(), Limits::default()).unwrap();
        for first in (0..records).step_by(AT_ONCE) {
            let scope = Scope::new(&format!("caller-{first}")).unwrap();
            let run = |nth: usize| {
                let key = Key::new(&format!("many-{nth}")).unwrap();
                engine.run(scope.clone(), key, Fingerprint::of([b"many".as_slice()]), async |_| Ok::<_, Infallible>(1))
            };
            let done = join_all((first..records.min(first + AT_ONCE)).map(run)).await;
            done.into_iter().for_each(|done| assert!(!done.unwrap().replayed));
        }
    }

    pub(crate) async fn epoch_of(&self, id: RecordId) -> Option<u64> {
        keylatch::store::Store::read(&self.store, id).await.unwrap().value.map(|record| record.epoch.as_u64())
    }

    pub(crate) async fn state_of(&self, id: RecordId) -> Option<State> {
        keylatch::store::Store::read(&self.store, id).await.unwrap().value.map(|record| record.state)
    }

    /// A message at `offset` that its consumer has given up.
    pub(crate) async fn dead_letter(&self, offset: i64, error: &str) {
        let (place, owner) = (place(), Owner::random());
        let taken = self.store.take(place, owner).await.unwrap().value;
        let ownership = taken.ownership().expect("it has just been taken");
        let digest = Fingerprint::of([error.as_bytes()]);
        let trouble = Trouble::new(digest, Reason::Rejected, error, 3).with_message("the message".into());
        let last = Some(LastMessage { offset, digest });
        let step = Step { from: taken.next, to: offset + 1, last };
        let _ = self.store.bury(ownership, offset, trouble, Some(step), Events::default()).await.unwrap();
    }

    /// Whether each dead letter is wanted.
    pub(crate) async fn wanted(&self) -> Vec<bool> {
        let page = DeadLettersRequest { limit: 100, ..DeadLettersRequest::default() };
        self.store.dead_letters(page).await.unwrap().value.items.into_iter().map(|letter| letter.wanted).collect()
    }

    /// Publishes events from now on.
    pub(crate) fn relay(&self) -> RunningRelay {
        Relay::new(self.store.clone(), Broker).start()
    }

    /// Publishes the events of all orders so far; those of an order for `nothing` are refused.
    pub(crate) async fn publish(&self) {
        let relay = self.relay();
        let outbox = async || keylatch::outbox::Outbox::backlog(&self.store, 100).await.unwrap().value.waiting;
        eventually(SHOWN_MAX, "all events to be handed out", async || outbox().await.at_least() == 0).await;
        relay.stop(SHOWN_MAX).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The place of the consumer.
pub(crate) fn place() -> PlaceName {
    PlaceName::new("inventory", "orders", 0).unwrap()
}

pub(crate) fn id(caller: &str, operation: &str, key: &str) -> RecordId {
    let scope = Scope::new(caller).unwrap().for_operation(operation).unwrap();
    RecordId::of(&scope, &Key::new(key).unwrap())
}

fn tokens() -> Tokens {
    Tokens::parse(&format!("operate:alice:{ALICE}\nview:bob:{BOB}\n")).unwrap()
}

/// The metrics of this process. A process has only one recorder, which all tests share.
fn recorder() -> metrics_exporter_prometheus::PrometheusHandle {
    use std::sync::LazyLock;
    static RECORDER: LazyLock<metrics_exporter_prometheus::PrometheusHandle> =
        LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());
    RECORDER.clone()
}

/// Takes an order, and tells of it.
async fn order(mut tx: Tx<Sqlite>, body: String) -> (StatusCode, HeaderMap, String) {
    tx.publish(Event::new("orders").with_key("order").with_value(body.clone())).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers.insert("etag", "\"<b>1</b>\"".parse().unwrap());
    (StatusCode::CREATED, headers, format!("{{\"ordered\":{body:?}}}"))
}

/// Pays. What became of a payment that is `lost` is not known.
async fn pay(body: String) -> (StatusCode, String) {
    if body == "lost" {
        (StatusCode::REQUEST_TIMEOUT, String::new())
    } else {
        (StatusCode::CREATED, format!("paid {body}"))
    }
}

/// A broker that refuses events of `nothing`.
#[derive(Debug)]
struct Broker;

impl Publisher for Broker {
    fn publish<'p>(&'p self, events: &'p [Published], _: Instant) -> BoxFuture<'p, Vec<Sent>> {
        let sent = |published: &Published| match published.event.value() {
            Some(value) if value.starts_with(b"nothing") => Sent::Refused("an order for nothing".to_owned()),
            _ => Sent::Acknowledged,
        };
        Box::pin(std::future::ready(events.iter().map(sent).collect()))
    }
}

/// An operator at the console.
pub(crate) async fn operator(world: &World, token: &str) -> Browser {
    let browser = Browser::open().await;
    browser.resize(1_280, 900).await;
    browser.go(&world.console()).await;
    sign_in(&browser, token).await;
    browser.shows("h1", "Now").await;
    browser
}

pub(crate) async fn sign_in(browser: &Browser, token: &str) {
    browser.fill("input[name=token]", token).await;
    browser.click("button[type=submit]").await;
}

/// Opens a page of the console.
pub(crate) async fn open(browser: &Browser, world: &World, page: &str, heading: &str) {
    browser.go(&format!("{}#/{page}", world.console())).await;
    browser.shows("h1", heading).await;
}
