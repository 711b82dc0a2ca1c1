//! The manual's page on observability, the recorder and the counts agree, whenever the recorder is installed.
#![cfg(all(feature = "axum", feature = "sqlite"))]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request as HttpRequest, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::post;
use common::faulty::{Fault, Faulty, Op};
use common::{Gate, until};
use futures_util::future::BoxFuture;
use keylatch::entry_point::{Answer, Request};
use keylatch::http::{GuardedBody, IdempotencyLayer, RegionSecret, Regions, ScopeFrom};
use keylatch::outbox::{Event, Events, Outbox as _, Published, Publisher, Refusals, Relay, Sent};
use keylatch::regions::{Homes, Rule};
use keylatch::store::{self, Store as _};
use keylatch::tiered::Cache;
use keylatch::tx::Verdict;
use keylatch::{
    Cleanup, Clock, Engine, Fingerprint, Guarantee, Key, Limits, Outcome, Policy, Record, RecordId, Scope, Timestamp,
    machine, memory, sqlite,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::sync::Notify;
use tower::ServiceExt;

mod common;

static PROMETHEUS: OnceLock<PrometheusHandle> = OnceLock::new();

const PAGE: &str = include_str!("../src/manual/observability.md");

/// A metric on the page.
struct Row {
    kind: &'static str,
    label: Option<&'static str>,
    values: BTreeSet<&'static str>,
    meaning: &'static str,
}

/// The metrics of the page that this test can count: the others need PostgreSQL.
fn page() -> BTreeMap<&'static str, Row> {
    let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let code = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    let rows = PAGE.lines().filter(|line| line.starts_with("| `keylatch_")).map(cells);
    let rows = rows.filter(|cells| !cells[4].contains("PostgreSQL"));
    rows.map(|cells| {
        let labels = code(cells[3]);
        let values = labels.iter().skip(1).copied().collect();
        let row = Row { kind: cells[2], label: labels.first().copied(), values, meaning: cells[4] };
        (code(cells[1])[0], row)
    })
    .collect()
}

fn request(key: &str, what: &str) -> Request {
    Request {
        scope: Scope::new("caller").unwrap(),
        key: Key::new(key).unwrap(),
        fingerprint: Fingerprint::of([what.as_bytes()]),
        wait: Duration::ZERO,
    }
}

fn kept() -> Verdict {
    Verdict::Keep(Outcome::bytes("answer"))
}

async fn ask(engine: &Engine, key: &str, what: &str, verdict: Verdict) -> Option<Answer> {
    engine.answer(request(key, what), |_| async { (verdict, ()) }).await.ok()
}

/// Sends a request whose work waits for `gate`, and returns once it runs.
async fn begin(engine: &Engine, key: &str, gate: &Gate) -> tokio::task::JoinHandle<Answer> {
    let (engine, key, gate) = (engine.clone(), key.to_owned(), gate.clone());
    let (tell, told) = tokio::sync::oneshot::channel();
    let asked = tokio::spawn(async move {
        let work = |_| async move {
            tell.send(()).expect("the test listens");
            gate.pass().await;
            (kept(), ())
        };
        engine.answer(request(&key, "buy"), work).await.expect("the engine answers")
    });
    told.await.expect("it runs");
    asked
}

async fn post_to(layer: IdempotencyLayer, key: Option<&str>) -> StatusCode {
    let app = Router::new().route("/", post(|| async { "done" })).layer(layer.require_key());
    let request = HttpRequest::post("/").header("x-user-id", "caller");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
}

/// Asks in a region that is not the home of the key: the request goes home, and the same one gets a copy.
async fn ask_elsewhere(directory: &Path) {
    // A process keeps no copies beside records that are in its memory.
    let open = async |name: &str| sqlite::Store::open(directory.join(name)).await.unwrap();
    let (home, elsewhere) = (open("eu.db").await, open("us.db").await);
    let regions = |this| {
        let homes = Homes::new(this, ["eu", "us"], Rule::KeyPrefix, 1).unwrap();
        Regions::new(homes, RegionSecret::new(vec![1; 32]).unwrap())
    };
    let layer = |store: sqlite::Store| IdempotencyLayer::fenced(store, ScopeFrom::header("x-user-id"));
    let service = || Router::new().route("/", post(|| async { "done" }));
    let nowhere = tower::service_fn(|_: HttpRequest<GuardedBody<Body>>| async {
        Ok::<_, Infallible>(StatusCode::BAD_GATEWAY.into_response())
    });
    let eu = service().layer(layer(home).with_homes(regions("eu"), nowhere));
    let client = tower::service_fn(move |request: HttpRequest<GuardedBody<Body>>| {
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        eu.clone().oneshot(HttpRequest::from_parts(parts, Body::new(body)))
    });
    let broken = Broken::default();
    let us = service().layer(layer(elsewhere).with_homes(regions("us").with_cache(broken.clone()), client));
    for _ in 0..2 {
        let request = HttpRequest::post("/").header("x-user-id", "caller").header("idempotency-key", "eu.1");
        assert_eq!(us.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status(), 200);
    }
    broken.taken_out.notified().await;
}

