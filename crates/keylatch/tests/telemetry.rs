//! No key, scope, body, header or token is ever logged or counted: sentinels are planted everywhere, and all output is
//! searched for them.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use http_body_util::BodyExt;
use keylatch::http::{Disposition, IdempotencyLayer, ScopeFrom};
use keylatch::outbox::{Event, Failed, InProcess, Published, Relay};
use keylatch::sqlite::Sqlite;
use keylatch::store::Swept;
use keylatch::{Clock, Engine, Limits, Policy, Run, Timestamp, Tx, memory, sqlite};
use metrics_exporter_prometheus::PrometheusBuilder;
use testing_support::logs::Logs;
use tower::ServiceExt;

/// In everything that a client or a handler sends.
const SENTINEL: &str = "SENTINEL";

/// How long a client may pause within a body.
const STALL_MAX: Duration = Duration::from_millis(50);

/// Answers in the way that the body says.
fn end(body: &str) -> axum::response::Response {
    let status = body.split(' ').next().and_then(|status| status.parse().ok()).unwrap_or(StatusCode::OK);
    let mut response = axum::response::Response::new(Body::from(format!("answer {SENTINEL}")));
    *response.status_mut() = status;
    response.headers_mut().insert("set-cookie", format!("session={SENTINEL}").parse().unwrap());
    response.headers_mut().insert("location", format!("/{SENTINEL}").parse().unwrap());
    if body.contains("unknown") {
        response.extensions_mut().insert(Disposition::Unknown);
    }
    assert!(!body.contains("panic"), "a panic with {SENTINEL}");
    response
}

async fn leased(run: Run, body: String) -> axum::response::Response {
    let _: Result<String, _> =
        run.step(SENTINEL, |key| async move { Ok::<_, std::io::Error>(key.as_str().to_owned()) }).await;
    end(&body)
}

async fn atomic(mut tx: Tx<Sqlite>, body: String) -> axum::response::Response {
    let text = body.clone();
    let written = tx.run(move |db| db.execute("INSERT INTO effect (text) VALUES (?1)", [text])).await;
    if written.is_err() {
        return end("500");
    }
    if body.contains("await") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    end(&body)
}

fn layered(engine: Engine, handler: axum::routing::MethodRouter) -> Router {
    let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")).require_key().with_canonical_json();
    Router::new().route("/things", handler).layer(layer.with_body_bytes_max(1000).with_body_pace(STALL_MAX, 0))
}

