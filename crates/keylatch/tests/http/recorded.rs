//! What is recorded of an answer: by its status, by the guarantee, and by the handler's own disposition.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use keylatch::http::{Disposition, IdempotencyLayer, ScopeFrom};
use keylatch::machine::{Phase, phase};
use keylatch::sqlite::{self, Sqlite};
use keylatch::store::State;
use keylatch::{Clock, Engine, Guarantee, Limits, Policy, Tx, memory};
use tempfile::TempDir;
use tower_http::timeout::TimeoutLayer;

use crate::app::{START, Seen, Setup, serve};
use crate::common::Gate;
use crate::common::faulty::{Fault, Op};
use crate::wire::Call;

const ALL: [Guarantee; 3] = [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce];

/// What a second request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The same answer again.
    Replay,
    /// A new run.
    Runs,
    /// The outcome is unknown.
    Unknown,
}

/// Sends the same request twice to a service that gives this answer the first time, and then 299.
async fn second(guarantee: Guarantee, answer: fn() -> Response) -> (u16, Then) {
    let handler = move |seen: Seen| async move {
        if seen.nth == 1 { answer() } else { StatusCode::from_u16(299).expect("a status").into_response() }
    };
    let app = Setup::new(guarantee).start(handler).await;
    let first = app.order().send().await;
    let expires = first.text("idempotency-expires").is_some();
    let again = app.order().send().await;
    let then = match (again.status, again.replayed(), app.runs()) {
        (status, true, 1) if status == first.status && again.body == first.body => Then::Replay,
        (299, false, 2) => Then::Runs,
        (409, false, 1) => {
            again.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
            Then::Unknown
        }
        other => panic!("{guarantee:?}: {first:?}, then {other:?}"),
    };
    assert_eq!(expires, then == Then::Replay, "{guarantee:?}: {first:?}");
    (first.status, then)
}

#[tokio::test]
async fn a_panic_counts_as_500() {
    for (guarantee, then) in ALL.into_iter().zip([Then::Runs, Then::Runs, Then::Replay]) {
        assert_eq!(second(guarantee, || panic!("planned")).await, (500, then), "{guarantee:?}");
    }
    let app = Setup::fenced().start(|_| async { panic!("planned") as () }).await;
    let problem = app.order().send().await.is_problem(500, "HANDLER_FAILED");
    assert_eq!(problem["retryable"], true);
    let app = Setup::new(Guarantee::AtMostOnce).start(|_| async { panic!("planned") as () }).await;
    let first = app.order().send().await;
    assert_eq!(first.is_problem(500, "HANDLER_FAILED")["retryable"], false);
    let again = app.order().send().await;
    assert_eq!((again.problem(), again.replayed()), (first.problem(), true));
}

/// Its handler had given a status before, so in `AtMostOnce` nobody knows what happened, and even its own client is
/// told so.
#[tokio::test]
async fn a_body_that_breaks_off_is_a_failure_or_unknown() {
    fn broken() -> Response {
        let parts = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("planned"))];
        Body::from_stream(stream::iter(parts)).into_response()
    }
    let expected = [(500, Then::Runs), (500, Then::Runs), (409, Then::Unknown)];
    for (guarantee, expected) in ALL.into_iter().zip(expected) {
        assert_eq!(second(guarantee, broken).await, expected, "{guarantee:?}");
    }
    let app = Setup::new(Guarantee::AtMostOnce).start(|_| async { broken() }).await;
    app.order().send().await.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
}

/// Whatever the status, and however the body breaks off: at once, later, or by a panic. No 500 is recorded that nobody
/// has sent.
#[tokio::test]
async fn no_way_of_breaking_off_is_recorded_as_an_answer() {
    fn frames(status: u16, last: fn() -> Result<Bytes, std::io::Error>) -> Response {
        let later = stream::once(async move {
            tokio::task::yield_now().await;
            last()
        });
        let body = stream::iter([Ok(Bytes::from_static(b"half"))]).chain(later);
        (StatusCode::from_u16(status).expect("a status"), Body::from_stream(body)).into_response()
    }
    fn breaks() -> Result<Bytes, std::io::Error> {
        Err(std::io::Error::other("planned"))
    }
    let ways: [fn() -> Response; 6] = [
        || frames(200, breaks),
        || frames(404, breaks),
        || frames(500, breaks),
        || frames(503, breaks),
        || frames(200, || panic!("planned")),
        || frames(500, || panic!("planned")),
    ];
    for (way, answer) in ways.into_iter().enumerate() {
        assert_eq!(second(Guarantee::AtMostOnce, answer).await, (409, Then::Unknown), "way {way}");
    }
    // A 5xx is not recorded here, so it is passed on as far as it goes.
    for (way, status) in [(0, 500), (1, 500), (2, 500), (3, 503), (4, 500)] {
        assert_eq!(second(Guarantee::Fenced, ways[way]).await, (status, Then::Runs), "way {way}");
    }
}

