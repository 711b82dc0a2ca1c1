//! What the gateway records if a request got no answer, or an answer with a disposition.

use std::net::TcpListener;

use crate::setup::{Answer, Pair, gateway};

pub(crate) const SILENCE: [&str; 2] = ["--upstream-silence-max", "500ms"];

/// The second answer to the same request, and what another request with its key gets then.
pub(crate) async fn again(pair: &Pair, path: &str, key: &str) -> (u16, u16) {
    let again = pair.post(path, key, "a").await;
    let other = pair.post(path, key, "another").await;
    (again.status, other.status)
}

/// Checks that a client does not get what the service says of the record.
#[track_caller]
pub(crate) fn no_word_on_the_record(answer: &Answer) {
    assert_eq!(answer.header("idempotency-disposition"), None, "a word on the record: {answer:?}");
}

#[tokio::test]
async fn what_was_sent_and_not_answered_is_unknown_in_at_most_once() {
    let pair = Pair::new("at-most-once", &SILENCE).await;
    for (path, status, code) in [
        ("/silent", 504, "UPSTREAM_TIMEOUT"),
        ("/nothing", 502, "UPSTREAM_FAILED"),
        ("/half", 502, "UPSTREAM_FAILED"),
        ("/stall", 504, "UPSTREAM_TIMEOUT"),
        ("/reset", 502, "UPSTREAM_FAILED"),
    ] {
        let before = pair.upstream.upstream.seen().len();
        let answer = pair.post(path, path, "a").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert_eq!(answer.json()["retryable"], false, "{path}");
        assert_eq!(answer.header("idempotency-expires"), None, "{path}: nothing is recorded");
        let again = pair.post(path, path, "a").await;
        assert_eq!((again.status, again.code().as_str()), (409, "IDEMPOTENCY_OUTCOME_UNKNOWN"), "{path}");
        assert_eq!(pair.post(path, path, "another").await.status, 422, "{path}");
        assert_eq!(pair.upstream.upstream.seen().len(), before + 1, "{path}: one start");
    }
}

#[tokio::test]
async fn what_was_sent_and_not_answered_may_run_again_in_fenced() {
    let pair = Pair::new("fenced", &SILENCE).await;
    for (path, status) in [("/silent", 504), ("/nothing", 502), ("/half", 502), ("/stall", 504), ("/reset", 502)] {
        let before = pair.upstream.upstream.seen().len();
        let answer = pair.post(path, path, "a").await;
        assert_eq!((answer.status, &answer.json()["retryable"]), (status, &true.into()), "{path}");
        assert_eq!(again(&pair, path, path).await, (status, 422), "{path}");
        let seen = pair.upstream.upstream.seen();
        let [first, second] = &seen[before..] else { panic!("{path}: {seen:?}") };
        assert_eq!(first.header("idempotency-derived-key"), second.header("idempotency-derived-key"), "{path}");
        assert_eq!(second.header("idempotency-attempt").as_deref(), Some("2"), "{path}");
        assert!(first.header("idempotency-epoch") < second.header("idempotency-epoch"), "{path}");
    }
}

#[tokio::test]
async fn what_was_not_sent_frees_its_key_on_a_first_attempt() {
    for guarantee in ["fenced", "at-most-once"] {
        let mut pair = Pair::new(guarantee, &SILENCE).await;
        let port = pair.stop_upstream().await;
        for body in ["a", "another"] {
            let answer = pair.post("/letters", "k", body).await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "UPSTREAM_UNREACHABLE"), "{guarantee}");
            assert_eq!(answer.json()["retryable"], true);
        }
        pair.start_upstream(port).await;
        assert_eq!(pair.post("/letters", "k", "a third").await.status, 201, "{guarantee}");
    }
}

#[tokio::test]
async fn what_was_not_sent_on_a_later_attempt_says_nothing_of_those_before() {
    let mut pair = Pair::new("fenced", &SILENCE).await;
    assert_eq!(pair.post("/silent", "k", "a").await.status, 504);
    let port = pair.stop_upstream().await;
    let answer = pair.post("/silent", "k", "a").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "UPSTREAM_UNREACHABLE"));
    pair.start_upstream(port).await;
    assert_eq!(again(&pair, "/silent", "k").await, (504, 422), "its first attempt may have had its effect");
}

