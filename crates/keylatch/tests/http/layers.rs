//! Which layers go outside and which inside: what the manual says, tried with the layers of tower-http.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::middleware::{Next, from_fn};
use axum::routing::post;
use axum::{Extension, Router};
use http::{HeaderName, Method, Request, Response, StatusCode};
use keylatch::http::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, IdempotencyLayer, ScopeFrom};
use keylatch::memory;
use tokio::task::JoinHandle;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::app::serve;
use crate::common::{Gate, until};
use crate::wire::{Call, Reply};

/// A service that stops when it is dropped.
struct Served {
    call: Call,
    server: JoinHandle<()>,
}

impl Served {
    async fn new(app: Router) -> Self {
        let (address, server) = serve(app).await;
        Self { call: Call::new(address, "POST", "/orders").caller("alice").key("k").json("{\"item\":1}"), server }
    }

    fn call(&self) -> Call {
        self.call.clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn guard() -> IdempotencyLayer {
    IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id"))
}

/// How often a handler began.
#[derive(Clone, Default)]
struct Starts(Arc<AtomicUsize>);

impl Starts {
    fn begin(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// ---- Time-outs -----------------------------------------------------------------------------------------

/// The client gets a reply in time, the handler runs to its end, and a retry gets its answer.
#[tokio::test]
async fn a_time_out_outside_ends_the_wait_and_not_the_run() {
    let (gate, starts) = (Gate::closed(), Starts::default());
    let (waiting, begun) = (gate.clone(), starts.clone());
    let handler = move || async move {
        begun.begin();
        waiting.pass().await;
        (StatusCode::CREATED, "made")
    };
    let app = Router::new()
        .route("/orders", post(handler))
        .layer(guard())
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(100)));
    let served = Served::new(app).await;
    // On a busy machine the time may be over before the handler has begun, and then nothing runs.
    until("the handler runs", async || {
        assert_eq!(served.call().wait(60).send().await.status, 408);
        starts.count() > 0
    })
    .await;
    gate.open();
    let mut last: Option<Reply> = None;
    until("a retry gets the answer", async || {
        last = Some(served.call().send().await);
        last.as_ref().is_some_and(|reply| reply.status == 201)
    })
    .await;
    let reply = last.expect("it was asked");
    assert_eq!((reply.body_text(), reply.replayed(), starts.count()), ("made", true, 1));
}

/// The handler is dropped half-way, and a retry starts it again. In `AtMostOnce` the outcome is unknown instead:
/// `recorded::i1_a_run_that_timed_out_never_starts_again_in_at_most_once`.
#[tokio::test]
async fn a_time_out_inside_ends_the_run() {
    let starts = Starts::default();
    let begun = starts.clone();
    let handler = move || async move {
        if begun.begin() == 1 {
            std::future::pending::<()>().await;
        }
        "made"
    };
    let app = Router::new()
        .route("/orders", post(handler))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(200)))
        .layer(guard());
    let served = Served::new(app).await;
    assert_eq!(served.call().send().await.status, 408);
    let again = served.call().send().await;
    assert_eq!((again.body_text(), again.replayed(), starts.count()), ("made", false, 2));
}

// ---- Limits --------------------------------------------------------------------------------------------

/// Whether the length says that the body is too large, or reading it: nothing runs, and nothing is recorded.
#[tokio::test]
async fn a_body_limit_outside_refuses_before_anything_is_recorded() {
    let layer = guard().require_key();
    let app = Router::new().route("/orders", post(|body: String| async { body })).layer(layer);
    let served = Served::new(app.layer(RequestBodyLimitLayer::new(10))).await;
    assert_eq!(served.call().body("x".repeat(11)).send().await.status, 413);
    let chunked = served.call().chunked(["12345", "67890", "1"]).send().await;
    let problem = chunked.is_problem(413, "REQUEST_TOO_LARGE");
    assert_eq!(problem["retryable"], false);
    let within = served.call().chunked(["12345", "67890"]).send().await;
    assert_eq!((within.status, within.body_text(), within.replayed()), (200, "1234567890", false));
}

/// The handler's answer is recorded like any other: the same request is too large every time.
#[tokio::test]
async fn a_body_limit_inside_is_recorded() {
    let app = Router::new().route("/orders", post(|body: String| async { body }));
    let served = Served::new(app.layer(RequestBodyLimitLayer::new(10)).layer(guard())).await;
    for replayed in [false, true] {
        let reply = served.call().body("x".repeat(11)).send().await;
        assert_eq!((reply.status, reply.replayed()), (413, replayed));
    }
}

// ---- Compression ---------------------------------------------------------------------------------------

const TEXT: &str = "the same line, again and again; ";

fn long() -> String {
    TEXT.repeat(100)
}

const GZIP: &[u8] = &[0x1f, 0x8b];