/// Its effect is recorded before its first byte is sent, so nothing later undoes that.
#[tokio::test]
async fn a_large_answer_that_breaks_off_later_took_effect_all_the_same() {
    for guarantee in [Guarantee::Fenced, Guarantee::AtMostOnce] {
        let gate = Gate::closed();
        let held = gate.clone();
        let answer = move |_| {
            let held = held.clone();
            async move {
                let breaks = stream::once(async move {
                    held.pass().await;
                    Err(std::io::Error::other("planned"))
                });
                Body::from_stream(stream::iter([Ok(Bytes::from_static(b"half"))]).chain(breaks)).into_response()
            }
        };
        let app = Setup::new(guarantee).layer(|layer| layer.with_answer_bytes_max(3)).start(answer).await;
        let mut first = app.order().begin().await;
        first.read_until("half").await;
        gate.open();
        let first = first.reply().await;
        assert_eq!((first.status, first.whole), (200, false), "{guarantee:?}: {first:?}");
        app.order().send().await.is_problem(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
        assert_eq!(app.runs(), 1);
    }
}

/// A time-out layer inside drops the handler half-way, and answers 408.
#[tokio::test]
async fn i1_a_run_that_timed_out_never_starts_again_in_at_most_once() {
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = starts.clone();
    let drill = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<StatusCode>()
    };
    let time_out = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(1));
    let store = memory::Store::new();
    let app = Router::new()
        .route("/holes", axum::routing::post(drill))
        .layer(time_out)
        .layer(IdempotencyLayer::at_most_once(store, ScopeFrom::header("x-user-id")));
    let (address, server) = serve(app).await;
    let call = Call::new(address, "POST", "/holes").caller("alice").key("k");
    assert_eq!(call.send().await.status, 408);
    for _ in 0..2 {
        call.send().await.is_problem(409, "IDEMPOTENCY_OUTCOME_UNKNOWN");
    }
    assert_eq!(starts.load(Ordering::Relaxed), 1);
    server.abort();
}

#[tokio::test]
async fn the_handlers_word_counts_against_the_rule() {
    fn says(status: u16, disposition: Disposition) -> Response {
        let mut response = StatusCode::from_u16(status).expect("a status").into_response();
        response.extensions_mut().insert(disposition);
        response
    }
    type Row = (fn() -> Response, u16, [Then; 3]);
    use Disposition::{Free, Record, RecordAlone, Retry, Unknown};
    let rows: [Row; 10] = [
        (|| says(500, Record), 500, [Then::Replay; 3]),
        (|| says(429, RecordAlone), 429, [Then::Replay; 3]),
        (|| says(429, Free), 429, [Then::Runs; 3]),
        (|| says(408, Retry), 408, [Then::Runs; 3]),
        (|| says(200, Retry), 200, [Then::Runs; 3]),
        (|| says(404, Retry), 404, [Then::Runs; 3]),
        (|| says(200, Free), 200, [Then::Runs; 3]),
        (|| says(500, Free), 500, [Then::Runs; 3]),
        (|| says(200, Unknown), 200, [Then::Runs, Then::Unknown, Then::Unknown]),
        (|| says(503, Unknown), 503, [Then::Runs, Then::Unknown, Then::Unknown]),
    ];
    for (at, (answer, status, expected)) in rows.into_iter().enumerate() {
        for (guarantee, then) in ALL.into_iter().zip(expected) {
            assert_eq!(second(guarantee, answer).await, (status, then), "row {at}, {guarantee:?}");
        }
    }
}

