//! Clients that send their bodies slowly.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use keylatch::http::{BODY_BYTES_PER_SECOND_MIN, BODY_STALL_MAX, GuardedBody, IdempotencyLayer, ScopeFrom};
use keylatch::memory;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::app::{Seen, Setup};

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    // It never stalls, and is far slower than the limit.
    let setup = Setup::fenced().layer(|layer| layer.with_body_pace(Duration::from_millis(500), 1_000));
    let app = setup.start(ok).await;
    let call = app.order().body("x".repeat(1_000));
    let trickling = call.open(&call.head()).await;
    let trickled = tokio::time::timeout(Duration::from_secs(60), trickling.trickle(b'x', Duration::from_millis(10)));
    let (sent, reply) = trickled.await.expect("it is not read for ever");
    assert!((1..1_000).contains(&sent), "{sent} bytes were sent");
    let problem = reply.is_problem(408, "REQUEST_TIMEOUT");
    assert_eq!((&problem["title"], &problem["retryable"]), (&"Request body too slow".into(), &true.into()));
    assert_eq!(reply.text("connection").as_deref(), Some("close"));
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
    assert_eq!(call.send().await.body_text(), "run 1", "the key is free");
}

/// How a request fares that sends pieces of these many bytes after these pauses, and how long it took: on a clock that
/// jumps whenever nothing else is to do.
async fn fares(pieces: impl IntoIterator<Item = (Duration, usize)>) -> (u16, Duration) {
    let pieces: Vec<_> = pieces.into_iter().collect();
    let body = stream::iter(pieces).then(|(pause, bytes)| async move {
        sleep(pause).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; bytes])))
    });
    let inner = tower::service_fn(|request: Request<GuardedBody<_>>| async {
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, Infallible>(Response::new(Full::new(body)))
    });
    let service = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::shared("one")).layer(inner);
    let request = Request::post("/orders").header("idempotency-key", "k").body(StreamBody::new(Box::pin(body)));
    let started = Instant::now();
    let response = service.oneshot(request.expect("a request")).await.expect("an answer");
    (response.status().as_u16(), started.elapsed())
}

const SECOND: Duration = Duration::from_secs(1);
/// How late a timer may be.
const TICK: Duration = Duration::from_millis(2);

#[tokio::test(start_paused = true)]
async fn a_large_upload_over_a_slow_link_is_read() {
    let piece = BODY_BYTES_PER_SECOND_MIN as usize + 1;
    let (status, took) = fares((0..1_000).map(|_| (SECOND, piece))).await;
    assert_eq!((status, took.as_secs()), (200, 1_000));
    // Earlier or later bytes make up for a pause.
    let paused = [(SECOND, 40 * piece), (BODY_STALL_MAX - SECOND, 1), (BODY_STALL_MAX - SECOND, 1)];
    assert_eq!(fares(paused).await.0, 200);
    let late = [(BODY_STALL_MAX - SECOND, 40 * piece), (BODY_STALL_MAX - SECOND, 1)];
    assert_eq!(fares(late).await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_body_has_is_bounded() {
    // Nothing at all; nothing after the first bytes; too little.
    let never = Duration::from_secs(1_000_000);
    let (status, took) = fares([(never, 1)]).await;
    assert!(status == 408 && took >= BODY_STALL_MAX && took <= BODY_STALL_MAX + TICK, "{status} after {took:?}");
    let (status, took) = fares([(10 * SECOND, 1_000_000), (never, 1)]).await;
    let stalled = 10 * SECOND + BODY_STALL_MAX;
    assert!(status == 408 && took >= stalled && took <= stalled + TICK, "{status} after {took:?}");
    let half = BODY_BYTES_PER_SECOND_MIN as usize / 2;
    let (status, took) = fares((0..1_000_000).map(|_| (SECOND, half))).await;
    // As much time as the received bytes are worth: t = 30 + t / 2, from the first second on.
    assert!(
        status == 408 && took >= 2 * BODY_STALL_MAX - 2 * SECOND && took <= 2 * BODY_STALL_MAX + SECOND,
        "{took:?}"
    );
}
