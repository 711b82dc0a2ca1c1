//! Clients that do not give up before a gateway and a service, and the deaths of both under their load.
//!
//! 20 kills of each, or as many as `KEYLATCH_GATEWAY_KILLS` says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use keylatch::store::Store;
use rand::Rng;
use testing_history::{Answer, Guarantee, Log, Reply, Summary, judge, ledger};
use testing_support::client::{Client, Request, Targets};
use testing_support::records;
use testing_support::server::{Program, Server};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::setup::gateway;

/// How long a client tries in all.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 12;
/// How many clients use the same key, in turns or at once.
const SAME_KEY: usize = 3;

pub(crate) fn kills() -> usize {
    const KILLS: usize = 20;
    match std::env::var("KEYLATCH_GATEWAY_KILLS") {
        Ok(kills) => kills.parse().expect("KEYLATCH_GATEWAY_KILLS is a number"),
        Err(_) => KILLS,
    }
}

pub(crate) fn random_ms(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(range))
}

/// The service, in a process that can be killed, at a fixed address.
pub(crate) struct Service {
    program: Program,
    pub(crate) url: String,
}

impl Service {
    pub(crate) async fn start(directory: &Path) -> (Self, Server) {
        let program = Program::new(env!("CARGO_BIN_EXE_upstream")).env("LEDGER", directory.join("ledger"));
        let server = program.start().await.unwrap_or_else(|error| panic!("{error}"));
        let (url, port) = (server.url().to_owned(), server.authority().rsplit(':').next().expect("a port").to_owned());
        (Self { program: program.env("PORT", port), url }, server)
    }

    pub(crate) async fn start_again(&self) -> Server {
        self.program.start().await.unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Clients that send requests without a pause, and do not give up.
pub(crate) struct Load {
    pub(crate) targets: Targets,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    path: &'static str,
    client: Client,
    log: Log,
    stop: AtomicBool,
    next: AtomicUsize,
    unknown: AtomicUsize,
}

impl Load {
    pub(crate) fn start(path: &'static str, targets: Targets) -> Self {
        let log = Log::default();
        let client = Client::new(targets.clone(), log.clone(), letter_in);
        let (stop, next, unknown) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { path, client, log, stop, next, unknown });
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let shared = shared.clone();
            clients.spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let number = shared.next.fetch_add(1, Ordering::Relaxed) / SAME_KEY;
                    shared.insist(&shared.letter(number)).await;
                }
            });
        }
        Self { targets, shared, clients }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.shared.log.open_calls() > 0
    }

    /// Waits for every client, sends every request again, and judges. Also returns how many outcomes are unknown.
    pub(crate) async fn end(mut self, directory: &Path, guarantee: Guarantee, store: &impl Store) -> (Summary, usize) {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("every client comes to its end");
        }
        let keys = self.shared.next.load(Ordering::Relaxed) / SAME_KEY;
        self.shared.unknown.store(0, Ordering::Relaxed);
        for number in 0..keys {
            self.shared.insist(&self.shared.letter(number)).await;
        }
        let mut history = self.shared.log.events();
        history.extend(ledger::read(&directory.join("ledger")).expect("the ledger is whole"));
        history.extend(records::events(store).await);
        let summary = judge(&history, guarantee);
        (summary, self.shared.unknown.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn letter(&self, number: usize) -> Request {
        Request {
            path: self.path,
            scope: format!("user-{}", number % 4),
            key: format!("key-{number}"),
            body: Bytes::from(format!("{{\"number\":{number}}}")),
            wait_s: None,
        }
    }

    /// Sends the request until there is an answer, or the outcome is unknown. Some clients hang up before there can be
    /// an answer.
    async fn insist(&self, request: &Request) {
        let each = if rand::rng().random_ratio(1, 4) { random_ms(1..15) } else { PATIENCE };
        let accept = |reply: &Reply| matches!(reply, Reply::Final(_)) || reply.is_unknown();
        let reply = self.client.until(request, each, PATIENCE, accept).await;
        let reply = reply.unwrap_or_else(|gave_up| panic!("{}: {gave_up}", request.key));
        if reply.is_unknown() {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn letter_in(answer: &Answer) -> Option<String> {
    let sent: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    sent.get("letter")?.as_str().map(str::to_owned)
}

/// The gateway before `service`, with a lease so short that tests need not wait for its end.
pub(crate) fn program_on(store: &str, service: &Service, guarantee: &str) -> Program {
    let given = ["--store", store, "--scope", "header:X-User-Id", "--guarantee", guarantee, "--require-key"];
    gateway(&service.url, &[&given[..], &["--lease", "1s", "--upstream-key", "received"]].concat())
}

/// A gateway before a service, under load, each of them killed again and again in turn. What clients, service and store say
/// is judged under `guarantee`. Also returns how many outcomes are unknown, and how many kills met requests under way.
///
/// `store` is what the gateway is told of its store, and `open` opens it after the last kill: an open store would keep SQLite
/// from recovering its file.
async fn kill_in_turn<S: Store>(
    directory: &Path,
    store: &str,
    guarantee: Guarantee,
    open: impl AsyncFnOnce() -> S,
) -> (Summary, usize, usize) {
    let (path, name) = match guarantee {
        Guarantee::AtMostOnce => ("/letters", "at-most-once"),
        _ => ("/once", "fenced"),
    };
    let (service, mut upstream) = Service::start(directory).await;
    let program = program_on(store, &service, name);
    let mut server = program.start().await.unwrap();
    let targets = Targets::default();
    targets.set([server.url()]);
    let load = Load::start(path, targets);
    let mut caught = 0;
    for round in 0..2 * kills() {
        sleep(random_ms(20..200)).await;
        caught += usize::from(load.is_under_way());
        if round % 2 == 0 {
            server.kill().await;
            server = program.start().await.unwrap();
            load.targets.set([server.url()]);
        } else {
            upstream.kill().await;
            sleep(random_ms(0..50)).await;
            upstream = service.start_again().await;
        }
    }
    let (summary, unknown) = load.end(directory, guarantee, &open().await).await;
    eprintln!("{store}: {} kills of each, {caught} with requests under way: {summary}; {unknown} unknown", kills());
    drop((server, upstream));
    (summary, unknown, caught)
}

/// In `AtMostOnce`, no request starts twice.
pub(crate) async fn never_two_starts<S: Store>(directory: &Path, store: &str, open: impl AsyncFnOnce() -> S) {
    let (summary, unknown, caught) = kill_in_turn(directory, store, Guarantee::AtMostOnce, open).await;
    assert!(caught > 0 && unknown > 0 && summary.replays > 0 && summary.failed > 0, "{summary}, {unknown} unknown");
}

/// In `Fenced`, where the service honours the derived key, each request has its effect once, and none is unknown.
pub(crate) async fn one_effect<S: Store>(directory: &Path, store: &str, open: impl AsyncFnOnce() -> S) {
    let (summary, unknown, _) = kill_in_turn(directory, store, Guarantee::Fenced, open).await;
    assert_eq!((unknown, summary.effects), (0, summary.keys), "{summary}");
    assert!(summary.starts > summary.effects && summary.replays > 0, "some ran again: {summary}");
}