/// `Retry` keeps the key for the same request, if there is a record; `Free` frees it for any.
#[tokio::test]
async fn a_freed_key_is_free_for_any_request() {
    async fn app(disposition: Disposition) -> crate::app::App {
        let answer = move |_| async move {
            let mut response = StatusCode::OK.into_response();
            response.extensions_mut().insert(disposition);
            response
        };
        Setup::fenced().start(answer).await
    }
    let retry = app(Disposition::Retry).await;
    retry.order().send().await;
    retry.order().body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(retry.order().send().await.status, 200);
    let free = app(Disposition::Free).await;
    free.order().send().await;
    let now = free.clock.now();
    assert!(free.records().await.iter().all(|left| phase(Some(left), now) == Phase::Free), "only the epoch is left");
    assert_eq!(free.order().body("other").send().await.status, 200);
}

/// In `Atomic`, the handler's writes stay with a 2xx, and are rolled back with a 4xx or 5xx.
#[tokio::test]
async fn atomic_writes_stay_or_go_with_the_answer() {
    async fn create(mut tx: Tx<Sqlite>, Extension(answer): Extension<(u16, Option<Disposition>)>) -> Response {
        tx.run(|db| db.execute("INSERT INTO effect DEFAULT VALUES", [])).await.expect("it is written");
        let mut response = StatusCode::from_u16(answer.0).expect("a status").into_response();
        if let Some(disposition) = answer.1 {
            response.extensions_mut().insert(disposition);
        }
        response
    }
    let rows = [
        (201, None, 1, true),
        (303, None, 1, true),
        (404, None, 0, true),
        (422, None, 0, true),
        (429, None, 0, false),
        (500, None, 0, false),
        (404, Some(Disposition::Record), 1, true),
        (500, Some(Disposition::Record), 1, true),
        (200, Some(Disposition::RecordAlone), 0, true),
        (200, Some(Disposition::Retry), 0, false),
        (200, Some(Disposition::Free), 0, false),
        (200, Some(Disposition::Unknown), 0, false),
    ];
    for (status, disposition, effects, recorded) in rows {
        let directory = TempDir::new().unwrap();
        let options = sqlite::Options::default().with_clock(Clock::manual(START));
        let store = sqlite::Store::open_with(directory.path().join("test.db"), options).await.unwrap();
        store.execute(|db| db.execute_batch("CREATE TABLE effect (id INTEGER PRIMARY KEY)")).await.unwrap();
        let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
        let engine = Engine::atomic(store.clone(), Policy::default(), limits).unwrap();
        let app = Router::new()
            .route("/orders", axum::routing::post(create))
            .layer(Extension((status, disposition)))
            .layer(IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")));
        let (address, server) = serve(app).await;
        let call = Call::new(address, "POST", "/orders").caller("alice").key("k");
        let first = call.send().await;
        let count = || store.query(|db| db.query_row("SELECT count(*) FROM effect", [], |row| row.get::<_, i64>(0)));
        assert_eq!((first.status, count().await.unwrap()), (status, effects), "{status} {disposition:?}");
        let again = call.send().await;
        assert_eq!((again.status, again.replayed()), (status, recorded), "{status} {disposition:?}");
        assert_eq!(count().await.unwrap(), effects, "{status} {disposition:?}");
        server.abort();
    }
}

#[tokio::test]
async fn i3_the_answer_waits_for_its_record() {
    answer_waits_for_its_record(Fault::Held).await;
}

/// Checks a store that completes in this way.
pub(crate) async fn answer_waits_for_its_record(completes: Fault) {
    let app = Setup::fenced().start(|_| async { "made" }).await;
    app.store.always(Op::Complete, completes);
    let mut asked = app.order().begin().await;
    app.store.called(Op::Complete, 1).await;
    let answered = tokio::time::timeout(Duration::from_millis(300), asked.read_until("HTTP/1.1")).await;
    assert!(answered.is_err(), "it is answered before its record is written: {answered:?}");
    app.store.gate().open();
    assert_eq!(asked.reply().await.body_text(), "made");
    assert!(app.order().send().await.replayed());
}

/// What is stored is what was sent: status, kept headers, body.
#[tokio::test]
async fn nothing_but_the_answer_is_stored() {
    let app = Setup::fenced().start(|_| async { (StatusCode::CREATED, "made") }).await;
    app.order().send().await;
    let records = app.records().await;
    let State::Completed { outcome: Some(outcome), .. } = &records[0].state else { panic!("{records:?}") };
    let headers: Vec<_> =
        outcome.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!((outcome.status, headers), (StatusCode::CREATED, vec![("content-type", "text/plain; charset=utf-8")]));
    assert_eq!(outcome.body, keylatch::Body::Kept("made".into()));
}
