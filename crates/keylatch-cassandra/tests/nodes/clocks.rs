//! Nodes whose clocks are ahead. Never has an epoch two winners; at worst a run is taken over early.

use std::time::{Duration, Instant};

use keylatch::store::Store as _;
use keylatch::{Clock, Guarantee, Policy, Timestamp};
use scylla::value::CqlTimestamp;
use testing_support::cassandra::Cluster;
use testing_support::eventually;

use crate::load::Load;
use crate::support::connect;
use crate::{KEYSPACE, SOON, claim, cluster, options};

/// How far a clock is ahead, in seconds: far more than the uncertainty that the store counts with, and than a lease.
const AHEAD: i64 = 10;
const POLICY: Policy = Policy {
    lease: Duration::from_secs(2),
    retention: Duration::from_secs(60 * 60),
    tombstone: Duration::from_secs(60 * 60),
};

/// The clocks of the cluster. They are right again when a test ends, however.
struct Clocks(&'static Cluster);

impl Drop for Clocks {
    fn drop(&mut self) {
        (0..3).for_each(|node| self.0.set_clock(node, 0));
    }
}

impl Clocks {
    /// Sets a clock ahead, and waits until the node itself says so.
    async fn set_ahead(&self, node: usize) {
        self.0.set_clock(node, AHEAD);
        let (session, ask) = (self.0.session_on(node).await, "SELECT currentTimestamp() FROM system.local");
        eventually(SOON, "the node's time to be ahead", async || {
            let Ok(told) = session.query_unpaged(ask, ()).await else { return false };
            let rows = told.into_rows_result().expect("a read has rows");
            let (told,) = rows.first_row::<(CqlTimestamp,)>().expect("it has a time");
            Clock::system().now().until(Timestamp::from_millis(told.0)) > Duration::from_secs(9)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_no_epoch_has_two_winners_although_the_clocks_of_nodes_are_ahead() {
    let (cluster, _turn) = cluster().await;
    let clocks = Clocks(cluster);
    let options = || options("clocks-");
    let stores = [connect(cluster, KEYSPACE, options()).await, connect(cluster, KEYSPACE, options()).await];
    let mut load = Load::new(Guarantee::Fenced, POLICY);
    load.start(&stores);
    let taken_over = async |load: &Load, more: u64, what: &str| {
        let before = load.takeovers();
        eventually(SOON, what, async || load.takeovers() >= before + more).await;
    };
    taken_over(&load, 10, "takeovers").await;

    // The clock in the middle counts: it goes on as before, and nobody is early.
    clocks.set_ahead(0).await;
    let begun = Instant::now();
    taken_over(&load, 20, "takeovers while one clock is ahead").await;
    load.goes_on(50, "requests while one clock is ahead").await;
    let absent = claim("nothing", Guarantee::Fenced, &POLICY).id();
    eventually(SOON, "the time of the other two", async || {
        let Ok(read) = stores[0].read(absent).await else { return false };
        read.now.as_millis().abs_diff(Clock::system().now().as_millis()) < 2_000
    })
    .await;
    eprintln!("one clock was ahead for {:?}: {} taken over", begun.elapsed(), load.takeovers());
    assert_eq!(load.early(), 0, "one clock of three decides nothing");

    // Now most are ahead, and the store's time jumps.
    clocks.set_ahead(1).await;
    let begun = Instant::now();
    load.goes_on(50, "requests while two clocks are ahead").await;
    taken_over(&load, 10, "takeovers while two clocks are ahead").await;
    eprintln!("two clocks were ahead for {:?}: {} early", begun.elapsed(), load.early());

    // And back: the time of these processes does not go back, and that of a new one is right. They are apart.
    drop(clocks);
    let begun = Instant::now();
    load.start(&[connect(cluster, KEYSPACE, options()).await]);
    load.goes_on(50, "requests after the clocks are right").await;
    // Whether any was early depends on which runs were young when the time jumped.
    eprintln!("{:?} after the clocks were right: {} early", begun.elapsed(), load.early());
    let summary = load.end(&stores[0]).await;
    assert!(summary.replays > 0 && summary.starts > summary.effects, "{summary}");
}
