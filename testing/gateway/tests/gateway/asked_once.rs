//! The HTTP contract, through the gateway.

use http::Method;
use testing_support::raw::{Connection, Leave, bytes_of};
use tokio::task::JoinSet;

use crate::setup::{Pair, SOON};

#[tokio::test]
async fn a_request_takes_effect_once_and_its_answer_is_given_again() {
    for guarantee in ["fenced", "at-most-once"] {
        let pair = Pair::new(guarantee, &["--require-key"]).await;
        let first = pair.post("/letters", "k", "a").await;
        assert_eq!((first.status, first.is_replay()), (201, false));
        assert!(first.header("idempotency-expires").is_some());
        let again = pair.post("/letters", "k", "a").await;
        assert_eq!((again.status, again.is_replay()), (201, true));
        assert_eq!(again.body, first.body);
        let other = pair.post("/letters", "k", "b").await;
        assert_eq!((other.status, other.code().as_str()), (422, "IDEMPOTENCY_KEY_REUSED"));
        assert_eq!(pair.starts("k"), 0, "the key is withheld");
        assert_eq!(pair.upstream.upstream.seen().len(), 1);

        let without = pair.send(Method::POST, "/letters", &[("x-user-id", "alice")], "a").await;
        assert_eq!((without.status, without.code().as_str()), (400, "IDEMPOTENCY_KEY_REQUIRED"));
        let nobody = pair.send(Method::POST, "/letters", &[("idempotency-key", "k")], "a").await;
        assert_eq!((nobody.status, nobody.code().as_str()), (400, "IDEMPOTENCY_SCOPE_REQUIRED"));
        let large = pair.post("/letters", "large", &"x".repeat((1 << 20) + 1)).await;
        assert_eq!((large.status, large.code().as_str()), (413, "REQUEST_TOO_LARGE"));
        assert_eq!(pair.upstream.upstream.seen().len(), 1, "a refusal reaches nobody");
        let read = pair.send(Method::GET, "/echo", &[("idempotency-key", "k")], "").await;
        assert_eq!((read.status, read.is_replay()), (200, false));
        pair.gateway.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_alike_at_once_are_one_letter() {
    let pair = std::sync::Arc::new(Pair::new("at-most-once", &["--upstream-key", "received"]).await);
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        let pair = pair.clone();
        clients.spawn(async move {
            let headers = [("x-user-id", "alice"), ("idempotency-key", "k"), ("prefer", "wait=10")];
            pair.send(Method::POST, "/letters", &headers, "a").await
        });
    }
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.body == answers[0].body));
    assert_eq!(answers.iter().filter(|answer| !answer.is_replay()).count(), 1);
    assert_eq!(pair.starts("k"), 1);
}

#[tokio::test]
async fn an_answer_outlives_the_gateway_and_the_service() {
    let mut pair = Pair::new("at-most-once", &[]).await;
    let first = pair.post("/letters", "k", "a").await;
    pair.stop_upstream().await;
    let (dir, url) = (pair.ledger_path(), pair.upstream.url.clone());
    let arguments = ["--drain-max", "5s"];
    let next = Pair::gateway_in(dir.parent().unwrap(), &url, "at-most-once", &arguments).await;
    let before = std::mem::replace(&mut pair.gateway, next);
    let (status, printed) = before.terminate().await;
    assert!(status.success() && printed.contains("all requests have ended"), "{printed}");
    let again = pair.post("/letters", "k", "a").await;
    assert_eq!((again.status, again.is_replay(), &again.body), (201, true, &first.body));
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_runs_finds_it_done() {
    let pair = Pair::new("at-most-once", &["--upstream-key", "received"]).await;
    for (leave, key) in [(Leave::Close, "close"), (Leave::Reset, "reset")] {
        let request = testing_support::client::Request {
            path: "/letters",
            scope: "alice".to_owned(),
            key: key.to_owned(),
            body: "a".into(),
            wait_s: None,
        };
        let bytes = bytes_of(&request, pair.gateway.authority());
        let connection = Connection::sending(pair.gateway.authority(), &bytes).await.unwrap();
        testing_support::eventually(SOON, "the letter to be begun", async || pair.starts(key) == 1).await;
        connection.leave(leave).await;
        let headers = [("x-user-id", "alice"), ("idempotency-key", key), ("prefer", "wait=10")];
        let headers = [&headers[..], &[("content-type", "application/json")]].concat();
        let found = pair.send(Method::POST, "/letters", &headers, "a").await;
        assert_eq!((found.status, found.is_replay()), (201, true), "{found:?}");
        assert_eq!(pair.starts(key), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_delivered_and_not_retained() {
    let pair = Pair::new("fenced", &["--response-body-max", "1KiB"]).await;
    let first = pair.post("/large/100000", "k", "").await;
    assert_eq!((first.status, first.body.len()), (200, 100_000));
    let again = pair.post("/large/100000", "k", "").await;
    assert_eq!((again.status, again.code().as_str()), (409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED"));
    assert_eq!(pair.upstream.upstream.seen().len(), 1);
}
