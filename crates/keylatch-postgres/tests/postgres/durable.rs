//! `Durability::Disk`: an acknowledged write is on disk, whatever the settings of the role or the database.

use std::sync::Arc;
use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion, End, Terms};
use keylatch::postgres::Store;
use keylatch::postgres::sqlx;
use keylatch::store::{Applied, Durability, State, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use testing_support::postgres::Cluster;

use crate::support::Service;

fn claim(key: &str) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(key).unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
}

async fn won(store: &Store, key: &str) -> Record {
    match store.claim(claim(key)).await.unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("it is free: {record:?}"),
    }
}

/// Stops the server as a crash would, so that it loses what is not on disk, and starts it again.
async fn crash(cluster: &Arc<Cluster>) {
    let cluster = cluster.clone();
    let crashing = move || {
        cluster.stop_immediately();
        cluster.start_again();
    };
    tokio::task::spawn_blocking(crashing).await.unwrap();
}

/// With `synchronous_commit = off` for the database, the server acknowledges a commit that is not on disk yet. The
/// store loses no write to that.
#[tokio::test]
async fn commits_are_on_disk_where_the_database_was_told_not_to_wait() {
    // What is not written at the commit is not written soon after.
    let config = "synchronous_commit = off\nwal_writer_delay = 10s\nwal_writer_flush_after = 1GB\nautovacuum = off";
    let cluster = Arc::new(tokio::task::spawn_blocking(move || Cluster::start(config)).await.unwrap());
    let store = Store::connect(&cluster.url("postgres")).await.unwrap();
    assert_eq!(store.durability(), Durability::Disk);
    sqlx::raw_sql("CREATE TABLE item (name text UNIQUE)").execute(store.pool()).await.unwrap();
    sqlx::raw_sql("CHECKPOINT").execute(store.pool()).await.unwrap();

    let record = won(&store, "claimed").await;
    crash(&cluster).await;
    assert_eq!(store.read(record.id()).await.unwrap().value, Some(record.clone()));

    let terms = Terms { lease: Duration::from_secs(3_600), takeover: None, free: None };
    let step = Some(("step".to_owned(), "result".into()));
    assert!(matches!(store.renew(record.lease(), terms, step).await.unwrap(), Applied::Applied(_)));
    crash(&cluster).await;
    let State::Running { notes, .. } = store.read(record.id()).await.unwrap().value.unwrap().state else {
        panic!("it runs")
    };
    assert_eq!(notes.steps.len(), 1);

    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
    crash(&cluster).await;
    let state = store.read(record.id()).await.unwrap().value.unwrap().state;
    assert!(matches!(state, State::Completed { .. }));

    let record = won(&store, "released").await;
    assert!(matches!(store.release(record.lease(), End::Unknown).await.unwrap(), Applied::Applied(_)));
    crash(&cluster).await;
    assert_eq!(store.read(record.id()).await.unwrap().value.unwrap().takeover_at, None);

    let service = Service::start(store).await;
    assert_eq!(service.post("created", "key", 0).await.status, 201);
    crash(&cluster).await;
    assert!(service.post("created", "key", 0).await.replayed);
    assert_eq!(service.items().await, ["key"]);
}

/// If the server does not sync at all, no setting of the store helps: it reports what it can promise.
#[tokio::test]
async fn a_server_without_fsync_does_not_count_as_a_disk() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start("fsync = off")).await.unwrap();
    let store = Store::connect(&cluster.url("postgres")).await.unwrap();
    assert_eq!(store.durability(), Durability::Replica);
}
