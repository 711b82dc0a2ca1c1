//! `replay = synced`: no answer is sent that a failover could still lose. With two servers, one of which fails.

use std::sync::Arc;
use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::{OpenError, Options, Replay, Store};
use keylatch::store::{Applied, ErrorKind, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_support::eventually;
use testing_support::postgres::Cluster;

use crate::support::Service;

const SOON: Duration = Duration::from_secs(30);
/// How long the end of a run is written again and looked up again.
const LEASE: Duration = Duration::from_secs(3);

fn options() -> Options {
    Options::default().with_replay(Replay::Synced)
}

/// A primary and a standby. A commit may have to wait for the standby.
struct Pair {
    primary: Cluster,
    standby: Cluster,
}

impl Pair {
    fn start() -> Self {
        let primary = Cluster::start("");
        let standby = Cluster::standby_of(&primary, "");
        primary.sql("postgres", "CREATE TABLE item (name text UNIQUE)");
        Self { primary, standby }
    }

    fn synchronous(&self) {
        self.primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.primary.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Cancels the commits that wait for the standby, as an operator might. Returns their number.
    fn cancel_waits(&self) -> usize {
        let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        self.primary.sql("postgres", cancel).parse().expect("a count is a number")
    }

    fn records(&self) -> String {
        self.primary.sql("postgres", "SELECT count(*) FROM keylatch.record WHERE state = 2")
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}

/// Cancels the next commit that waits.
async fn cancel_a_wait(pair: &Arc<Pair>) {
    eventually(SOON, "a commit to wait for the standby", async || {
        let pair = pair.clone();
        blocking(move || pair.cancel_waits()).await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_not_given_before_the_standby_has_it() {
    let pair = Arc::new(blocking(Pair::start).await);
    let url = pair.primary.url("postgres");
    let error = Store::connect_with(&url, options()).await.unwrap_err();
    assert!(matches!(error, OpenError::NotSynchronous(_)), "{error}");

    let there = pair.clone();
    blocking(move || there.synchronous()).await;
    let store = Store::connect_with(&url, options()).await.unwrap();
    let policy = Policy { lease: LEASE, ..Policy::default() };
    let service = Service::start_with(store.clone(), policy).await;
    for replayed in [false, true] {
        let answer = service.post("created", "a", 0).await;
        assert_eq!((answer.status, answer.replayed), (201, replayed));
    }

    // The standby stops. A commit waits for it until it is cancelled: then the record exists, and may still be lost.
    let there = pair.clone();
    blocking(move || there.standby.stop()).await;
    let (answer, ()) = tokio::join!(service.post("created", "b", 0), cancel_a_wait(&pair));
    assert_eq!(answer.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
    let (refused, ()) = tokio::join!(service.post("refused", "c", 0), cancel_a_wait(&pair));
    assert_eq!(refused.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
    let there = pair.clone();
    assert_eq!(blocking(move || there.records()).await, "3", "both are committed");
    for (how, key) in [("created", "b"), ("refused", "c"), ("created", "a")] {
        assert_eq!(service.post(how, key, 0).await.code(), "IDEMPOTENCY_STORE_UNAVAILABLE", "{key}");
    }
    // A store without this option returns the record.
    let careless = Service::start(Store::connect(&url).await.unwrap()).await;
    assert!(careless.post("created", "b", 0).await.replayed);

    let there = pair.clone();
    blocking(move || there.standby.start_again()).await;
    for (how, key, status) in [("created", "b", 201), ("refused", "c", 422), ("created", "a", 201)] {
        eventually(SOON, "the standby to catch up", async || service.post(how, key, 0).await.status == status).await;
        assert!(service.post(how, key, 0).await.replayed);
    }
    assert_eq!(service.items().await, ["a", "b"]);
}

/// The same on a lease: an outcome is reported as recorded only after the standby has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_on_a_lease_is_not_known_before_the_standby_has_it() {
    let pair = Arc::new(blocking(Pair::start).await);
    let there = pair.clone();
    blocking(move || there.synchronous()).await;
    let store = Store::connect_with(&pair.primary.url("postgres"), options()).await.unwrap();
    let (scope, key) = (Scope::new("user").unwrap(), Key::new("key").unwrap());
    let request = Fingerprint::of([b"request".as_slice()]);
    let claim = || Claim::new(scope.clone(), key.clone(), request, Guarantee::Fenced, &Policy::default());
    let Claimed::Won(record) = store.claim(claim()).await.unwrap().value else { panic!("it is free") };

    let there = pair.clone();
    blocking(move || there.standby.stop()).await;
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let (completed, ()) = tokio::join!(store.complete(record.lease(), completion.clone()), cancel_a_wait(&pair));
    assert_eq!(completed.unwrap_err().kind(), ErrorKind::NotKnown);
    let completed = store.complete(record.lease(), completion.clone()).await;
    assert_eq!(completed.unwrap_err().kind(), ErrorKind::NotKnown, "it is there, and no wait is left to be cancelled");
    assert_eq!(store.claim(claim()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.read(record.id()).await.unwrap_err().kind(), ErrorKind::Unavailable);

    let there = pair.clone();
    blocking(move || there.standby.start_again()).await;
    eventually(SOON, "the standby to catch up", async || store.read(record.id()).await.is_ok()).await;
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
    assert!(matches!(store.claim(claim()).await.unwrap().value, Claimed::Held(_)));
}
