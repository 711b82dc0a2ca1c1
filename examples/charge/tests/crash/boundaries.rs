//! Kill -9 at every boundary between two phases of a run.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering;

use testing_history::Reply;
use tokio::time::timeout;

use crate::till::{SOON, Till, charge};

const KILLS: usize = 20;
const SIGKILL: i32 = 9;

/// What a kill leaves behind.
struct Left {
    /// Calls that the provider has had by then.
    calls: usize,
    /// Whether the outcome is recorded.
    recorded: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_before_the_claim() {
    kill_at("before-claim", Left { calls: 0, recorded: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_after_the_claim() {
    kill_at("after-claim", Left { calls: 0, recorded: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_after_the_handlers_write() {
    kill_at("after-handler-write", Left { calls: 1, recorded: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_before_the_commit() {
    kill_at("before-commit", Left { calls: 1, recorded: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_after_the_commit() {
    kill_at("after-commit", Left { calls: 1, recorded: true }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_before_the_answer() {
    kill_at("before-answer", Left { calls: 1, recorded: true }).await;
}

/// Several times a server dies at `boundary` in its first request. Then everything is requested again: after the leases
/// have ended, each charge is taken over. No recorded step is called again.
async fn kill_at(boundary: &str, left: Left) {
    let till = Till::new().await;
    let requests: Vec<_> = (0..KILLS).map(|kill| charge(format!("key-{kill}"))).collect();
    for request in &requests {
        let server = till.open_to_fail(boundary, "kill").await;
        assert_eq!(till.client.send(request, SOON).await, Reply::Nothing, "it died before it could answer");
        assert_eq!(server.ended().await.signal(), Some(SIGKILL));
    }
    let calls = || till.provider.calls.load(Ordering::Relaxed);
    assert_eq!(calls(), KILLS * left.calls);

    let server = till.open().await;
    let answers = till.insist_on_all(&requests).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.replayed == left.recorded), "{answers:?}");
    assert_eq!(calls(), KILLS, "each charge was sent to the provider once");
    till.insist_on_all(&requests).await;
    let summary = till.judge();
    eprintln!("{KILLS} kills at {boundary}: {summary}");
    assert_eq!((summary.effects, summary.lost), (KILLS, KILLS));
    server.kill().await;
}

/// The worst moment: the provider has paid, but the step is not recorded. The derived key prevents a second payment.
#[tokio::test(flavor = "multi_thread")]
async fn fenced_killed_between_the_payment_and_its_record() {
    let till = Till::new().await;
    let requests: Vec<_> = (0..KILLS).map(|kill| charge(format!("key-{kill}"))).collect();
    till.provider.silent.store(true, Ordering::Relaxed);
    for request in &requests {
        let server = till.open().await;
        let (client, sent) = (till.client.clone(), request.clone());
        let asking = tokio::spawn(async move { client.send(&sent, SOON).await });
        timeout(SOON, till.provider.paid.notified()).await.expect("it pays");
        server.kill().await;
        assert_eq!(asking.await.unwrap(), Reply::Nothing);
    }
    till.provider.silent.store(false, Ordering::Relaxed);

    let server = till.open().await;
    till.insist_on_all(&requests).await;
    assert_eq!(till.provider.calls.load(Ordering::Relaxed), 2 * KILLS, "each was sent again, with the same key");
    let summary = till.judge();
    eprintln!("{KILLS} kills between payment and record: {summary}");
    assert_eq!((summary.effects, summary.lost), (KILLS, KILLS));
    server.kill().await;
}