/// A cache that takes no copy.
#[derive(Debug, Clone, Default)]
struct Broken {
    taken_out: Arc<Notify>,
}

impl Cache for Broken {
    fn find(&self, _: RecordId) -> BoxFuture<'_, Result<Option<Record>, store::Error>> {
        Box::pin(async { Ok(None) })
    }

    fn keep(&self, _: Record, _: Duration) -> BoxFuture<'_, Result<(), store::Error>> {
        Box::pin(async { Err(store::Error::new(store::ErrorKind::Unavailable, "it is full")) })
    }

    fn forget(&self, _: RecordId, _: Duration) -> BoxFuture<'_, Result<(), store::Error>> {
        self.taken_out.notify_one();
        Box::pin(async { Ok(()) })
    }
}

/// Makes everything happen that is counted.
async fn everything(store: &Faulty, clock: &Clock, engine: &Engine) {
    let (policy, limits) = (Policy::default(), Limits::default());
    let other = || Engine::fenced(store.clone(), policy, limits).unwrap().with_cleanup(Cleanup::off());
    for what in ["buy", "buy", "sell"] {
        assert!(ask(engine, "kept", what, kept()).await.is_some());
    }
    // A duplicate that waits, and one that does not.
    let gate = Gate::closed();
    let running = begin(engine, "running", &gate).await;
    assert!(ask(engine, "running", "buy", kept()).await.is_some());
    let waiting = Request { wait: Duration::from_secs(20), ..request("running", "buy") };
    let mut waiting = Box::pin(engine.answer(waiting, |_| async { (kept(), ()) }));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    gate.open();
    assert!(matches!(running.await.unwrap(), Answer::Ran(_)));
    assert!(matches!(waiting.await.unwrap(), Answer::Replayed(_)));
    for verdict in [Verdict::Retry, Verdict::Free] {
        assert!(ask(engine, "retried", "buy", verdict).await.is_some());
    }
    // A run that is taken for dead, and continues.
    let gate = Gate::closed();
    let late = begin(engine, "late", &gate).await;
    clock.advance(policy.lease);
    assert!(matches!(ask(&other(), "late", "buy", kept()).await, Some(Answer::Ran(_))));
    gate.open();
    assert!(matches!(late.await.unwrap(), Answer::Replayed(_)));
    let careful = Engine::at_most_once(store.clone(), policy, limits).unwrap().with_cleanup(Cleanup::off());
    for _ in 0..2 {
        assert!(ask(&careful, "unknown", "buy", Verdict::Unknown).await.is_some());
    }
    let full = Engine::fenced(store.clone(), policy, Limits { running_max: 0, ..limits })
        .unwrap()
        .with_cleanup(Cleanup::off());
    assert!(ask(&full, "refused", "buy", kept()).await.is_some());
    store.always(Op::Claim, Fault::Unavailable);
    assert!(ask(engine, "failed", "buy", kept()).await.is_none());
    let open = || IdempotencyLayer::fenced(store.clone(), ScopeFrom::header("x-user-id")).fail_open();
    assert_eq!(post_to(open(), Some("bypassed")).await, 200);
    store.is_mended();
    assert_eq!(post_to(open(), None).await, 400);
    assert_eq!(post_to(open().observe(), None).await, 200);
    let directory = tempfile::tempdir().unwrap();
    let atomic = sqlite::Store::open(directory.path().join("k.db")).await.unwrap();
    let atomic = Engine::atomic(atomic, policy, limits).unwrap();
    assert!(ask(&atomic, "kept", "buy", kept()).await.is_some());
    relay_everything(directory.path()).await;
    ask_elsewhere(directory.path()).await;
    lapse(clock).await;
    clock.advance(policy.retention);
    assert!(ask(engine, "kept", "buy", kept()).await.is_some());
    assert!(engine.sweep(1_000).await.unwrap().tombstoned > 0);
    clock.advance(policy.tombstone);
    assert!(engine.sweep(1_000).await.unwrap().removed > 0);
}

