//! A plan that was made while the table was empty stays in use when the table is large: no statement may then read the
//! whole table.

use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch::postgres::sqlx;
use keylatch::postgres::{Options, Store};
use keylatch::store::{Applied, Inspect as _, Owner, PageRequest, Store as _, Sweep as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};

use crate::support::{Service, cluster, database, fresh, records, store_with};

/// After five executions a generic plan may replace the plans for each set of parameters.
const ROUNDS: usize = 12;
const RECORDS: i64 = 100_000;
/// `autovacuum_analyze_threshold` of the table.
const ANALYZED_FROM: i64 = 500;

/// On one connection, which keeps its plans.
async fn store(database: &str) -> Store {
    store_with(database, Options::default().with_connections_max(1)).await
}

pub(crate) fn claim(scope: &Scope, lease: Duration) -> Claim {
    let key = Key::new(&fresh("key")).unwrap();
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    let mut claim = Claim::new(scope.clone(), key, fingerprint, Guarantee::Fenced, &Policy::default());
    claim.terms = Terms { lease, takeover: Some(lease), free: Some(Duration::from_secs(60)) };
    claim
}

/// Does everything that a store can do, and returns the number of statements.
async fn everything(service: &Service) -> i64 {
    let store = &service.store;
    let scope = Scope::new(&fresh("scope")).unwrap();
    let won = async |claim: &Claim| match store.claim(claim.clone()).await.unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("it is free: {record:?}"),
    };
    // A win, a held record, and a takeover.
    let first = claim(&scope, Duration::ZERO);
    let record = won(&first).await;
    assert_eq!(store.lapsed(None, 1).await.unwrap().value.records.len(), 1);
    let takeover = Claim { owner: Owner::random(), ..first };
    assert_eq!(won(&takeover).await.epoch, record.epoch.next());
    let record = store.read(record.id()).await.unwrap().value.unwrap();
    let other = Claim { owner: Owner::random(), fingerprint: Fingerprint::of([b"other".as_slice()]), ..takeover };
    assert!(matches!(store.claim(other).await.unwrap().value, Claimed::Held(_)));

    let terms = Terms { lease: Duration::from_secs(60), takeover: None, free: None };
    let applied = store.renew(record.lease(), terms, Some(("step".to_owned(), "result".into()))).await.unwrap();
    assert!(matches!(applied, Applied::Applied(_)));
    let brief = Policy { retention: Duration::from_millis(1), tombstone: Duration::ZERO, ..Policy::default() };
    let completion = Completion::new(Outcome::bytes("done"), &brief);
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
    for end in [End::Free(Duration::ZERO), End::Retry(Duration::ZERO), End::Unknown] {
        let record = won(&claim(&scope, Duration::from_secs(60))).await;
        assert!(matches!(store.release(record.lease(), end).await.unwrap(), Applied::Applied(_)));
    }
    let completed = Resolution::Completed(Completion::new(Outcome::bytes("done"), &Policy::default()));
    for resolution in [completed, Resolution::NeverHappened(Duration::ZERO)] {
        let record = won(&claim(&scope, Duration::from_secs(60))).await;
        assert!(matches!(store.release(record.lease(), End::Unknown).await.unwrap(), Applied::Applied(_)));
        assert!(matches!(store.resolve(record.lease(), resolution).await.unwrap(), Applied::Applied(_)));
    }
    let record = won(&claim(&scope, Duration::from_secs(60))).await;
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
    assert!(matches!(store.forget(record.lease()).await.unwrap(), Applied::Applied(_)));
    let page = PageRequest { scope: Some(scope.clone()), after: None, limit: 10 };
    assert_eq!(store.list(page).await.unwrap().value.records.len(), 5);
    assert_eq!(store.list(PageRequest { limit: 10, ..PageRequest::default() }).await.unwrap().value.records.len(), 10);
    assert_eq!(store.count(scope, 10).await.unwrap().at_least(), 5);
    tokio::time::sleep(Duration::from_millis(2)).await;
    // An expired record, and one whose retry never came.
    assert_eq!(store.sweep(10).await.unwrap().total(), 2);

    // A first request in `Atomic`, and a replay: one look each; the first also enters and writes its record.
    let key = fresh("key");
    assert_eq!(service.post("created", &key, 0).await.status, 201);
    assert!(service.post("created", &key, 0).await.replayed);
    32
}

/// How many rows were read in whole-table scans and how many index entries, after this session has reported its counts.
async fn read(store: &Store) -> (i64, i64) {
    let counts = "SELECT t.seq_tup_read, (SELECT sum(i.idx_tup_read)::bigint FROM pg_stat_user_indexes AS i \
                  WHERE i.relid = t.relid) FROM pg_stat_user_tables AS t WHERE t.relname = 'record'";
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(store.pool()).await.unwrap();
    sqlx::query_as(counts).fetch_one(store.pool()).await.unwrap()
}

/// Adds records with the numbers from `from` to `to`. They belong to nobody, and sort after all others.
async fn fill(database: &str, from: i64, to: i64) {
    let fill = format!(
        "INSERT INTO keylatch.record (id, owner, epoch, attempt, guarantee, state, created_at, free_at, expires_at, \
         due_at, fingerprint, caller, operation, key) \
         SELECT '\\xff' || substr(sha256(n::text::bytea), 2), decode(repeat('00', 16), 'hex'), 1, 1, 2, 2, 0, 9e15, 9e15, 9e15, \
         sha256(n::text::bytea), 'user', '', n::text FROM generate_series({from}, {to}) AS n"
    );
    let filled = database.to_owned();
    tokio::task::spawn_blocking(move || cluster().sql(&filled, &fill)).await.unwrap();
}

#[tokio::test]
async fn no_statement_reads_the_whole_table() {
    grows_under_old_plans(0).await;
}

/// Autovacuum would soon tell the planner that the table is small.
#[tokio::test]
async fn no_statement_reads_the_whole_table_that_was_small_when_analyzed() {
    grows_under_old_plans(ANALYZED_FROM).await;
}

/// Makes plans on a table that was analyzed with this many records (or never), and uses them on a large table.
async fn grows_under_old_plans(analyzed: i64) {
    let database = database().await;
    let old = Service::start(store(&database).await).await;
    // Nothing makes new plans meanwhile.
    let quiet = "ALTER TABLE keylatch.record SET (autovacuum_enabled = off)";
    sqlx::raw_sql(quiet).execute(old.store.pool()).await.unwrap();
    // A page of all records is full at once.
    for key in 0..10 {
        assert_eq!(old.post("created", &format!("first-{key}"), 0).await.status, 201);
    }
    if analyzed > 0 {
        fill(&database, 1, analyzed).await;
        sqlx::raw_sql("VACUUM ANALYZE keylatch.record").execute(old.store.pool()).await.unwrap();
    }
    for _ in 0..ROUNDS {
        everything(&old).await;
    }

    fill(&database, analyzed + 1, RECORDS).await;
    assert!(records(&old.store).await > RECORDS);
    let new = Service::start(store(&database).await).await;
    for (service, which) in [(&old, "made on a small table"), (&new, "made on a full table")] {
        let (rows, entries) = read(&service.store).await;
        let mut statements = 0;
        for _ in 0..ROUNDS {
            statements += everything(service).await;
        }
        let (rows_after, entries_after) = read(&service.store).await;
        assert_eq!(rows_after - rows, 0, "whole-table scans by plans {which}");
        let entries = entries_after - entries;
        // A page has ten records, and there are three kinds of pages; other statements read one or two records.
        assert!(entries > 0 && entries < 10 * statements, "{entries} entries for {statements} statements, {which}");
    }
}