/// The service closes a kept connection while a request is on its way to it. hyper returns the request if none of its
/// bytes were written, and only then it is sent on another connection.
#[tokio::test]
async fn a_service_that_starts_again_is_found_again() {
    let mut pair = Pair::new("at-most-once", &["--upstream-idle-max", "1h"]).await;
    for round in 0..10 {
        assert_eq!(pair.post("/letters", &format!("k{round}"), "a").await.status, 201);
        let port = pair.stop_upstream().await;
        pair.start_upstream(port).await;
    }
}

/// A service that never ends its head, however often it sends another byte of it, is silent. One that drips a body of no
/// known length holds its key no longer than an answer is waited for.
#[tokio::test]
async fn a_service_that_drips_is_given_up_or_recorded() {
    let pair = Pair::new("at-most-once", &[&SILENCE[..], &["--response-end-max", "1s"]].concat()).await;
    let answer = pair.post("/drips-head", "head", "a").await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "UPSTREAM_TIMEOUT"));
    assert_eq!(pair.post("/drips-head", "head", "a").await.code(), "IDEMPOTENCY_OUTCOME_UNKNOWN");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{}/drips", pair.gateway.url())).header("x-user-id", "alice");
    let mut dripping = request.header("idempotency-key", "body").body("a").send().await.expect("its head comes");
    assert_eq!(dripping.status(), 200);
    assert_eq!(pair.post("/drips", "body", "a").await.code(), "IDEMPOTENCY_RESPONSE_NOT_RETAINED");
    assert!(dripping.chunk().await.expect("it goes on").is_some());
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_is_an_answer() {
    let pair = Pair::new("at-most-once", &[]).await;
    for (key, body) in [("small", "a".to_owned()), ("large", "x".repeat(1 << 20))] {
        let answer = pair.post("/early", key, &body).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &b"early"[..]), "{key}");
        assert!(pair.post("/early", key, &body).await.is_replay(), "{key}");
    }
}

#[tokio::test]
async fn the_service_may_say_itself_what_becomes_of_the_record_and_no_client_hears_of_it() {
    for guarantee in ["fenced", "at-most-once"] {
        let pair = Pair::new(guarantee, &[]).await;
        for (word, expected) in [
            ("record", (200, 422)),
            // Where nothing may start twice, a key that may be retried is free.
            ("retry", (200, if guarantee == "fenced" { 422 } else { 200 })),
            ("free", (200, 200)),
            ("unknown", (409, 422)),
            ("nonsense", (200, 422)),
        ] {
            let path = format!("/says/{word}");
            let answer = pair.post(&path, word, "a").await;
            assert_eq!((answer.status, &answer.body[..]), (200, &b"said"[..]), "{word}");
            no_word_on_the_record(&answer);
            let again = pair.post(&path, word, "a").await;
            let other = pair.post(&path, word, "another").await;
            assert_eq!((again.status, other.status), expected, "{guarantee}: {word}");
            let replayed = matches!(word, "record" | "nonsense");
            assert_eq!(again.is_replay(), replayed, "{guarantee}: {word}");
            no_word_on_the_record(&again);
        }
        let unguarded = pair.send(http::Method::GET, "/says/free", &[], "").await;
        no_word_on_the_record(&unguarded);
    }
}

#[tokio::test]
async fn an_unguarded_request_without_an_answer_says_whether_it_may_be_sent_again() {
    let pair = Pair::new("fenced", &SILENCE).await;
    for (method, path, status, retryable) in [
        (http::Method::GET, "/silent", 504, true),
        (http::Method::POST, "/silent", 504, false),
        (http::Method::PUT, "/nothing", 502, true),
        (http::Method::POST, "/nothing", 502, false),
    ] {
        let before = pair.upstream.upstream.seen().len();
        let answer = pair.send(method.clone(), path, &[], "").await;
        assert_eq!((answer.status, &answer.json()["retryable"]), (status, &retryable.into()), "{method} {path}");
        assert_eq!(pair.upstream.upstream.seen().len(), before + 1, "{method} {path}: it is not sent again");
    }
}

#[tokio::test]
async fn a_service_that_was_never_there_is_told_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let arguments = ["--store", "memory:", "--scope", "shared:all", "--guarantee", "at-most-once"];
    let gateway = gateway(&format!("http://{nobody}"), &arguments).start().await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.post(format!("{}/x", gateway.url())).header("idempotency-key", "k").send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert!(gateway.printed().contains("nothing was sent") || gateway.printed().contains("cannot be reached"));
}
