//! Writes that wait for a replica, also when it is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use keylatch::Record;
use keylatch::machine::Claimed;
use keylatch::redis::{Options, Store};
use keylatch::store::{ErrorKind, State, Store as _};
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
        // So that a new or returning replica does not wait for others.
        let primary = Server::start(Config::new().with("repl-diskless-sync-delay", "0"));
        let replica = Server::start(Config::new().with("replicaof", format!("127.0.0.1 {}", primary.port())));
        replica.await_primary();
        Self { primary, replica }
    }

    pub(crate) async fn connect(&self) -> Store {
        connect_with(&self.primary, Options::default().with_min_replicas(1, WAIT)).await
    }

    /// A store whose writes are acknowledged from now on.
    pub(crate) async fn connect_whole(&self) -> Store {
        let store = self.connect().await;
        acknowledged(&store).await;
        store
    }

    pub(crate) fn lose_replica(&mut self) {
        self.replica.kill();
    }

    /// Starts it again, and waits until it has everything and `store` knows.
    pub(crate) async fn find_replica(&mut self, store: &Store) {
        self.replica.start_again();
        self.replica.await_primary();
        acknowledged(store).await;
    }
}

/// Waits until a write is acknowledged: a replica that is complete does not answer the primary at once.
async fn acknowledged(store: &Store) {
    static CLAIMS: AtomicUsize = AtomicUsize::new(0);
    let new = claim(&format!("acknowledged-{}", CLAIMS.fetch_add(1, Ordering::Relaxed)));
    eventually(SOON, "a write on the replica", async || store.claim(new.clone()).await.is_ok()).await;
}

/// Every write reports that it is not known whether it will last, and it is on the primary. Sent again when the replica
/// is back, it is the same write.
#[tokio::test]
async fn without_its_replica_a_write_is_not_known_and_never_made_twice() {
    let mut pair = Pair::start();
    let store = pair.connect_whole().await;
    let running = win(&store, &claim("running")).await;
    pair.lose_replica();

    let new = claim("new");
    assert_eq!(store.claim(new.clone()).await.unwrap_err().kind(), ErrorKind::NotKnown);
    let renewed = store.renew(running.lease(), new.terms, None).await;
    assert_eq!(renewed.unwrap_err().kind(), ErrorKind::NotKnown);
    let completed = store.complete(running.lease(), completion("answer")).await;
    assert_eq!(completed.unwrap_err().kind(), ErrorKind::NotKnown);
    // Other requests do not run; nor are they told what may be lost.
    for key in ["new", "running"] {
        assert_eq!(store.claim(claim(key)).await.unwrap_err().kind(), ErrorKind::NotKnown, "{key}");
    }
    // It is not acknowledged when it is sent again, either.
    assert_eq!(store.claim(new.clone()).await.unwrap_err().kind(), ErrorKind::NotKnown);

    pair.find_replica(&store).await;
    let other = store.claim(claim("new")).await.unwrap().value;
    assert!(matches!(other, Claimed::Held(_)), "{other:?}");
    let record = win(&store, &new).await;
    assert_eq!((record.attempt, record.epoch), (1, running.epoch), "the same claim");
    applied(&store.complete(running.lease(), completion("answer")).await);
    match store.claim(claim("running")).await.unwrap().value {
        Claimed::Held(Record { state: State::Completed { outcome, .. }, .. }) => {
            assert_eq!(outcome, Some(completion("answer").outcome));
        }
        other => panic!("{other:?}"),
    }
}

/// Calls that come together wait once, and not one after the other: otherwise the wait would be longer than the limit
/// for a reply.
#[tokio::test]
async fn calls_that_come_together_wait_for_replicas_once() {
    let mut pair = Pair::start();
    let store = pair.connect_whole().await;
    pair.lose_replica();
    let calls = 40;
    let waits = || {
        let stats = pair.primary.ask("INFO commandstats");
        let line = stats.lines().find(|line| line.starts_with("cmdstat_wait:"));
        let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next()?.parse::<usize>().ok());
        calls.expect("somebody has waited")
    };
    let before = waits();
    let claims: Vec<_> = (0..calls).map(|at| claim(&format!("key-{at}"))).collect();
    for claimed in join_all(claims.into_iter().map(|claim| store.claim(claim))).await {
        let error = claimed.unwrap_err();
        assert!(error.to_string().contains("only 0 replicas"), "not cut off as slow: {error}");
    }
    // One batch, or two if the first went out before all calls had arrived.
    assert!(waits() - before <= 2, "{} waits for {calls} calls", waits() - before);
}

/// The replica has everything that was acknowledged.
#[tokio::test]
async fn what_is_acknowledged_is_on_the_replica() {
    let pair = Pair::start();
    let store = pair.connect_whole().await;
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