/// Each client gets the answer in an encoding that it accepts, and the encoding is not part of the record.
#[tokio::test]
async fn compression_outside_suits_each_client() {
    let app = Router::new().route("/orders", post(|| async { long() })).layer(guard());
    let served = Served::new(app.layer(CompressionLayer::new())).await;
    let gzip = || served.call().header("Accept-Encoding", "gzip");
    for replayed in [false, true] {
        let reply = gzip().send().await;
        assert_eq!((reply.text("content-encoding").as_deref(), reply.replayed()), (Some("gzip"), replayed));
        assert!(reply.body.starts_with(GZIP) && reply.body.len() < long().len() / 4);
        assert_eq!(reply.text("vary").as_deref(), Some("accept-encoding"));
    }
    let plain = served.call().send().await;
    assert_eq!((plain.text("content-encoding"), plain.body_text(), plain.replayed()), (None, long().as_str(), true));
}

/// The record has the encoding that the first client asked for, for every later request.
#[tokio::test]
async fn compression_inside_is_recorded_as_it_was() {
    let app = Router::new().route("/orders", post(|| async { long() }));
    let served = Served::new(app.layer(CompressionLayer::new()).layer(guard())).await;
    let first = served.call().header("Accept-Encoding", "gzip").send().await;
    let plain = served.call().send().await;
    assert!(plain.replayed() && plain.body == first.body && plain.body.starts_with(GZIP));
    for name in ["content-encoding", "vary"] {
        assert_eq!((plain.text(name), plain.text(name).is_some()), (first.text(name), true), "{name}");
    }
}

// ---- CORS ----------------------------------------------------------------------------------------------

fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods([Method::POST])
        .allow_headers(AllowHeaders::list([IDEMPOTENCY_KEY, http::header::CONTENT_TYPE]))
        .expose_headers([IDEMPOTENT_REPLAYED])
}

const ALLOWED: HeaderName = http::header::ACCESS_CONTROL_ALLOW_ORIGIN;

/// Each answer allows the origin of its own request, including refusals and replays.
#[tokio::test]
async fn cors_outside_answers_each_origin() {
    let app = Router::new().route("/orders", post(|| async { "made" })).layer(guard().require_key());
    let served = Served::new(app.layer(cors())).await;
    for (origin, replayed) in [("https://one.example", false), ("https://two.example", true)] {
        let reply = served.call().header("Origin", origin).send().await;
        assert_eq!((reply.text(ALLOWED.as_str()).as_deref(), reply.replayed()), (Some(origin), replayed));
    }
    let refused = served.call().without("Idempotency-Key").header("Origin", "https://one.example").send().await;
    refused.is_problem(400, "IDEMPOTENCY_KEY_REQUIRED");
    assert_eq!(refused.text(ALLOWED.as_str()).as_deref(), Some("https://one.example"));
}

/// A replay has no such header, because the header belonged to another request. So a browser does not show the answer
/// to its page.
#[tokio::test]
async fn cors_inside_is_missing_from_replays() {
    let app = Router::new().route("/orders", post(|| async { "made" }));
    let served = Served::new(app.layer(cors()).layer(guard())).await;
    let call = || served.call().header("Origin", "https://one.example");
    assert_eq!(call().send().await.text(ALLOWED.as_str()).as_deref(), Some("https://one.example"));
    let again = call().send().await;
    assert_eq!((again.text(ALLOWED.as_str()), again.replayed()), (None, true));
}

// ---- Tracing -------------------------------------------------------------------------------------------

/// Outside, it sees every answer; inside, only the handlers' answers.
#[tokio::test]
async fn tracing_outside_sees_replays_and_refusals() {
    let (outside, inside) = (Starts::default(), Starts::default());
    let seen = |seen: &Starts| {
        let seen = seen.clone();
        TraceLayer::new_for_http().make_span_with(|_: &Request<_>| Span::none()).on_response(
            move |_: &Response<_>, _: Duration, _: &Span| {
                seen.begin();
            },
        )
    };
    let app = Router::new().route("/orders", post(|| async { "made" }));
    let served = Served::new(app.layer(seen(&inside)).layer(guard().require_key()).layer(seen(&outside))).await;
    assert_eq!(served.call().send().await.status, 200);
    assert!(served.call().send().await.replayed());
    assert_eq!(served.call().without("Idempotency-Key").send().await.status, 400);
    assert_eq!((outside.count(), inside.count()), (3, 1));
}

// ---- Task-locals ---------------------------------------------------------------------------------------

tokio::task_local! {
    static CONTEXT: u32;
}

/// Outside, the task is another one. An extension belongs to the request.
#[tokio::test]
async fn a_task_local_inside_reaches_the_handler() {
    async fn with_context(mut request: Request<Body>, next: Next) -> Response<Body> {
        request.extensions_mut().insert(7_u32);
        CONTEXT.scope(7, next.run(request)).await
    }
    async fn seen(Extension(extension): Extension<u32>) -> String {
        let context = CONTEXT.try_with(|context| *context).ok();
        assert_eq!(extension, 7);
        format!("{context:?}")
    }
    let app = || Router::new().route("/orders", post(seen));
    let outside = Served::new(app().layer(guard()).layer(from_fn(with_context))).await;
    let inside = Served::new(app().layer(from_fn(with_context)).layer(guard())).await;
    for (served, expected) in [(outside, "None"), (inside, "Some(7)")] {
        for replayed in [false, true] {
            let reply = served.call().send().await;
            assert_eq!((reply.body_text(), reply.replayed()), (expected, replayed));
        }
    }
}