async fn send(app: &Router, key: &str, user: &str, body: impl Into<Body>) -> StatusCode {
    let request = Request::post(format!("/things?token={SENTINEL}"))
        .header("idempotency-key", key)
        .header("x-user-id", user)
        .header("authorization", format!("Bearer {SENTINEL}"))
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let response = app.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// Hands an event to a handler in this process.
async fn handle_an_event(file: &std::path::Path) {
    let store = sqlite::Store::open(file).await.unwrap();
    let engine = Engine::atomic(store.clone(), Policy::default(), Limits::default()).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
    let handler = move |_: Tx<Sqlite>, _: Published| {
        let tell = tell.lock().unwrap().take();
        async move {
            tell.map(|tell| tell.send(()));
            Err(Failed::reject(std::io::Error::other("refused")))
        }
    };
    store
        .execute_and_publish(|_, events| {
            let event = Event::new("things").with_key(SENTINEL).with_value(SENTINEL).with_header("name", SENTINEL);
            events.publish(event).unwrap();
            Ok(())
        })
        .await
        .unwrap();
    let relay = Relay::new(store, InProcess::atomic(engine, "subscriber", handler).unwrap()).start();
    told.await.unwrap();
    assert!(relay.stop(Duration::from_secs(20)).await);
}

#[test]
fn nothing_that_a_client_or_handler_says_is_logged_or_counted() {
    let log = Logs::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    let subscriber = subscriber.with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL);
    subscriber.with_writer(move || writer.clone()).init();
    let prometheus = PrometheusBuilder::new().install_recorder().unwrap();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (statuses, swept) = runtime.block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1));
        let file = directory.path().join("k.db");
        let open = sqlite::Store::open_with(&file, sqlite::Options::default().with_clock(clock.clone()));
        let store = open.await.unwrap();
        store.execute(|db| db.execute_batch("CREATE TABLE effect (text TEXT)")).await.unwrap();
        let (policy, limits) = (Policy::default(), Limits { cache_bytes_max: 0, ..Limits::default() });
        let memory = memory::Store::with_clock(clock.clone());
        let engines = [
            Engine::atomic(store.clone(), policy, limits).unwrap(),
            Engine::fenced(store, policy, limits).unwrap(),
            Engine::at_most_once(memory, policy, limits).unwrap(),
        ]
        .map(|engine| engine.with_cleanup(keylatch::Cleanup::off()));
        let apps = [
            layered(engines[0].clone(), post(atomic)),
            layered(engines[1].clone(), post(leased)),
            layered(engines[2].clone(), post(leased)),
        ];
        let mut statuses = Vec::new();
        for (at, app) in apps.iter().enumerate() {
            let user = format!("{SENTINEL}-user-{at}");
            for body in ["200", "404", "500", "panic", "unknown", "await"] {
                let key = format!("{SENTINEL}-{body}");
                for again in ["", "", " other"] {
                    statuses.push(send(app, &key, &user, format!("{body} {SENTINEL}{again}")).await.as_u16());
                }
            }
            statuses.push(send(app, &format!("{SENTINEL} bad"), &user, String::new()).await.as_u16());
            statuses.push(send(app, &format!("{SENTINEL}-k"), "", String::new()).await.as_u16());
            statuses.push(send(app, &format!("{SENTINEL}-k"), &user, SENTINEL.repeat(1000)).await.as_u16());
            let stalled = futures_util::stream::pending::<Result<&str, std::io::Error>>();
            statuses.push(send(app, &format!("{SENTINEL}-k"), &user, Body::from_stream(stalled)).await.as_u16());
            clock.advance(policy.retention);
            statuses.push(send(app, &format!("{SENTINEL}-200"), &user, format!("200 {SENTINEL}")).await.as_u16());
        }
        handle_an_event(&directory.path().join("events.db")).await;
        let mut swept = Swept::default();
        for span in [policy.retention, policy.tombstone] {
            clock.advance(span);
            // The first two share a store.
            for engine in &engines {
                swept += engine.sweep(1_000).await.unwrap();
            }
        }
        (statuses, swept)
    });
    drop(runtime);

    // The interesting events did happen.
    for status in [200, 400, 404, 408, 409, 410, 413, 422, 500] {
        assert!(statuses.contains(&status), "no answer with {status} among {statuses:?}");
    }
    let log = log.text();
    for expected in [
        "keylatch.request",
        "keylatch.run",
        "keylatch.transaction",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "a handler panicked",
    ] {
        assert!(log.contains(expected), "{expected} is not in the log");
    }
    // The manual's page names every span and its fields.
    let page = include_str!("../src/manual/observability.md");
    let spans = page.lines().filter(|line| line.starts_with("| `keylatch.")).map(|line| line.split('|').collect());
    let spans: Vec<Vec<_>> = spans.collect();
    assert_eq!(spans.len(), 4);
    for span in spans {
        let name = span[1].trim().trim_matches('`');
        for field in span[2].split('`').skip(1).step_by(2) {
            let opened = |line: &str| line.split(&format!("{name}{{")).nth(1).map(|fields| fields.to_owned());
            let has = |fields: String| fields.split('}').next().is_some_and(|own| own.contains(&format!("{field}=")));
            assert!(log.lines().filter_map(opened).any(has), "{name} has no {field}");
        }
    }
    for inner in ["keylatch.run", "keylatch.transaction"] {
        let mut lines = log.lines().filter(|line| line.contains(&format!("{inner}{{")));
        let around = ["keylatch.request{", "keylatch.event{"];
        assert!(
            lines.all(|line| around.iter().any(|span| line.contains(span)) && line.contains(&format!("}}:{inner}{{")))
        );
    }
    let metrics = prometheus.render();
    for expected in [
        "keylatch_answers_total",
        "answer=\"replay\"",
        "keylatch_records_total",
        "keylatch_refused_total{code=\"REQUEST_TIMEOUT\"} 3",
        "keylatch_refused_total{code=\"REQUEST_TOO_LARGE\"} 3",
        "keylatch_store_seconds",
        "keylatch_running",
    ] {
        assert!(metrics.contains(expected), "{expected} is not among the metrics");
    }
    assert!(swept.tombstoned > 0 && swept.removed > 0, "{swept:?}");
    for (change, count) in [("tombstoned", swept.tombstoned), ("removed", swept.removed)] {
        let line = format!("keylatch_records_total{{change=\"{change}\"}} {count}");
        assert!(metrics.lines().any(|there| there == line), "{line} is not among the metrics");
    }
    for (name, output) in [("log", &log), ("metrics", &metrics)] {
        let found: Vec<_> = output.lines().filter(|line| line.contains(SENTINEL)).take(5).collect();
        assert!(found.is_empty(), "the {name} has what it must not: {found:#?}");
    }
}
