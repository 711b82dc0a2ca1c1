//! A node, or a data centre, that is cut off from the others by the network between the nodes.

use std::time::{Duration, Instant};

use keylatch::cassandra::Store;
use keylatch::machine::{Claim, Claimed};
use keylatch::store::{Error, Inspect as _, PageRequest, Store as _};
use keylatch::{Guarantee, Policy};
use testing_support::cassandra::{Cluster, Cut, Spread};
use testing_support::eventually;
use tokio::task::JoinSet;

use crate::load::Load;
use crate::support::connect;
use crate::{KEYSPACE, SOON, claim, cluster, options, spread};

/// The services that send the load: in one data centre two that ask all nodes, in three one more in each, which asks the node
/// of its own.
async fn services(cluster: &Cluster) -> (Vec<Store>, Vec<Store>) {
    let everywhere = || connect(cluster, KEYSPACE, options("cut-"));
    if spread() == Spread::Together {
        return (vec![everywhere().await, everywhere().await], Vec::new());
    }
    let mut local = Vec::new();
    for centre in ["dc1", "dc2", "dc3"] {
        local.push(connect(cluster, KEYSPACE, options("cut-").with_data_centre(centre)).await);
    }
    (vec![everywhere().await], local)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_never_two_starts_on_cassandra_when_a_node_or_a_data_centre_is_cut_off() {
    let (cluster, _turn) = cluster().await;
    let (everywhere, local) = services(cluster).await;
    let mut load = Load::new(Guarantee::AtMostOnce, Policy::default());
    load.start(&everywhere);
    load.start(&local);
    load.goes_on(20, "requests before any cut").await;

    for (node, cut) in [(0, Cut::Silent), (1, Cut::Closed)] {
        let isolated = match local.get(node) {
            Some(store) => Some(Isolated::new(store, &format!("cut-{node}")).await),
            None => None,
        };
        cluster.cut_off(node, cut);
        let begun = Instant::now();
        let failed = load.failed();
        load.goes_on(50, &format!("requests while node {node} is cut off: {cut:?}")).await;
        if let Some(isolated) = &isolated {
            isolated.only_fails().await;
            eventually(SOON, "errors of the services there", async || load.failed() > failed).await;
            load.goes_on(20, "requests of the others").await;
        }
        eprintln!(
            "node {node} was cut off for {:?} ({cut:?}): {} calls failed",
            begun.elapsed(),
            load.failed() - failed
        );
        cluster.mend(node);
        load.goes_on(20, "requests after it is back").await;
        if let Some(isolated) = isolated {
            isolated.goes_on().await;
        }
    }
    let summary = load.end(&everywhere[0]).await;
    assert!(summary.replays > 0, "{summary}");
}

/// A list reads less at once after a read that took too long, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_on_after_a_read_that_took_too_long() {
    const RECORDS: usize = 20;
    const READ_MAX: Duration = Duration::from_secs(3);
    let (cluster, _turn) = cluster().await;
    let options = options("list-").with_response_timeout(READ_MAX).with_call_max(SOON);
    let store = connect(cluster, KEYSPACE, options).await;
    for number in 0..RECORDS {
        let claim = claim(&format!("list-{number}"), Guarantee::AtMostOnce, &Policy::default());
        store.claim(claim).await.expect("all nodes are there");
    }
    // No node reaches another one.
    cluster.cut_off(0, Cut::Silent);
    cluster.cut_off(1, Cut::Silent);
    let begun = Instant::now();
    let listed = async {
        let (mut records, mut page) = (0, PageRequest { limit: 100, ..PageRequest::default() });
        loop {
            let found = store.list(page.clone()).await.expect("the network is back in time").value;
            records += found.records.len();
            page.after = found.next;
            if page.after.is_none() {
                return records;
            }
        }
    };
    let mended = async {
        tokio::time::sleep(READ_MAX + Duration::from_millis(500)).await;
        cluster.mend(0);
        cluster.mend(1);
    };
    let (records, ()) = tokio::join!(listed, mended);
    assert_eq!(records, RECORDS);
    assert!(begun.elapsed() > READ_MAX, "the first read took too long");
}

/// A service that asks only the node that is cut off.
struct Isolated<'s> {
    store: &'s Store,
    /// Was claimed before.
    held: Claim,
    /// Is claimed while the node is cut off.
    new: Claim,
}

impl<'s> Isolated<'s> {
    async fn new(store: &'s Store, name: &str) -> Self {
        let claim = |key: &str| claim(&format!("{name}-{key}"), Guarantee::AtMostOnce, &Policy::default());
        let this = Self { store, held: claim("held"), new: claim("new") };
        this.wins(&this.held).await;
        this
    }

    /// Nothing is answered, although the node itself has a replica of everything.
    async fn only_fails(&self) {
        let mut calls: JoinSet<Result<(), Error>> = JoinSet::new();
        let (store, held, new) = (self.store, self.held.clone(), self.new.clone());
        for claim in [held.clone(), new.clone()] {
            let store = store.clone();
            calls.spawn(async move { store.claim(claim).await.map(drop) });
        }
        for id in [held.id(), new.id()] {
            let store = store.clone();
            calls.spawn(async move { store.read(id).await.map(drop) });
        }
        let all = PageRequest { scope: Some(held.scope().clone()), limit: 10, ..PageRequest::default() };
        let store = store.clone();
        calls.spawn(async move { store.list(all).await.map(drop) });
        for result in calls.join_all().await {
            let error = result.expect_err("there is no majority");
            assert!(error.retryable(), "{error}");
        }
    }

    /// What was there is there, and the claim that failed can be sent again.
    async fn goes_on(&self) {
        self.wins(&self.held).await;
        self.wins(&self.new).await;
    }

    /// A claim that is sent again is the first run, whatever became of the reply.
    async fn wins(&self, claim: &Claim) {
        eventually(SOON, "the claim to be granted", async || match self.store.claim(claim.clone()).await {
            Ok(at) => {
                let Claimed::Won(record) = at.value else { panic!("nobody else claims it: {:?}", at.value) };
                assert_eq!((record.epoch.as_u64(), record.owner), (1, claim.owner));
                true
            }
            Err(error) => {
                assert!(error.retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                false
            }
        })
        .await;
    }
}
