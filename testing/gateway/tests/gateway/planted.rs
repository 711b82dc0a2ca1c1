//! Mistakes that a gateway could make, made by the service instead: its `Idempotency-Disposition` says what the gateway
//! must never say. Then the checks of the other tests must fail.

use http::Method;
use testing_history::{Event, Guarantee, Invariant, What, check, ledger};

use crate::dispositions::{SILENCE, again, no_word_on_the_record};
use crate::setup::{Answer, Pair};

/// A letter is begun, and then the service says that nothing was sent.
#[tokio::test]
async fn a_time_out_that_is_taken_for_nothing_sent_is_seen_as_a_second_start() {
    let pair = Pair::new("at-most-once", &["--upstream-key", "received"]).await;
    for _ in 0..2 {
        let headers = [("x-user-id", "alice"), ("idempotency-key", "k")];
        assert_eq!(pair.send(Method::POST, "/lies", &headers, "a").await.status, 502);
    }
    assert_eq!(pair.starts("k"), 2);
    let mut history = ledger::read(&pair.ledger_path()).unwrap();
    history.push(Event::now("alice", "k", What::Record { epoch: 1 }));
    let violations = check(&history, Guarantee::AtMostOnce).expect_err("two starts are one too many");
    assert!(violations.iter().any(|violation| violation.invariant == Invariant::I1), "{violations:?}");
}

/// A first attempt gets no answer, and the second one says that the key is free.
#[tokio::test]
async fn a_later_attempt_that_speaks_for_those_before_is_seen_by_another_request_that_runs() {
    let pair = Pair::new("fenced", &SILENCE).await;
    for path in ["/silent", "/silent/then-free"] {
        assert_eq!(pair.post(path, path, "a").await.status, 504);
    }
    assert_eq!(again(&pair, "/silent", "/silent").await, (504, 422), "so it is");
    assert_eq!(again(&pair, "/silent/then-free", "/silent/then-free").await, (502, 504), "and here another ran");
}

/// A client gets the answer without the gateway that would have taken the word out of it.
#[tokio::test]
#[should_panic(expected = "a word on the record")]
async fn a_word_on_the_record_that_reaches_a_client_is_seen() {
    let pair = Pair::new("fenced", &[]).await;
    let answer = reqwest::get(format!("{}/says/free", pair.upstream.url)).await.expect("an answer");
    no_word_on_the_record(&Answer::read(answer).await);
}
