//! Writes that wait for a replica.

use std::time::{Duration, Instant};

use keylatch::machine::Claimed;
use keylatch::redis::{Options, Store};
use keylatch::store::Store as _;
use keylatch::{Record, State};
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::support::{applied, claim, completion, connect_with, win};

const WAIT: Duration = Duration::from_millis(300);
const SOON: Duration = Duration::from_secs(10);

/// A primary and its replica.
pub(crate) struct Pair {
    pub(crate) primary: Server,
    replica: Server,
}

impl Pair {
    pub(crate) fn start() -> Self {
        // So that a replica that is new, or back, is not kept waiting for others.
        let primary = Server::start(Config::new().with("repl-diskless-sync-delay", "0"));
        let replica = Server::start(Config::new().with("replicaof", format!("127.0.0.1 {}", primary.port())));
        let pair = Self { primary, replica };
        pair.await_both();
        pair
    }

    /// Waits until the replica has everything, and the primary counts on it: it does so when it has heard from it, which
    /// may be a second later.
    fn await_both(&self) {
        self.replica.await_primary();
        let started = Instant::now();
        while !self.primary.ask("INFO replication").contains("state=online") {
            assert!(started.elapsed() < SOON, "the primary does not count on its replica");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) async fn connect(&self) -> Store {
        let store = connect_with(&self.primary, Options::default().with_min_replicas(1, WAIT)).await;
        // The first writes may come before the replica answers the primary's questions.
        let first = claim("first");
        eventually(SOON, "a write on the replica", async || store.claim(first.clone()).await.is_ok()).await;
        store
    }
}

/// The replica has what was acknowledged.
#[tokio::test]
async fn what_is_acknowledged_is_on_the_replica() {
    let pair = Pair::start();
    let store = pair.connect().await;
    for number in 0..50 {
        let record = win(&store, &claim(&format!("key-{number}"))).await;
        applied(&store.complete(record.lease(), completion("answer")).await);
    }
    assert!(pair.replica.ask("REPLICAOF NO ONE").starts_with("+OK"));
    let promoted = connect_with(&pair.replica, Options::default()).await;
    for number in 0..50 {
        let held = promoted.claim(claim(&format!("key-{number}"))).await.unwrap().value;
        assert!(matches!(held, Claimed::Held(Record { state: State::Completed { .. }, .. })), "{held:?}");
    }
}
