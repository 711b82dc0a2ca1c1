//! The table stays small: cleaning keeps up, on every node at once, and its free space is reused.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keylatch::machine::{Claim, Claimed, Completion, Terms};
use keylatch::postgres::sqlx::{self, Connection as _, PgPool};
use keylatch::postgres::{Options, Store};
use keylatch::store::{Applied, Store as _, Sweep as _, Swept};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_support::eventually;
use testing_support::postgres::Cluster;

use crate::support::{cluster, database, fresh, records, store, store_with};

fn claim(policy: &Policy) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(&fresh("key")).unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, policy)
}

/// A claim, a renewal and a completion, with an answer of a typical size.
async fn request(store: &Store, policy: &Policy) {
    let claim = claim(policy);
    let terms = claim.terms;
    let Claimed::Won(record) = store.claim(claim).await.unwrap().value else { panic!("it is free") };
    assert!(matches!(store.renew(record.lease(), terms, None).await.unwrap(), Applied::Applied(_)));
    let completion = Completion::new(Outcome::bytes("x".repeat(400)), policy);
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
}

async fn bytes(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT pg_total_relation_size('keylatch.record')").fetch_one(pool).await.unwrap()
}

/// After ten retention periods under load, the table and its indexes are at most twice as large as the live rows alone
/// would be, at the moment with the most live rows: used space is kept for reuse. On a busy machine the load is uneven.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_is_bounded() {
    // Longer than autovacuum's pause (1 s on this server, 60 s by default), as any real retention is.
    let policy = Policy { retention: Duration::from_secs(2), tombstone: Duration::from_secs(4), ..Policy::default() };
    const WORKERS: usize = 8;
    // A database of its own: autovacuum visits one database after the other.
    let cluster = tokio::task::spawn_blocking(|| Cluster::start("")).await.unwrap();
    let url = cluster.url("postgres");
    let nodes = [Store::connect(&url).await.unwrap(), Store::connect(&url).await.unwrap()];
    let started = Instant::now();
    let over = || started.elapsed() > policy.retention * 10;
    let working = join_all((0..WORKERS).map(|worker| {
        let (store, policy) = (&nodes[worker % 2], &policy);
        async move {
            let mut requests = 0;
            while !over() {
                request(store, policy).await;
                requests += 1;
                // Three hundred a second in all, even if the machine could do more.
                let ahead = Duration::from_secs(requests) * 8 / 300;
                tokio::time::sleep(ahead.saturating_sub(started.elapsed())).await;
            }
            requests
        }
    }));
    let cleaning = join_all(nodes.iter().map(|store| async {
        let mut swept = Swept::default();
        while !over() {
            swept += store.sweep(1_000).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        swept
    }));
    let counting = async {
        let mut most = 0;
        while !over() {
            most = most.max(records(&nodes[0]).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        most
    };
    let (requests, swept, most) = tokio::join!(working, cleaning, counting);
    let requests: u64 = requests.iter().sum();
    let removed: usize = swept.iter().map(|swept| swept.removed).sum();
    let pool = nodes[0].pool();
    let size = bytes(pool).await;
    let alive = records(&nodes[0]).await;
    assert_eq!(
        i64::try_from(requests).unwrap(),
        alive + i64::try_from(removed).unwrap(),
        "each went once, or is there"
    );
    assert!(removed > 0 && swept.iter().any(|swept| swept.tombstoned > 0));
    // A rewritten table has nothing but live rows.
    sqlx::raw_sql("VACUUM FULL keylatch.record").execute(pool).await.unwrap();
    let compact = bytes(pool).await;
    let most = most.max(alive);
    assert!(
        size * alive <= 2 * compact * most,
        "{size} bytes, of which {compact} are live: {alive} of {requests} records, and {most} at the most"
    );
}

/// A renewal touches no index, and the previous version makes room for the next in its own page.
#[tokio::test]
async fn renewals_are_heap_only() {
    const RENEWALS: i64 = 500;
    let store = store(&database().await).await;
    let claim = claim(&Policy::default());
    let terms =
        Terms { lease: Duration::from_secs(30), takeover: Some(Duration::from_secs(30)), free: claim.terms.free };
    let Claimed::Won(record) = store.claim(claim).await.unwrap().value else { panic!("it is free") };
    let sizes = "SELECT pg_relation_size('keylatch.record'), sum(pg_relation_size(i.indexrelid))::bigint \
                 FROM pg_index AS i WHERE i.indrelid = 'keylatch.record'::regclass";
    let sizes = async || sqlx::query_as::<_, (i64, i64)>(sizes).fetch_one(store.pool()).await.unwrap();
    let (_, indexes) = sizes().await;
    for _ in 0..RENEWALS {
        assert!(matches!(store.renew(record.lease(), terms, None).await.unwrap(), Applied::Applied(_)));
    }
    let (table, indexes_after) = sizes().await;
    assert_eq!(indexes_after, indexes);
    // All versions together would take 150 kB.
    assert!(table < 64 << 10, "{table} bytes");
    let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'record'";
    eventually(Duration::from_secs(30), "the server's counts", async || {
        let (updated, heap_only): (i64, i64) = sqlx::query_as(counts).fetch_one(store.pool()).await.unwrap();
        // While another session has a snapshot, as autovacuum does, old versions stay, and one can go to another page.
        assert!(updated - heap_only <= RENEWALS / 20, "{heap_only} of {updated}");
        updated == RENEWALS
    })
    .await;
}

/// A long transaction keeps removed rows from being cleaned away. Sweeps do not walk over all of them again and again.
#[tokio::test]
async fn under_an_old_snapshot_a_sweep_reads_each_entry_once() {
    const RECORDS: i64 = 6_000;
    const SLICE: usize = 100;
    let database = database().await;
    let store = store_with(&database, Options::default().with_connections_max(1)).await;
    let fill = format!(
        "INSERT INTO keylatch.record (id, owner, epoch, attempt, guarantee, state, created_at, free_at, expires_at, \
         due_at, fingerprint, caller, operation, key) \
         SELECT sha256(n::text::bytea), decode(repeat('00', 16), 'hex'), 1, 1, 2, 2, 0, n, n, n, \
         sha256(n::text::bytea), 'user', '', n::text FROM generate_series(1, {RECORDS}) AS n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(store.pool()).await.unwrap();
    // As autovacuum does when there are enough rows: from then on the planner knows how many are due.
    sqlx::raw_sql("ANALYZE keylatch.record").execute(store.pool()).await.unwrap();
    let mut old = sqlx::PgConnection::connect(&cluster().url(&database)).await.unwrap();
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM keylatch.record";
    sqlx::raw_sql(snapshot).execute(&mut old).await.unwrap();

    let read = async || -> i64 {
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(store.pool()).await.unwrap();
        let entries = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'record_due'";
        sqlx::query_scalar(entries).fetch_one(store.pool()).await.unwrap()
    };
    let before = read().await;
    let mut removed = 0;
    while removed < usize::try_from(RECORDS).unwrap() {
        let swept = store.sweep(SLICE).await.unwrap();
        assert_eq!(swept.removed, SLICE);
        removed += swept.removed;
    }
    let entries = read().await - before;
    assert!((RECORDS..3 * RECORDS).contains(&entries), "{entries} entries were read for {RECORDS} records");
    // It begins again, in case something was skipped, and finds nothing.
    assert_eq!(store.sweep(SLICE).await.unwrap(), Swept::default());
}

#[tokio::test]
async fn the_table_is_tuned() {
    let store = store(&database().await).await;
    let options = "SELECT array_to_string(reloptions, ' ') FROM pg_class WHERE oid = 'keylatch.record'::regclass";
    let options: String = sqlx::query_scalar(options).fetch_one(store.pool()).await.unwrap();
    for option in [
        "fillfactor=85",
        "autovacuum_analyze_threshold=500",
        "autovacuum_vacuum_scale_factor=0.02",
        "autovacuum_vacuum_cost_delay=0",
        "vacuum_truncate=off",
    ] {
        assert!(options.contains(option), "{options}");
    }
}

/// Two cleaners at once, while a third transaction holds some rows: nothing is removed twice, nobody waits, nobody
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleaners_do_not_meet() {
    const RECORDS: usize = 5_000;
    const HELD: usize = 100;
    let database = database().await;
    let nodes = [store(&database).await, store(&database).await];
    let policy = Policy { retention: Duration::from_millis(1), tombstone: Duration::ZERO, ..Policy::default() };
    for _ in 0..RECORDS / 500 {
        join_all((0..500).map(|at| request(&nodes[at % 2], &policy))).await;
    }
    let mut holder = nodes[0].pool().begin().await.unwrap();
    let hold = format!("SELECT id FROM keylatch.record ORDER BY id LIMIT {HELD} FOR UPDATE");
    let held = sqlx::query(sqlx::AssertSqlSafe(hold)).fetch_all(&mut *holder).await.unwrap().len();
    assert_eq!(held, HELD);
    // In portions smaller than a transaction's, and larger.
    let clean = async |store: &Store, limit: usize| {
        let mut removed = 0;
        loop {
            let swept = store.sweep(limit).await.unwrap();
            assert!(swept.total() <= limit);
            removed += swept.removed;
            if swept.total() == 0 {
                return removed;
            }
        }
    };
    let removed = join_all((0..8).map(|at| clean(&nodes[at % 2], if at < 4 { 70 } else { 2_500 }))).await;
    assert_eq!(removed.iter().sum::<usize>(), RECORDS - HELD);
    assert!(removed.iter().filter(|removed| **removed > 0).count() > 1, "one alone did it all: {removed:?}");
    holder.rollback().await.unwrap();
    assert_eq!(clean(&nodes[1], 1_000).await, HELD);
    assert_eq!(records(&nodes[0]).await, 0);
}
