//! Kill -9 at every boundary between two phases of a run.

use std::os::unix::process::ExitStatusExt;

use testing_history::Reply;

use crate::shop::{SOON, Shop, order};

const KILLS: usize = 20;
const SIGKILL: i32 = 9;

/// Whether the order is there after a kill at a boundary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// The transaction is gone: a retry runs afresh.
    Nothing,
    /// The commit was durable: a retry is told what happened.
    Everything,
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_before_the_claim() {
    kill_at("before-claim", After::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_after_the_claim() {
    kill_at("after-claim", After::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_after_the_handlers_write() {
    kill_at("after-handler-write", After::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_before_the_commit() {
    kill_at("before-commit", After::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_after_the_commit() {
    kill_at("after-commit", After::Everything).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn atomic_killed_before_the_answer() {
    kill_at("before-answer", After::Everything).await;
}

/// Time and again a server dies at `boundary` in the first request that it runs, while another on the same database
/// lives, which tells what is there and takes the retry.
async fn kill_at(boundary: &str, after: After) {
    let shop = Shop::new();
    let survivor = shop.open().await;
    let victim = shop.program.clone().env("KEYLATCH_FAILPOINT", format!("{boundary}:1:kill"));
    for kill in 0..KILLS {
        let request = order("user", format!("key-{kill}"));
        let server = victim.start().await.unwrap_or_else(|error| panic!("{error}"));
        shop.targets.set([server.url()]);
        let reply = shop.client.send(&request, SOON).await;
        assert_eq!(reply, Reply::Nothing, "it died before it could answer");
        assert_eq!(server.ended().await.signal(), Some(SIGKILL));

        shop.targets.set([survivor.url()]);
        let there = shop.orders().await.iter().any(|(_, key, _)| *key == request.key);
        assert_eq!(there, after == After::Everything, "kill {kill}");
        let answer = shop.client.insist(&request, SOON, SOON).await.unwrap();
        assert_eq!((answer.status, answer.replayed), (201, after == After::Everything), "kill {kill}");
        let again = shop.client.insist(&request, SOON, SOON).await.unwrap();
        assert!(again.replayed && again.agrees_with(&answer));
    }
    let summary = shop.judge().await;
    eprintln!("{KILLS} kills at {boundary}: {summary}");
    assert_eq!((summary.effects, summary.lost), (KILLS, KILLS));
    let (status, _) = survivor.terminate().await;
    assert!(status.success(), "{status}");
}
