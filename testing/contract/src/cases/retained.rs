//! Answers that are delivered in full, and are not kept: too large, or without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use keylatch_core::Guarantee;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::{App, Gate, Running, Setup, Subject, until};

const KEPT_MAX: usize = 1_000;
/// No case takes longer.
const LONG: Duration = Duration::from_secs(3_600);

pub fn sha_256(bytes: &[u8]) -> Value {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha-256={digits}").into()
}

/// Checks that the request took effect, and is refused from now on with this digest.
pub async fn is_not_retained(app: &App<impl Running>, status: u16, digest: Value) {
    for _ in 0..2 {
        let again = app.order().send().await;
        let problem = again.is_problem(409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
        assert_eq!(problem["title"], "Request took effect, but its response was not retained");
        assert_eq!((&problem["retryable"], &problem["original_status"]), (&false.into(), &status.into()));
        assert_eq!(problem["original_digest"], digest);
        assert!(!again.replayed() && again.text("retry-after").is_none());
    }
    let other = app.order().body("other").send().await;
    other.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(app.runs(), 1);
}

pub async fn an_answer_at_the_limit_is_kept(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let setup = Setup { answer_bytes_max: Some(KEPT_MAX), ..Setup::new(guarantee) };
        let app = setup.start(at, |_| async { vec![b'a'; KEPT_MAX] }).await;
        assert_eq!(app.order().send().await.body.len(), KEPT_MAX);
        let again = app.order().send().await;
        assert!(again.replayed() && again.body == vec![b'a'; KEPT_MAX]);
    }
}

pub async fn an_answer_over_the_limit_is_delivered_and_not_kept(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        large_answer_is_not_kept(at, guarantee, IntoResponse::into_response).await;
    }
}

/// Checks it of a handler that answers so with a large body.
pub async fn large_answer_is_not_kept(
    at: &impl Subject,
    guarantee: Guarantee,
    answer: fn((StatusCode, Vec<u8>)) -> Response,
) {
    let large: Vec<u8> = (0..=255).cycle().take(KEPT_MAX + 1).collect();
    let body = large.clone();
    let setup = Setup { answer_bytes_max: Some(KEPT_MAX), ..Setup::new(guarantee) };
    let app = setup.start(at, move |_| std::future::ready(answer((StatusCode::CREATED, body.clone())))).await;
    let first = app.order().send().await;
    assert_eq!((first.status, first.whole), (201, true));
    assert!(first.body == large);
    assert_eq!(first.text("content-length").as_deref(), Some("1001"));
    assert!(first.text("idempotency-expires").is_some(), "until then, a retry is told");
    is_not_retained(&app, 201, sha_256(&large)).await;
}

pub async fn an_answer_that_grows_over_the_limit_is_delivered_and_not_kept(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let setup = Setup { answer_bytes_max: Some(KEPT_MAX), ..Setup::new(guarantee) };
        let parts = |_| async {
            let parts = (0..5_u8).map(|part| Ok::<_, std::io::Error>(Bytes::from(vec![part; 400])));
            Body::from_stream(stream::iter(parts)).into_response()
        };
        let app = setup.start(at, parts).await;
        let first = app.order().send().await;
        let all: Vec<u8> = (0..5).flat_map(|part| vec![part; 400]).collect();
        assert!(first.whole && first.body == all);
        // Its end was not seen before the record was written.
        is_not_retained(&app, 200, Value::Null).await;
    }
}

