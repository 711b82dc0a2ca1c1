//! A server that is paused for longer than its lease, and then continues.

use testing_history::Reply;
use testing_support::eventually;
use testing_support::server::Server;
use tokio::task::JoinHandle;

use crate::office::{Office, SOON, letter};

/// The pause was before the start: the handler does not start any more.
#[tokio::test(flavor = "multi_thread")]
async fn i6_paused_between_claim_and_start() {
    let office = Office::new().await;
    let (late, asking) = paused_at(&office, "after-claim").await;
    let other = office.open().await;
    office.until_unknown(&letter("key")).await;

    late.resume();
    let reply = asking.await.unwrap();
    assert!(matches!(reply, Reply::Refused { status: 409, .. }), "{reply:?}");
    assert_eq!(office.ledger(), []);
    if office.resolve(&letter("key")).await != Some(204) {
        // The server itself has withdrawn its claim.
        assert!(!office.has_started(&letter("key")));
    }
    assert_eq!(office.insist(&letter("key")).await.status, 201);
    end(&office, [late, other]).await;
}

/// The pause was after the effect, and nobody has resolved the run: its late outcome is final.
#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_before_the_commit_and_not_resolved() {
    let office = Office::new().await;
    let (late, asking) = paused_at(&office, "before-commit").await;
    let other = office.open().await;
    office.until_unknown(&letter("key")).await;

    late.resume();
    let reply = asking.await.unwrap();
    assert!(matches!(&reply, Reply::Final(answer) if answer.status == 201), "{reply:?}");
    assert!(office.insist(&letter("key")).await.replayed);
    end(&office, [late, other]).await;
}

/// Somebody has resolved it meanwhile: that is its answer, also for the client of the late run.
#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_before_the_commit_and_resolved() {
    let office = Office::new().await;
    let (late, asking) = paused_at(&office, "before-commit").await;
    let other = office.open().await;
    office.until_unknown(&letter("key")).await;
    assert_eq!(office.resolve(&letter("key")).await, Some(204));
    let answer = office.insist(&letter("key")).await;

    late.resume();
    let reply = asking.await.unwrap();
    assert!(matches!(&reply, Reply::Final(its) if its.agrees_with(&answer)), "{reply:?}");
    end(&office, [late, other]).await;
}

/// A server that is paused at `boundary`, and a client that waits for it.
async fn paused_at(office: &Office, boundary: &str) -> (Server, JoinHandle<Reply>) {
    let late = office.open_to_fail(boundary, "pause").await;
    let client = office.client.clone();
    let asking = tokio::spawn(async move { client.send(&letter("key"), SOON).await });
    eventually(SOON, "the server to stand still", async || late.is_paused()).await;
    (late, asking)
}

async fn end(office: &Office, servers: [Server; 2]) {
    let summary = office.judge().await;
    eprintln!("{summary}");
    assert_eq!((summary.starts, summary.effects), (1, 1));
    for server in servers {
        server.kill().await;
    }
}
