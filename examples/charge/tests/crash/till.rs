//! A place to pay: the service's program and its records, its customers, the provider, and the judge.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use testing_history::{Answer, Guarantee, Log, Summary, What, judge};
use testing_support::client::{Client, Request, Targets};
use testing_support::server::{Program, Server};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::place::Place;

/// How long something may take that is done at once, or as soon as a lease has ended.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A place for the records, the program that serves from it, customers that remember everything, and a provider.
pub(crate) struct Till {
    _place: Place,
    pub(crate) program: Program,
    pub(crate) targets: Targets,
    pub(crate) log: Log,
    pub(crate) client: Client,
    pub(crate) provider: Arc<Provider>,
}

impl Till {
    pub(crate) async fn new() -> Self {
        let place = Place::new().await;
        let (targets, log) = (Targets::default(), Log::default());
        let provider = Arc::new(Provider::new(log.clone()));
        let url = provider.clone().serve().await;
        let program = place.of(Program::new(env!("CARGO_BIN_EXE_charge"))).env("PAYMENTS", url);
        let client = Client::new(targets.clone(), log.clone(), payment_in);
        Self { _place: place, program, targets, log, client, provider }
    }

    /// Starts a server, to which the customers turn from now on.
    pub(crate) async fn open(&self) -> Server {
        let server = start(&self.program).await;
        self.targets.set([server.url()]);
        server
    }

    /// Starts a server that dies, or stands still, when it first passes `point`.
    pub(crate) async fn open_to_fail(&self, point: &str, action: &str) -> Server {
        let server = start(&self.program.clone().env("KEYLATCH_FAILPOINT", format!("{point}:1:{action}"))).await;
        self.targets.set([server.url()]);
        server
    }

    /// Asks for all of these at once, until each has its final answer.
    pub(crate) async fn insist_on_all(&self, requests: &[Request]) -> Vec<Answer> {
        let mut asking = JoinSet::new();
        for (place, request) in requests.iter().cloned().enumerate() {
            let client = self.client.clone();
            asking.spawn(async move {
                let answer = client.insist(&request, SOON, SOON).await;
                (place, answer.unwrap_or_else(|gave_up| panic!("{}: {gave_up}", request.key)))
            });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// What is asked of every test at its end: all that every customer saw makes sense, and each charge that was
    /// answered was paid once, and no other.
    pub(crate) fn judge(&self) -> Summary {
        let summary = judge(&self.log.events(), Guarantee::Fenced);
        assert!(summary.effects > 0 && summary.effects == summary.answered_keys, "one payment each: {summary}");
        assert_eq!(summary.keys, summary.answered_keys, "nobody was left without an answer: {summary}");
        assert_eq!(summary.failed, 0, "the server failed: {summary}");
        summary
    }
}

async fn start(program: &Program) -> Server {
    program.start().await.unwrap_or_else(|error| panic!("{error}"))
}

/// A charge under `key`. What is charged follows from the key.
pub(crate) fn charge(key: impl Into<String>) -> Request {
    let (scope, key) = ("customer".to_owned(), key.into());
    let body = json!({ "card": format!("{scope}/{key}"), "cents": 1999 });
    Request { path: "/charges", scope, key, body: Bytes::from(body.to_string()), wait_s: None }
}

/// `payment 7: 1999 cents` is about `payment 7`.
fn payment_in(answer: &Answer) -> Option<String> {
    let text = std::str::from_utf8(&answer.body).ok()?;
    text.starts_with("payment ").then(|| text.split(':').next().unwrap_or_default().to_owned())
}

/// A payment provider: pays once for each key, as real ones do, and notes each payment and counts each call.
pub(crate) struct Provider {
    log: Log,
    payments: Mutex<HashMap<String, String>>,
    pub(crate) calls: AtomicUsize,
    /// Whether it pays and then says nothing until it [speaks](Self::speak).
    pub(crate) silent: AtomicBool,
    pub(crate) speak: Notify,
    /// Something was paid.
    pub(crate) paid: Notify,
}

impl Provider {
    fn new(log: Log) -> Self {
        Self {
            log,
            payments: Mutex::default(),
            calls: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            speak: Notify::new(),
            paid: Notify::new(),
        }
    }

    async fn serve(self: Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let app = Router::new().route("/", post(pay)).with_state(self);
        drop(tokio::spawn(async { axum::serve(listener, app).await }));
        url
    }
}

async fn pay(State(provider): State<Arc<Provider>>, headers: HeaderMap, Json(charge): Json<Value>) -> String {
    let key = headers["idempotency-key"].to_str().expect("a derived key is text").to_owned();
    provider.calls.fetch_add(1, Ordering::Relaxed);
    let receipt = {
        let mut payments = provider.payments.lock();
        let payment = format!("payment {}", payments.len() + 1);
        payments
            .entry(key)
            .or_insert_with(|| {
                let (scope, key) =
                    charge["card"].as_str().and_then(|card| card.split_once('/')).expect("it is a charge");
                provider.log.note(scope, key, What::Effect { effect: payment.clone(), epoch: None });
                format!("{payment}: {} cents", charge["cents"])
            })
            .clone()
    };
    provider.paid.notify_one();
    if provider.silent.load(Ordering::Relaxed) {
        provider.speak.notified().await;
    }
    receipt
}
