//! How much each request adds to the server's log, and each record to the table: the figures in the manual.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::Store;
use keylatch::postgres::sqlx::{self, AssertSqlSafe};
use keylatch::store::{Applied, Owner, State, Store as _, Sweep as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_support::postgres::Cluster;

use crate::support::Service;

const REQUESTS: u32 = 600;
/// The length of a UUID, the most common key.
const KEY_BYTES: usize = 36;
/// A typical answer of an API.
const ANSWER_BYTES: usize = 400;

fn key() -> Key {
    static KEYS: AtomicU32 = AtomicU32::new(0);
    Key::new(&format!("{:0KEY_BYTES$}", KEYS.fetch_add(1, Ordering::Relaxed))).unwrap()
}

fn claim(policy: &Policy) -> Claim {
    let scope = Scope::new("user").unwrap().for_operation("POST /api/orders").unwrap();
    Claim::new(scope, key(), Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, policy)
}

async fn lease(store: &Store, policy: &Policy) {
    complete(store, claim(policy), policy).await;
}

async fn complete(store: &Store, claim: Claim, policy: &Policy) {
    let Claimed::Won(record) = store.claim(claim).await.unwrap().value else { panic!("it is free") };
    let completion = Completion::new(Outcome::bytes("x".repeat(ANSWER_BYTES)), policy);
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
}

/// The bytes of log that `work` writes, divided by `count`.
async fn log_bytes(store: &Store, count: u32, work: impl Future<Output = ()>) -> u32 {
    let position = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
    let position = async || sqlx::query_scalar::<_, i64>(position).fetch_one(store.pool()).await.unwrap();
    let before = position().await;
    work.await;
    u32::try_from(position().await - before).unwrap() / count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_costs_what_the_manual_says() {
    // Nothing else writes here. Full pages, which the first change after a checkpoint logs, are not counted.
    let config = "full_page_writes = off\nautovacuum = off\ncheckpoint_timeout = 1h\nbgwriter_lru_maxpages = 0";
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(config)).await.unwrap();
    cluster.sql("postgres", "CREATE TABLE item (name text NOT NULL UNIQUE)");
    let store = Store::connect(&cluster.url("postgres")).await.unwrap();
    let service = Service::start(store.clone()).await;
    let policy = Policy::default();

    let insert = |name: String| AssertSqlSafe(format!("INSERT INTO item VALUES ('{name}')"));
    let bare = log_bytes(&store, REQUESTS, async {
        for at in 0..REQUESTS {
            sqlx::raw_sql(insert(format!("bare-{at:031}"))).execute(store.pool()).await.unwrap();
        }
    });
    let bare = bare.await;
    let atomic = log_bytes(&store, REQUESTS, async {
        for _ in 0..REQUESTS {
            assert_eq!(service.post("created", key().as_str(), 0).await.status, 201);
        }
    });
    let atomic = atomic.await - bare;
    let alone = log_bytes(&store, REQUESTS, async {
        for _ in 0..REQUESTS {
            lease(&store, &policy).await;
        }
    });
    let alone = alone.await;
    let together = log_bytes(&store, REQUESTS, async {
        join_all((0..50).map(|_| async {
            for _ in 0..REQUESTS / 50 {
                lease(&store, &policy).await;
            }
        }))
        .await;
    });
    let together = together.await;
    let absent = log_bytes(&store, REQUESTS, async {
        for _ in 0..REQUESTS {
            assert!(store.read(claim(&policy).id()).await.unwrap().value.is_none());
        }
    });
    let absent = absent.await;
    let answered = claim(&policy);
    complete(&store, answered.clone(), &policy).await;
    // The first reader after a write may note in the page that it is committed.
    let held = || Claim { owner: Owner::random(), ..answered.clone() };
    assert!(matches!(store.claim(held()).await.unwrap().value, Claimed::Held(_)));
    let replay = log_bytes(&store, REQUESTS, async {
        for _ in 0..REQUESTS {
            let Claimed::Held(record) = store.claim(held()).await.unwrap().value else { panic!("it is answered") };
            assert!(matches!(record.state, State::Completed { outcome: Some(_), .. }));
        }
    });
    let replay = replay.await;
    let name = key();
    assert_eq!(service.post("created", name.as_str(), 0).await.status, 201);
    let replay_atomic = log_bytes(&store, REQUESTS, async {
        for _ in 0..REQUESTS {
            assert!(service.post("created", name.as_str(), 0).await.replayed);
        }
    });
    let replay_atomic = replay_atomic.await;
    let brief = Policy { retention: Duration::from_millis(1), tombstone: Duration::ZERO, ..policy };
    join_all((0..REQUESTS).map(|_| lease(&store, &brief))).await;
    let sweep = log_bytes(&store, REQUESTS, async {
        assert_eq!(store.sweep(REQUESTS as usize).await.unwrap().removed, REQUESTS as usize);
    });
    let sweep = sweep.await;
    let record = size(&store).await;
    let expire = "UPDATE keylatch.record SET expires_at = 0, due_at = 0 WHERE state = 2";
    let expired = sqlx::raw_sql(expire).execute(store.pool()).await.unwrap().rows_affected();
    let expired = u32::try_from(expired).unwrap();
    let burial = log_bytes(&store, expired, async {
        assert_eq!(store.sweep(expired as usize).await.unwrap().tombstoned, expired as usize);
    });
    let burial = burial.await;
    let tombstone = size(&store).await;

    // The measured figures, and a tenth more.
    for (what, bytes, most) in [
        ("a request in Atomic, beside its handler's own", atomic, 710),
        ("a request on a lease, alone", alone, 1_720),
        ("a request on a lease, with others", together, 1_740),
        ("a read of what is not there", absent, 0),
        ("a replay on a lease", replay, 0),
        ("a replay in Atomic", replay_atomic, 0),
        ("a burial", burial, 550),
        ("a removal", sweep, 130),
        ("a record", record, 850),
        ("a tombstone", tombstone, 410),
    ] {
        assert!(bytes <= most, "{what}: {bytes} bytes, at most {most}; a bare insert: {bare}");
    }
}

/// The bytes of a freshly written table and its indexes, per record.
async fn size(store: &Store) -> u32 {
    sqlx::raw_sql("VACUUM FULL keylatch.record").execute(store.pool()).await.unwrap();
    let size = "SELECT pg_total_relation_size('keylatch.record') / (SELECT count(*) FROM keylatch.record)";
    let size: i64 = sqlx::query_scalar(size).fetch_one(store.pool()).await.unwrap();
    u32::try_from(size).unwrap()
}
