//! A server that is paused for longer than its lease while another one takes over, and then continues.

use std::sync::atomic::Ordering;

use testing_history::Reply;
use testing_support::eventually;
use tokio::time::timeout;

use crate::till::{SOON, Till, charge};

#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_after_the_claim() {
    pause_at("after-claim").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_after_the_handlers_write() {
    pause_at("after-handler-write").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_before_the_commit() {
    pause_at("before-commit").await;
}

/// The late owner learns in its handler that it is late, and fails. Its customer still gets the winner's answer.
#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_while_the_provider_is_asked() {
    let till = Till::new().await;
    let request = charge("key");
    till.provider.silent.store(true, Ordering::Relaxed);
    let late = till.open().await;
    let (client, sent) = (till.client.clone(), request.clone());
    let asking = tokio::spawn(async move { client.send(&sent, SOON).await });
    timeout(SOON, till.provider.paid.notified()).await.expect("it pays");
    late.pause().await;

    till.provider.silent.store(false, Ordering::Relaxed);
    let winner = till.open().await;
    let won = till.client.insist(&request, SOON, SOON).await.unwrap();
    till.provider.speak.notify_one();
    late.resume();
    let reply = asking.await.unwrap();
    assert!(matches!(&reply, Reply::Final(answer) if answer.replayed && answer.agrees_with(&won)), "{reply:?}");
    let summary = till.judge();
    assert_eq!(summary.effects, 1);
    late.kill().await;
    winner.kill().await;
}

/// The late owner continues while the winner is still running: its outcome is not accepted.
#[tokio::test(flavor = "multi_thread")]
async fn i5_paused_and_resumed_before_the_winner_has_ended() {
    let till = Till::new().await;
    let request = charge("key");
    let late = till.open_to_fail("before-commit", "pause").await;
    let (client, sent) = (till.client.clone(), request.clone());
    let asking = tokio::spawn(async move { client.send(&sent, SOON).await });
    eventually(SOON, "the late owner to stand still", async || late.is_paused()).await;
    let winner = till.open_to_fail("before-commit", "pause").await;
    let (client, sent) = (till.client.clone(), request.clone());
    let insisting = tokio::spawn(async move { client.insist(&sent, SOON, SOON).await.unwrap() });
    eventually(SOON, "the winner to stand still", async || winner.is_paused()).await;

    late.resume();
    let reply = asking.await.unwrap();
    assert!(matches!(reply, Reply::Refused { status: 409, .. }), "it has lost, and nobody has won yet: {reply:?}");
    winner.resume();
    assert!(!insisting.await.unwrap().replayed, "the winner's outcome is the one that counts");
    let summary = till.judge();
    assert_eq!(summary.effects, 1);
    late.kill().await;
    winner.kill().await;
}

/// The late owner changes nothing, and its customer gets the winner's answer.
async fn pause_at(boundary: &str) {
    let till = Till::new().await;
    let request = charge(boundary);
    let late = till.open_to_fail(boundary, "pause").await;
    let (client, sent) = (till.client.clone(), request.clone());
    let asking = tokio::spawn(async move { client.send(&sent, SOON).await });
    eventually(SOON, "the late owner to stand still", async || late.is_paused()).await;

    let winner = till.open().await;
    let won = till.client.insist(&request, SOON, SOON).await.unwrap();
    assert!(!won.replayed, "the winner ran it");

    late.resume();
    match asking.await.unwrap() {
        Reply::Final(answer) => assert!(answer.replayed && answer.agrees_with(&won), "{answer:?}"),
        // It had not started, and says so; the retry gets the answer.
        Reply::Refused { status: 409, .. } if boundary == "after-claim" => {
            till.targets.set([late.url()]);
            assert!(till.client.insist(&request, SOON, SOON).await.unwrap().agrees_with(&won));
        }
        other => panic!("{other:?}"),
    }
    for server in [&late, &winner] {
        till.targets.set([server.url()]);
        let again = till.client.insist(&request, SOON, SOON).await.unwrap();
        assert!(again.replayed && again.agrees_with(&won));
    }
    let summary = till.judge();
    eprintln!("paused at {boundary}: {summary}");
    assert_eq!(summary.effects, 1);
    late.kill().await;
    winner.kill().await;
}
