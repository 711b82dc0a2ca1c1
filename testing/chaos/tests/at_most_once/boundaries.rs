//! Kill -9 at every boundary between two steps of a run.

use std::os::unix::process::ExitStatusExt;

use testing_history::Reply;
use testing_support::eventually;

use crate::office::{Office, SOON, endless_letter, letter};

const KILLS: usize = 20;
const SIGKILL: i32 = 9;

/// What a kill leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing: a retry runs.
    Nothing,
    /// A record without an outcome.
    Unknown,
    /// The outcome: a retry gets it.
    Outcome,
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_before_the_claim() {
    kill_at("before-claim", Left::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_after_the_claim() {
    kill_at("after-claim", Left::Unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_after_the_handlers_write() {
    kill_at("after-handler-write", Left::Unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_before_the_commit() {
    kill_at("before-commit", Left::Unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_after_the_commit() {
    kill_at("after-commit", Left::Outcome).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_before_the_answer() {
    kill_at("before-answer", Left::Outcome).await;
}

async fn kill_at(boundary: &str, left: Left) {
    let office = Office::new().await;
    let letters: Vec<_> = (0..KILLS).map(|kill| letter(format!("key-{kill}"))).collect();
    for letter in &letters {
        let server = office.open_to_fail(boundary, "kill").await;
        assert_eq!(office.client.send(letter, SOON).await, Reply::Nothing, "it died before it could answer");
        assert_eq!(server.ended().await.signal(), Some(SIGKILL));
    }
    let server = office.open().await;
    for letter in &letters {
        if left == Left::Unknown {
            office.until_unknown(letter).await;
            assert!(office.client.send(letter, SOON).await.is_unknown(), "and so it stays");
            assert_eq!(office.resolve(letter).await, Some(204));
        }
        let started = office.has_started(letter);
        let answer = office.insist(letter).await;
        assert_eq!((answer.status, answer.replayed), (201, started), "what started before is not started again");
        assert!(office.insist(letter).await.replayed);
    }
    let summary = office.judge().await;
    eprintln!("{KILLS} kills at {boundary}: {summary}");
    assert_eq!((summary.starts, summary.effects, summary.lost), (KILLS, KILLS, KILLS));
    server.kill().await;
}

/// It has started, and nobody knows whether the letter was posted.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_killed_in_the_handler() {
    let office = Office::new().await;
    let letters: Vec<_> = (0..KILLS).map(|kill| endless_letter(format!("key-{kill}"))).collect();
    for letter in &letters {
        let server = office.open().await;
        let (client, sent) = (office.client.clone(), letter.clone());
        let asking = tokio::spawn(async move { client.send(&sent, SOON).await });
        eventually(SOON, "the start", async || office.has_started(letter)).await;
        server.kill().await;
        assert_eq!(asking.await.unwrap(), Reply::Nothing);
    }
    let server = office.open().await;
    for letter in &letters {
        office.until_unknown(letter).await;
    }
    assert_eq!(office.ledger().len(), KILLS, "none has started again, and none has had its effect");
    for letter in &letters {
        assert_eq!(office.resolve(letter).await, Some(204));
        assert!(office.insist(letter).await.replayed);
    }
    let summary = office.judge().await;
    eprintln!("{KILLS} kills in the handler: {summary}");
    assert_eq!((summary.starts, summary.effects, summary.lost), (KILLS, KILLS, KILLS));
    server.kill().await;
}