/// Lets a run in `Fenced` and one in `AtMostOnce` lapse, and waits until the cleaners have counted them.
async fn lapse(clock: &Clock) {
    let policy = Policy::default();
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let store = memory::Store::with_clock(clock.clone());
        let one = request("lapsed", "buy");
        let claim = machine::Claim::new(one.scope, one.key, one.fingerprint, guarantee, &policy);
        let _ = store.claim(claim).await.unwrap();
        clock.advance(policy.lease);
        let build = match guarantee {
            Guarantee::Fenced => Engine::fenced,
            _ => Engine::at_most_once,
        };
        let engine = build(store.clone(), policy, Limits::default()).unwrap();
        let engine = engine.with_cleanup(Cleanup::every(Duration::from_millis(10)));
        // The first request starts the cleaner.
        assert!(ask(&engine, "other", "buy", kept()).await.is_some());
        let state = if guarantee == Guarantee::Fenced { "abandoned" } else { "unknown" };
        until("the lapsed run is counted", async || lapsed(state) == Some(1.0)).await;
        // The run takes over, or is never run again.
        let taken_over = ask(&engine, "lapsed", "buy", kept()).await;
        let left = if matches!(taken_over, Some(Answer::Ran(_))) { 0.0 } else { 1.0 };
        assert_eq!(left, if guarantee == Guarantee::Fenced { 0.0 } else { 1.0 });
        until("the count is renewed", async || lapsed(state) == Some(left)).await;
        assert_eq!(engine.shutdown(Duration::from_secs(10)).await, 0);
        drop(engine);
        until("what an engine has counted ends with it", async || lapsed(state) == Some(0.0)).await;
    }
}

/// The value of `keylatch_lapsed_runs`.
fn lapsed(state: &str) -> Option<f64> {
    gauge(PROMETHEUS.get()?, &format!("keylatch_lapsed_runs{{state=\"{state}\"}}"))
}

/// Publishes as the value of an event says.
#[derive(Debug)]
struct AsToldByTheEvent;

impl Publisher for AsToldByTheEvent {
    fn publish<'p>(&'p self, events: &'p [Published], _: Instant) -> BoxFuture<'p, Vec<Sent>> {
        let sent = |published: &Published| match published.event.value().map(|value| &value[..]) {
            Some(b"refused") => Sent::Refused("too large".to_owned()),
            Some(b"later") => Sent::Later("no leader".to_owned()),
            _ => Sent::Acknowledged,
        };
        Box::pin(std::future::ready(events.iter().map(sent).collect()))
    }
}

/// Lets everything happen that a relay counts.
async fn relay_everything(directory: &Path) {
    for refusals in [Refusals::HoldBackTheKey, Refusals::SetAside] {
        let file = directory.join(format!("{refusals:?}.db"));
        let store = sqlite::Store::open(file).await.unwrap();
        let write = |_: &rusqlite::Connection, events: &mut Events| {
            for (key, value) in [("a", "refused"), ("a", ""), ("b", "later"), ("c", "")] {
                events.publish(Event::new("t").with_key(key).with_value(value)).unwrap();
            }
            Ok(())
        };
        store.execute_and_publish(write).await.unwrap();
        let relay = Relay::new(store.clone(), AsToldByTheEvent).with_refusals(refusals).start();
        until("all have their fates", async || {
            let backlog = store.backlog(10).await.unwrap().value;
            backlog.waiting.at_least() == 1 && backlog.refused.at_least() == backlog.held.at_least()
        })
        .await;
        assert!(relay.stop(Duration::from_secs(10)).await);
    }
}

/// The value of a gauge.
fn gauge(prometheus: &PrometheusHandle, name: &str) -> Option<f64> {
    let rendered = prometheus.render();
    let value = rendered.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().expect("a gauge is a number"))
}

#[tokio::test]
async fn the_page_says_what_is_counted() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let store = Faulty::new(memory::Store::with_clock(clock.clone()));
    let engine = Engine::fenced(store.clone(), Policy::default(), Limits::default()).unwrap();
    let engine = engine.with_cleanup(Cleanup::off());
    let gate = Gate::closed();
    let early = begin(&engine, "early", &gate).await;

    let prometheus = PROMETHEUS.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
    everything(&store, &clock, &engine).await;
    gate.open();
    drop(early.await.unwrap());
    // Events that began before the recorder was installed are not counted down, either.
    until("nothing runs", async || gauge(prometheus, "keylatch_running") == Some(0.0)).await;
    assert_eq!(gauge(prometheus, "keylatch_waiters"), Some(0.0));

    let rendered = prometheus.render();
    let page = page();
    for (name, row) in &page {
        let kind = if row.kind == "histogram" { "summary" } else { row.kind };
        assert!(rendered.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}, or is not counted");
        assert!(rendered.contains(&format!("# HELP {name} {}\n", row.meaning)), "{name} has another meaning");
    }
    let mut counted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in rendered.lines().filter(|line| line.starts_with("keylatch_")) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let name = name.strip_suffix("_sum").or(name.strip_suffix("_count")).unwrap_or(name);
        let row = page.get(name).unwrap_or_else(|| panic!("{name} is not on the page"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels: Vec<_> = labels.filter(|(label, _)| *label != "quantile").collect();
        assert_eq!(labels.first().map(|(label, _)| *label), row.label, "{name}");
        counted.entry(name).or_default().extend(labels.iter().map(|(_, value)| value.trim_matches('"')));
    }
    for (name, row) in page.iter().filter(|(_, row)| !row.values.is_empty()) {
        assert_eq!(counted[name], row.values, "{name}");
    }
}