pub async fn an_event_stream_is_delivered_as_it_comes_and_not_kept(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let gate = Gate::closed();
        let events = gate.clone();
        let answer = move |_| {
            let events = events.clone();
            let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from("data: 1\n\n")) });
            let last = stream::once(async move {
                events.pass().await;
                Ok(Bytes::from("data: 2\n\n"))
            });
            let body = Body::from_stream(first.chain(last));
            std::future::ready(([("content-type", "Text/Event-Stream; charset=utf-8")], body).into_response())
        };
        // By its type, and not because its time is over.
        let app = Setup { answer_end_max: Some(LONG), ..Setup::new(guarantee) }.start(at, answer).await;
        let mut streaming = app.order().begin().await;
        let head = streaming.read_until("data: 1").await;
        assert!(head.contains("idempotency-expires"), "recorded before its first byte is sent: {head}");
        is_not_retained(&app, 200, Value::Null).await;
        gate.open();
        let streamed = streaming.reply().await;
        assert_eq!((streamed.body_text(), streamed.whole), ("data: 1\n\ndata: 2\n\n", true));
    }
}

/// A stream that does not say what it is: after a while it is let go, and nothing of it is lost.
pub async fn a_stream_without_an_end_in_sight_is_delivered_and_not_kept(at: &impl Subject) {
    let gate = Gate::closed();
    let more = gate.clone();
    let answer = move |_| {
        let more = more.clone();
        let parts = stream::iter(["a", "b"]).map(|part| Ok::<_, std::io::Error>(Bytes::from(part)));
        let last = stream::once(async move {
            more.pass().await;
            Ok(Bytes::from("c"))
        });
        std::future::ready(Body::from_stream(parts.chain(last)).into_response())
    };
    let app = Setup { answer_end_max: Some(Duration::from_millis(50)), ..Setup::fenced() }.start(at, answer).await;
    let mut streaming = app.order().begin().await;
    streaming.read_until("ab").await;
    is_not_retained(&app, 200, Value::Null).await;
    gate.open();
    assert_eq!(streaming.reply().await.body_text(), "abc");
}

/// It is recorded as having taken effect, so all of it has to happen.
pub async fn a_stream_whose_client_hangs_up_is_read_to_its_end(at: &impl Subject) {
    const PARTS: usize = 10;
    for &guarantee in at.guarantees() {
        for content_type in ["application/octet-stream", "text/event-stream"] {
            let (more, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
            let (permits, doing) = (more.clone(), done.clone());
            let answer = move |_| {
                let (more, doing) = (permits.clone(), doing.clone());
                let parts = stream::iter(1..=PARTS).then(move |part| {
                    let (more, doing) = (more.clone(), doing.clone());
                    async move {
                        if part > 1 {
                            more.acquire().await.expect("nobody closes it").forget();
                        }
                        doing.store(part, Ordering::Relaxed);
                        Ok::<_, std::io::Error>(Bytes::from(format!("part {part}\n")))
                    }
                });
                std::future::ready(([("content-type", content_type)], Body::from_stream(parts)).into_response())
            };
            let setup = Setup { answer_end_max: Some(Duration::from_millis(1)), ..Setup::new(guarantee) };
            let app = setup.start(at, answer).await;
            let mut streaming = app.order().begin().await;
            streaming.read_until("part 1").await;
            streaming.hang_up();
            // One after the other, so that the server comes to see that nobody takes them.
            let all_done = async || {
                more.add_permits(1);
                done.load(Ordering::Relaxed) == PARTS
            };
            until("all of it is done", all_done).await;
            is_not_retained(&app, 200, Value::Null).await;
        }
    }
}

/// A body that is late but ends in time is kept; in `Atomic`, which must not hold its transaction, it is not.
pub async fn a_late_end_is_waited_for_outside_of_atomic(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let late = |_| {
            let parts = stream::iter(["a", "b"]).then(|part| async move {
                tokio::task::yield_now().await;
                Ok::<_, std::io::Error>(Bytes::from(part))
            });
            std::future::ready(Body::from_stream(parts).into_response())
        };
        let app = Setup { answer_end_max: Some(LONG), ..Setup::new(guarantee) }.start(at, late).await;
        assert_eq!(app.order().send().await.body_text(), "ab");
        if guarantee == Guarantee::Atomic {
            is_not_retained(&app, 200, Value::Null).await;
        } else {
            let again = app.order().send().await;
            assert_eq!((again.body_text(), again.replayed()), ("ab", true));
        }
    }
}
