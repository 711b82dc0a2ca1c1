//! Primaries that die, and replicas that take over.

use std::time::Duration;

use keylatch::Record;
use keylatch::machine::Claimed;
use keylatch::redis::{ConnectError, Options, Store};
use keylatch::store::{Applied, At, Durability, Store as _};
use testing_support::eventually;
use testing_support::redis::{Cluster, Sentinels};

use crate::support::{claim, completed, completion};

const FAILOVER_MAX: Duration = Duration::from_secs(60);
const ATTEMPTS_MAX: usize = 10;

pub(crate) async fn connect_sentinels(group: &Sentinels, options: Options) -> Store {
    through_sentinels(&group.urls(), options).await.expect("the Sentinels know the primary")
}

pub(crate) async fn through_sentinels(urls: &[String], options: Options) -> Result<Store, ConnectError> {
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    Store::connect_sentinel(&urls, Sentinels::SERVICE, options).await
}

pub(crate) async fn connect_cluster(cluster: &Cluster, options: Options) -> Store {
    through_nodes(&cluster.urls(), options).await.expect("the Cluster can be reached")
}

pub(crate) async fn through_nodes(urls: &[String], options: Options) -> Result<Store, ConnectError> {
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    Store::connect_cluster(&urls, options).await
}

/// So many completed records, once all servers have them. A primary that is too busy to answer in time is taken for dead,
/// and what it has acknowledged last can be lost with it. Then others are written.
async fn on_all_servers(store: &Store, name: &str, keys: usize, wait_until_whole: impl Fn()) -> Vec<Record> {
    for attempt in 0..ATTEMPTS_MAX {
        let mut records = Vec::new();
        for at in 0..keys {
            let claimed = store.claim(claim(&format!("{name}-{attempt}-{at}"))).await;
            let Ok(At { value: Claimed::Won(record), .. }) = claimed else { continue };
            let completed = store.complete(record.lease(), completion("answer")).await;
            let Ok(Applied::Applied(_)) = completed else { continue };
            records.extend(store.read(record.id()).await.ok().and_then(|found| found.value));
        }
        wait_until_whole();
        if records.len() == keys && are_there(store, &records).await {
            return records;
        }
    }
    panic!("each time a primary was replaced, or calls failed");
}

async fn are_there(store: &Store, records: &[Record]) -> bool {
    for record in records {
        let found = store.read(record.id()).await;
        if !found.is_ok_and(|found| found.value.as_ref() == Some(record)) {
            return false;
        }
    }
    true
}

/// Whether a claim of a new key succeeds now.
pub(crate) async fn takes_claims(store: &Store, key: &str) -> bool {
    store.claim(claim(key)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_sentinels_is_followed() {
    let mut group = Sentinels::start();
    let store = connect_sentinels(&group, Options::default()).await;
    assert_eq!(store.durability(), Durability::Replica);
    for round in 0..2 {
        fail_over(&mut group, &store, round).await;
    }
}

/// Kills the primary, checks that `store` recovers, and starts it again. The keys have the number of the round.
pub(crate) async fn fail_over(group: &mut Sentinels, store: &Store, round: usize) {
    let before = on_all_servers(store, &format!("before-{round}"), 1, || group.wait_until_whole()).await;
    let primary = group.primary().expect("there is a primary");
    group.server(primary).kill();
    let key = format!("after-{round}");
    eventually(FAILOVER_MAX, "the next primary", async || takes_claims(store, &key).await).await;
    // The claim may have been granted just before it died.
    group.wait_for_primary_other_than(primary);
    eventually(FAILOVER_MAX, "a claim there", async || takes_claims(store, &format!("there-{round}")).await).await;
    assert!(are_there(store, &before).await, "{before:?}");
    // The old primary returns as a replica: nobody writes to it.
    group.server(primary).start_again();
    group.wait_until_whole();
    completed(store, &format!("whole-{round}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_a_cluster_is_followed() {
    let mut cluster = Cluster::start();
    let store = connect_cluster(&cluster, Options::default()).await;
    assert_eq!(store.durability(), Durability::Replica);
    fail_over_in_cluster(&mut cluster, &store).await;
}

/// Kills a primary, checks that `store` recovers, and starts it again.
pub(crate) async fn fail_over_in_cluster(cluster: &mut Cluster, store: &Store) {
    let before = on_all_servers(store, "before", 64, || cluster.wait_until_whole()).await;
    let primary = cluster.primaries()[0];
    cluster.node(primary).kill();
    // Keys in every bucket, so that some belong to the dead primary.
    for at in 0..64 {
        let key = format!("after-{at}");
        eventually(FAILOVER_MAX, "the next primary", async || takes_claims(store, &key).await).await;
    }
    assert!(are_there(store, &before).await, "{before:?}");
    assert!(!cluster.primaries().contains(&primary));
    cluster.node(primary).start_again();
    cluster.wait_until_whole();
    completed(store, "whole").await;
}
