//! A slot that moves from one node of a Cluster to another while its records are claimed and completed.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::{Claim, Claimed};
use keylatch::redis::Options;
use keylatch::store::{Inspect as _, State, Store as _};
use keylatch::{Record, RecordId};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use testing_support::eventually;
use testing_support::redis::Cluster;

use crate::failover::connect_cluster;
use crate::support::{applied, claim, completion, win};

const SOON: Duration = Duration::from_secs(30);

/// Claims of new keys in one bucket: the byte of the identity that selects the bucket is the same.
fn claims(kind: &str, bucket: u8, count: usize) -> Vec<Claim> {
    let claims = (0..).map(|at| claim(&format!("{kind}-{at}")));
    claims.filter(|claim| claim.id().as_bytes()[16] % 64 == bucket).take(count).collect()
}

struct Node {
    id: String,
    port: u16,
    connection: MultiplexedConnection,
}

impl Node {
    async fn new(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let id = cmd("CLUSTER").arg("MYID").query_async(&mut connection).await.unwrap();
        Self { id, port: url.rsplit_once(':').unwrap().1.parse().unwrap(), connection }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> T {
        command.query_async(&mut self.connection).await.expect("the node does it")
    }

    async fn set_slot(&mut self, slot: u16, what: &str, other: &str) {
        let _: () = self.ask(cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(what).arg(other)).await;
    }

    async fn keys(&mut self, slot: u16) -> Vec<Vec<u8>> {
        self.ask(cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(10_000)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_and_completions_go_on_while_their_slot_moves() {
    const BUCKET: u8 = 5;
    const EACH: usize = 20;
    let cluster = Cluster::start();
    let store = connect_cluster(&cluster, Options::default()).await;
    let urls = cluster.urls();
    let mut primaries = Vec::new();
    for at in cluster.primaries() {
        primaries.push(Node::new(&urls[at]).await);
    }

    let before = claims("before", BUCKET, EACH);
    let running = join_all(before.iter().map(|claim| win(&store, claim))).await;
    let (slot, from) = slot_of(&mut primaries, running[0].id()).await;
    let mut source = primaries.swap_remove(from);
    let mut target = primaries.swap_remove(0);
    target.set_slot(slot, "IMPORTING", &source.id).await;
    source.set_slot(slot, "MIGRATING", &target.id).await;

    // A record that is still there is completed there; new and moved ones are written to the slot's new node.
    let moving: Vec<_> = source.keys(slot).await.into_iter().enumerate().filter(|(at, _)| at % 2 == 0).collect();
    for (_, key) in &moving {
        migrate(&mut source, &target, key).await;
    }
    let during = claims("during", BUCKET, EACH);
    let won = join_all(during.iter().map(|claim| win(&store, claim))).await;
    for record in running.iter().chain(&won) {
        applied(&store.complete(record.lease(), completion("answer")).await);
    }
    for claim in before.iter().chain(&during) {
        assert_answered(&store.claim(claim.clone()).await.unwrap().value);
    }

    for key in source.keys(slot).await {
        migrate(&mut source, &target, &key).await;
    }
    let owner = target.id.clone();
    target.set_slot(slot, "NODE", &owner).await;
    source.set_slot(slot, "NODE", &owner).await;
    for claim in before.iter().chain(&during) {
        assert_answered(&store.claim(claim.clone()).await.unwrap().value);
    }
    for claim in claims("after", BUCKET, EACH) {
        let record = win(&store, &claim).await;
        applied(&store.complete(record.lease(), completion("answer")).await);
    }
    let is_clean = async || store.lapsed(None, 10).await.is_ok_and(|found| found.value.records.is_empty());
    eventually(SOON, "nothing is taken for abandoned", is_clean).await;
}

fn assert_answered(claimed: &Claimed) {
    let answered = matches!(claimed, Claimed::Held(Record { state: State::Completed { outcome: Some(_), .. }, .. }));
    assert!(answered, "{claimed:?}");
}

/// The slot of the record, and the number of its primary.
async fn slot_of(primaries: &mut [Node], id: RecordId) -> (u16, usize) {
    for (at, node) in primaries.iter_mut().enumerate() {
        let keys: Vec<Vec<u8>> = node.ask(cmd("KEYS").arg("keylatch:*")).await;
        if let Some(key) = keys.into_iter().find(|key| key.ends_with(id.as_bytes())) {
            return (node.ask(cmd("CLUSTER").arg("KEYSLOT").arg(key)).await, at);
        }
    }
    panic!("no primary has the record");
}

async fn migrate(source: &mut Node, target: &Node, key: &[u8]) {
    const TIMEOUT_MS: u32 = 5_000;
    let _: redis::Value =
        source.ask(cmd("MIGRATE").arg("127.0.0.1").arg(target.port).arg(key).arg(0).arg(TIMEOUT_MS)).await;
}
