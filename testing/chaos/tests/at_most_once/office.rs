//! A post office: the service's program and directory, its customers, an operator, and the judge.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use testing_history::ledger::{self, Ledger};
use testing_history::{Answer, Event, Guarantee, Log, Reply, Summary, What, judge};
use testing_support::client::{Client, Request, Targets};
use testing_support::records;
use testing_support::server::{Program, Server};

use crate::place::Place;

/// How long something may take that should happen at once, or as soon as a lease has ended.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Office {
    dir: TempDir,
    place: Place,
    pub(crate) program: Program,
    pub(crate) targets: Targets,
    pub(crate) log: Log,
    pub(crate) client: Client,
}

impl Office {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let place = Place::new(dir.path()).await;
        let program = place.of(Program::new(env!("CARGO_BIN_EXE_letters")).env("DATA_DIR", dir.path()));
        let (targets, log) = (Targets::default(), Log::default());
        let client = Client::new(targets.clone(), log.clone(), letter_in);
        Self { dir, place, program, targets, log, client }
    }

    /// Starts a server, which the customers use from now on.
    pub(crate) async fn open(&self) -> Server {
        self.start(&self.program).await
    }

    /// Starts a server that dies, or is paused, when it first passes `point`.
    pub(crate) async fn open_to_fail(&self, point: &str, action: &str) -> Server {
        self.start(&self.program.clone().env("KEYLATCH_FAILPOINT", format!("{point}:1:{action}"))).await
    }

    async fn start(&self, program: &Program) -> Server {
        let server = program.start().await.unwrap_or_else(|error| panic!("{error}"));
        self.targets.set([server.url()]);
        server
    }

    /// All starts and effects so far.
    pub(crate) fn ledger(&self) -> Vec<Event> {
        ledger::read(&self.ledger_path()).expect("the ledger is whole")
    }

    fn ledger_path(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// Whether a run of `request` has started.
    pub(crate) fn has_started(&self, request: &Request) -> bool {
        self.ledger().iter().any(|event| event.key == request.key && matches!(event.what, What::Start { .. }))
    }

    fn is_posted(&self, request: &Request) -> bool {
        self.ledger().iter().any(|event| event.key == request.key && matches!(event.what, What::Effect { .. }))
    }

    /// An operator, who can see which letters were posted, resolves the run of `request` if its outcome is unknown. A
    /// letter that was begun and not posted is posted by the operator.
    pub(crate) async fn resolve(&self, request: &Request) -> Option<u16> {
        let begun = self.has_started(request);
        if begun && !self.is_posted(request) {
            let what = What::Effect { effect: letter_of(request), epoch: None };
            let ledger = Ledger::open(&self.ledger_path()).expect("there is a ledger");
            ledger.append(&Event::now(&request.scope, &request.key, what)).expect("it can be written");
        }
        let letter = begun.then(|| letter_of(request));
        let word = json!({ "scope": request.scope, "key": request.key, "letter": letter });
        self.client.post("/resolve", &word, SOON).await.ok().map(|raw| raw.status)
    }

    pub(crate) async fn insist(&self, request: &Request) -> Answer {
        let answer = self.client.insist(request, SOON, SOON).await;
        answer.unwrap_or_else(|gave_up| panic!("{}: {gave_up}", request.key))
    }

    /// Sends the request again until the answer is that the outcome is unknown.
    pub(crate) async fn until_unknown(&self, request: &Request) {
        let unknown = self.client.until(request, SOON, SOON, Reply::is_unknown).await;
        unknown.unwrap_or_else(|gave_up| panic!("{}: {gave_up}", request.key));
    }

    /// The end of every test: there were no two starts, each key that was requested has an answer, and the customers,
    /// the ledger and the store agree.
    pub(crate) async fn judge(&self) -> Summary {
        let mut history = self.log.events();
        history.extend(self.ledger());
        history.extend(records::events(&self.place.store().await).await);
        let summary = judge(&history, Guarantee::AtMostOnce);
        assert!(summary.keys > 0 && summary.keys == summary.answered_keys, "{summary}");
        assert_eq!(summary.failed, 0, "the server failed: {summary}");
        summary
    }
}

pub(crate) fn letter(key: impl Into<String>) -> Request {
    written(key.into(), &json!({}))
}

/// A letter that is started and never finished.
pub(crate) fn endless_letter(key: impl Into<String>) -> Request {
    written(key.into(), &json!({ "hold": true }))
}

fn written(key: String, body: &Value) -> Request {
    Request { path: "/letters", scope: "customer".to_owned(), key, body: Bytes::from(body.to_string()), wait_s: None }
}

fn letter_of(request: &Request) -> String {
    format!("letter to {} about {}", request.scope, request.key)
}

fn letter_in(answer: &Answer) -> Option<String> {
    let sent: Value = serde_json::from_slice(&answer.body).ok()?;
    sent.get("letter")?.as_str().map(str::to_owned)
}
