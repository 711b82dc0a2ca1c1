//! A million records: what operators ask for takes no more memory and no more looks than with few.

use std::fs;
use std::time::Instant;

use keylatch::store::Store as _;
use keylatch::{Fingerprint, Guarantee, Key, Outcome, RecordId, Scope};
use keylatch_admin::ops::{ListRecords, StatsOf};
use keylatch_admin::view::Phase;
use rusqlite::params;

use crate::setup::{self, claim, operator};

const RECORDS: usize = 1_000_000;

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
}

/// Writes them as the store does, in one transaction of another connection.
fn fill(path: &std::path::Path, now: i64) {
    let mut db = rusqlite::Connection::open(path).unwrap();
    let tx = db.transaction().unwrap();
    let answer = Outcome::bytes("the answer of an order, as it is often seen").encode();
    let scopes: Vec<_> = (0..1_000).map(|nth| Scope::new(&format!("user-{nth}")).unwrap()).collect();
    let mut insert = tx
        .prepare(
            "INSERT INTO keylatch_record (id, caller, operation, key, fingerprint, guarantee, epoch, owner, attempt, \
             created_at, free_at, state, expires_at, outcome, due_at) \
             VALUES (?1, ?2, '', ?3, ?4, 'fenced', 1, zeroblob(16), 1, ?5, ?7, 'completed', ?6, ?8, ?6)",
        )
        .unwrap();
    let request = Fingerprint::of([b"request".as_slice()]);
    for nth in 0..RECORDS {
        let (scope, key) = (&scopes[nth % scopes.len()], Key::new(format!("key-{nth}").as_str()).unwrap());
        let id = RecordId::of(scope, &key);
        let (expires_at, free_at) = (now + 86_400_000, now + 4 * 86_400_000);
        let values = params![
            id.as_bytes().as_slice(),
            scope.caller(),
            key.as_str(),
            request.as_bytes().as_slice(),
            now,
            expires_at,
            free_at,
            answer
        ];
        insert.execute(values).unwrap();
    }
    drop(insert);
    tx.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_records_are_listed_and_counted_with_little_memory() {
    /// A page has 500 records and a step of a search 64, of less than a kilobyte each.
    const MORE_BYTES_MAX: usize = 64 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = setup::sqlite(directory.path()).await;
    let unknown = claim(&store, "lost", Guarantee::AtMostOnce).await;
    let now = store.read(unknown.id()).await.unwrap().now.as_millis();
    let path = directory.path().join("keylatch.db");
    tokio::task::spawn_blocking(move || fill(&path, now)).await.unwrap();
    let operator = operator(store);
    let before = peak();
    let mut took = Vec::new();
    let mut timed = |what, started: Instant| took.push(format!("{what} {:?}", started.elapsed()));

    let started = Instant::now();
    let page = operator.list(ListRecords { limit: Some(500), ..ListRecords::default() }).await.unwrap();
    timed("a page of 500:", started);
    assert_eq!(page.records.len(), 500);
    let started = Instant::now();
    let request = ListRecords { caller: Some("user-7".to_owned()), limit: Some(500), ..ListRecords::default() };
    assert_eq!(operator.list(request).await.unwrap().records.len(), 500);
    timed("a page of one caller:", started);
    let started = Instant::now();
    let request = ListRecords { phase: Some(Phase::Unknown), ..ListRecords::default() };
    assert_eq!(operator.list(request).await.unwrap().records.len(), 1);
    timed("the unknown one:", started);
    let started = Instant::now();
    let request = ListRecords { phase: Some(Phase::Tombstone), ..ListRecords::default() };
    let none = operator.list(request).await.unwrap();
    timed("a search for what is not there:", started);
    assert!(none.records.is_empty() && none.next.is_some(), "it says where to go on");
    let started = Instant::now();
    let of = StatsOf { caller: Some("user-7".to_owned()), operation: None };
    let stats = operator.stats(of).await.unwrap();
    timed("the numbers:", started);
    assert_eq!((stats.lapsed.unknown, stats.records.unwrap().count), (1, 1_001));

    let more = peak() - before;
    eprintln!("{}; {} KiB more memory", took.join(", "), more >> 10);
    assert!(more < MORE_BYTES_MAX, "{more} bytes");
}
