//! Nodes that are killed or stand still, and lost replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylatch::machine::{Claimed, Completion};
use keylatch::store::{Applied, ErrorKind, Store as _};
use keylatch::{Guarantee, Outcome, Policy};
use testing_support::eventually;

use crate::load::{CLIENTS, Load};
use crate::support::connect;
use crate::{KEYSPACE, SOON, claim, cluster, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_never_two_starts_on_cassandra_when_each_node_is_killed_or_stopped_and_two_of_three() {
    let (cluster, _turn) = cluster().await;
    let options = || options("load-");
    let stores = [connect(cluster, KEYSPACE, options()).await, connect(cluster, KEYSPACE, options()).await];
    let mut load = Load::new(Guarantee::AtMostOnce, Policy::default());
    load.start(&stores);
    load.goes_on(50, "requests before any fault").await;

    for node in 0..3 {
        cluster.pause(node);
        load.goes_on(50, &format!("requests while node {node} stands still")).await;
        cluster.resume(node);
        load.goes_on(20, "requests after it goes on").await;
    }
    cluster.kill(0);
    load.goes_on(50, "requests without node 0").await;
    // Now no majority is left: nothing is answered, and nothing is wrong.
    cluster.pause(1);
    let alone = Instant::now();
    let quiet = AtomicU64::new(u64::MAX);
    eventually(SOON, "a second without answers", async || {
        let finished = load.finished();
        tokio::time::sleep(Duration::from_secs(1)).await;
        quiet.store(load.finished() - finished, Ordering::Relaxed);
        quiet.load(Ordering::Relaxed) == 0
    })
    .await;
    let (before, failed) = (load.finished(), load.failed());
    eventually(SOON, "errors", async || load.failed() > failed + CLIENTS).await;
    assert_eq!(load.finished(), before, "nothing is answered by one node of three");
    eprintln!("one of three for {:?}", alone.elapsed());
    cluster.resume(1);
    load.goes_on(50, "requests after a majority is back").await;
    tokio::task::spawn_blocking(move || cluster.start_again(0)).await.expect("the node starts");
    load.goes_on(20, "requests after it is back").await;
    // A node takes half a minute to come back, so the others are killed in a longer run.
    for node in 1..if std::env::var_os("KEYLATCH_CASSANDRA_KILLS").is_some() { 3 } else { 1 } {
        cluster.kill(node);
        load.goes_on(50, &format!("requests without node {node}")).await;
        tokio::task::spawn_blocking(move || cluster.start_again(node)).await.expect("the node starts");
        load.goes_on(20, "requests after it is back").await;
    }

    load.end(&stores[0]).await;
}

/// A claim whose reply is lost is settled by the store itself, or by the same claim sent again: it wins once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_reply_is_lost_is_settled() {
    let (cluster, _turn) = cluster().await;
    let options = options("lost-").with_response_timeout(Duration::from_millis(500));
    let store = connect(cluster, KEYSPACE, options.with_call_max(Duration::from_secs(2))).await;
    for round in 0..3 {
        let claim = claim(&format!("lost-{round}"), Guarantee::AtMostOnce, &Policy::default());
        cluster.pause(1);
        cluster.pause(2);
        let error = store.claim(claim.clone()).await.expect_err("there is no majority");
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotKnown), "{error}");
        cluster.resume(1);
        cluster.resume(2);
        let won = Arc::new(parking_lot::Mutex::new(None));
        eventually(SOON, "the claim to be granted", async || match store.claim(claim.clone()).await {
            Ok(at) => {
                let Claimed::Won(record) = at.value else { panic!("nobody else claims it: {:?}", at.value) };
                *won.lock() = Some(record);
                true
            }
            Err(error) => {
                assert!(error.retryable(), "{error}");
                false
            }
        })
        .await;
        let won = won.lock().take().expect("it was granted");
        assert_eq!((won.epoch.as_u64(), won.owner), (1, claim.owner));
        assert_eq!(store.read(claim.id()).await.unwrap().value, Some(won.clone()));
        let completion = Completion::new(Outcome::bytes("answer"), &Policy::default());
        assert!(matches!(store.complete(won.lease(), completion).await.unwrap(), Applied::Applied(_)));
    }
}

/// Many claims of one key at once, from three processes over three nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_64_claims_wins_on_three_nodes() {
    const ROUNDS: usize = 50;
    let (cluster, _turn) = cluster().await;
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(connect(cluster, KEYSPACE, options("hot-")).await);
    }
    let rounds = std::env::var("KEYLATCH_CASSANDRA_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut unsure = 0;
    for round in 0..rounds {
        let claims: tokio::task::JoinSet<_> = (0..64)
            .map(|at| {
                let (store, claim) =
                    (stores[at % 3].clone(), claim(&format!("hot-{round}"), Guarantee::Fenced, &Policy::default()));
                async move { (claim.owner, store.claim(claim).await) }
            })
            .collect();
        let (mut won, mut held) = (Vec::new(), Vec::new());
        for (owner, result) in claims.join_all().await {
            match result.map(|at| at.value) {
                Ok(Claimed::Won(record)) => {
                    assert_eq!(record.owner, owner);
                    won.push(record);
                }
                Ok(Claimed::Held(record)) => held.push(record),
                Err(error) => {
                    assert!(error.retryable(), "{error}");
                    unsure += 1;
                }
            }
        }
        let stored = stores[0].read(claim(&format!("hot-{round}"), Guarantee::Fenced, &Policy::default()).id()).await;
        let stored = stored.expect("the store reads").value.expect("someone has won");
        assert!(won.len() <= 1, "round {round} has {} winners", won.len());
        assert!(won.iter().chain(&held).all(|record| *record == stored), "all see the winner's record");
    }
    eprintln!("{rounds} rounds of 64 claims; {unsure} were told nothing");
}
