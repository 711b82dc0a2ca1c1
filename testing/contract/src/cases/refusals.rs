//! What is refused, and that a refusal leaves nothing.

use std::time::Duration;

use keylatch_core::Guarantee;

use super::waiting;
use crate::{Gate, Seen, Setup, Subject};

async fn ok(seen: Seen) -> String {
    format!("run {}", seen.nth)
}

pub async fn a_body_that_ends_before_its_end_is_400(at: &impl Subject) {
    let app = Setup::fenced().start(at, ok).await;
    let call = app.order().chunked([]);
    let broken = [call.head(), b"3\r\nabc\r\nnot a size\r\n".to_vec()].concat();
    let problem = call.open(&broken).await.reply().await.is_problem(400, "REQUEST_INCOMPLETE");
    assert_eq!(problem["retryable"], true);
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
    assert_eq!(call.send().await.status, 200, "the key is free");
}

pub async fn a_body_over_the_limit_is_413(at: &impl Subject) {
    for keyed in [true, false] {
        let key_pointer = if keyed { None } else { Some("/id") };
        let setup = Setup { body_bytes_max: Some(10), key_pointer, ..Setup::fenced() };
        let app = setup.start(at, ok).await;
        let call = app.call("POST", "/orders").key("k");
        // The length alone is enough: nothing of the body is sent.
        let promised = call.clone().body("x".repeat(11));
        let replies = [
            promised.open(&promised.head()).await.reply().await,
            promised.send().await,
            call.clone().chunked(["12345", "67890", "1"]).send().await,
        ];
        for reply in replies {
            let problem = reply.is_problem(413, "REQUEST_TOO_LARGE");
            assert_eq!((&problem["title"], &problem["retryable"]), (&"Request body too large".into(), &false.into()));
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("10 bytes")));
        }
        assert_eq!((app.runs(), app.records().await.len()), (0, 0));
        assert_eq!(
            call.clone().chunked(["12345", "67890"]).send().await.status,
            200,
            "at the limit, and the key is free"
        );
    }
}

pub async fn a_duplicate_of_a_running_request_is_409(at: &impl Subject) {
    for &guarantee in at.guarantees() {
        let gate = Gate::closed();
        let app = waiting(at, Setup::new(guarantee), &gate).await;
        let running = app.order().begin().await;
        app.ran(1).await;
        let duplicate = app.order().send().await;
        let problem = duplicate.is_problem(409, "IDEMPOTENCY_KEY_IN_PROGRESS");
        assert_eq!(problem["title"], "Request with this idempotency key is in progress");
        assert_eq!(problem["retryable"], true);
        assert_eq!(duplicate.text("retry-after").as_deref(), Some("1"));
        // 422 is checked before 409. In `Atomic` nothing is certain yet.
        let (status, code) = match guarantee {
            Guarantee::Atomic => (409, "IDEMPOTENCY_KEY_IN_PROGRESS"),
            Guarantee::Fenced | Guarantee::AtMostOnce => (422, "IDEMPOTENCY_KEY_REUSED"),
        };
        for other in [app.order().body("other"), app.order().body("other").wait(5)] {
            let other = other.send().await;
            other.is_problem(status, code);
            assert_eq!(other.text("retry-after").is_some(), status == 409);
        }
        gate.open();
        assert_eq!(running.reply().await.body_text(), "run 1");
        assert_eq!((app.order().send().await.replayed(), app.runs()), (true, 1), "{guarantee:?}");
    }
}

pub async fn a_request_whose_answer_has_expired_is_410(at: &impl Subject) {
    const KEPT: Duration = Duration::from_secs(1);
    for &guarantee in at.guarantees() {
        let app = Setup { kept: Some((KEPT, 3_600 * KEPT)), ..Setup::new(guarantee) }.start(at, ok).await;
        app.order().send().await;
        app.pass(KEPT).await;
        for _ in 0..2 {
            let problem = app.order().send().await.is_problem(410, "IDEMPOTENCY_KEY_EXPIRED");
            assert_eq!((&problem["title"], &problem["retryable"]), (&"Idempotency key expired".into(), &false.into()));
            app.order().body("other").send().await.is_problem(422, "IDEMPOTENCY_KEY_REUSED");
        }
        assert_eq!(app.runs(), 1);
    }
}

pub async fn a_body_that_does_not_come_is_408(at: &impl Subject) {
    let setup = Setup { body_stall_max: Some(Duration::from_millis(50)), ..Setup::fenced() };
    let app = setup.start(at, ok).await;
    let call = app.order();
    let reply = call.open(&call.head()).await.reply().await;
    reply.is_problem(408, "REQUEST_TIMEOUT");
    assert_eq!((app.runs(), app.records().await.len()), (0, 0));
    assert_eq!(call.send().await.status, 200, "the key is free, and a body that is there is not too slow");
}
