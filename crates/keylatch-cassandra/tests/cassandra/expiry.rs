//! What ends by itself, and when; and the entries of the indexes.

use std::time::Duration;

use futures_util::future::try_join_all;
use keylatch::cassandra::{Options, Store};
use keylatch::machine::{Claim, Claimed, Completion, End};
use keylatch::store::{Applied, Inspect as _, PageRequest, Store as _, Sweep as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use scylla::client::session::Session;
use testing_support::cassandra::TOMBSTONES_MAX;
use testing_support::eventually;

use crate::one_node::{node, on_one_node};
use crate::support::connect;

const KEYSPACE: &str = "expiry";
const POLICY: Policy = Policy {
    lease: Duration::from_secs(10),
    retention: Duration::from_secs(100),
    tombstone: Duration::from_secs(1_000),
};
/// How much longer than their time columns stay: a minute, and twice the clock uncertainty of a second.
const MARGIN: i32 = 62;
const SOON: Duration = Duration::from_secs(20);

/// A store with a prefix of its own, and a session to look at its rows.
async fn fixture(prefix: &str, options: Options) -> (Store, Session) {
    let cluster = node(KEYSPACE).await;
    (connect(cluster, KEYSPACE, options.with_prefix(prefix)).await, cluster.session().await)
}

fn claim(key: &str, guarantee: Guarantee) -> Claim {
    claim_under(&POLICY, key, guarantee)
}

fn claim_under(policy: &Policy, key: &str, guarantee: Guarantee) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(Scope::new("caller").unwrap(), Key::new(key).unwrap(), fingerprint, guarantee, policy)
}

async fn win(store: &Store, claim: &Claim) -> Record {
    match store.claim(claim.clone()).await.expect("the store claims").value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("held by {record:?}"),
    }
}

async fn complete(store: &Store, record: &Record, body: String) {
    let completion = Completion::new(Outcome::bytes(body), &POLICY);
    let applied = store.complete(record.lease(), completion).await.expect("the store completes");
    assert!(matches!(applied, Applied::Applied(_)));
}

/// How long the columns of a record still stay, in seconds: record and answer.
async fn ttl(session: &Session, prefix: &str, record: &Record) -> (Option<i32>, Option<i32>) {
    let row = [prefix.as_bytes(), record.id().as_bytes()].concat();
    let read = format!("SELECT TTL(record), TTL(outcome) FROM {KEYSPACE}.record WHERE id = ?");
    let rows = session.query_unpaged(read, (row,)).await.unwrap().into_rows_result().unwrap();
    rows.first_row::<(Option<i32>, Option<i32>)>().expect("there is a row")
}

/// The entries of one store: of runs, and of scopes with how long they stay.
async fn entries(session: &Session, prefix: &str) -> (usize, Vec<Option<i32>>) {
    let rows = session.query_unpaged(format!("SELECT space FROM {KEYSPACE}.running"), ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let running = rows.rows::<(Vec<u8>,)>().unwrap().filter(|row| row.as_ref().unwrap().0 == prefix.as_bytes()).count();
    let rows = session.query_unpaged(format!("SELECT scope, TTL(at) FROM {KEYSPACE}.by_scope"), ()).await.unwrap();
    let rows = rows.into_rows_result().unwrap();
    let scopes = rows.rows::<(Vec<u8>, Option<i32>)>().unwrap().map(Result::unwrap);
    (running, scopes.filter(|(scope, _)| scope.starts_with(prefix.as_bytes())).map(|(_, ttl)| ttl).collect())
}

/// Whether a time is this one or a little less, as it runs.
fn near(ttl: Option<i32>, seconds: i32) -> bool {
    ttl.is_some_and(|ttl| (seconds - 15..=seconds + 1).contains(&ttl))
}

#[tokio::test]
async fn a_run_never_ends_by_itself_and_its_end_does() {
    let (store, session) = fixture("ends-", on_one_node().with_compression(None)).await;
    let [short, long] =
        [win(&store, &claim("short", Guarantee::Fenced)).await, win(&store, &claim("long", Guarantee::Fenced)).await];
    assert_eq!(ttl(&session, "ends-", &short).await, (None, None));
    complete(&store, &short, "answer".to_owned()).await;
    complete(&store, &long, "x".repeat(2_000)).await;
    let (record, outcome) = ttl(&session, "ends-", &short).await;
    assert!(near(record, 1_100 + MARGIN) && near(outcome, 1_100 + MARGIN), "{record:?} {outcome:?}");
    let (record, outcome) = ttl(&session, "ends-", &long).await;
    assert!(near(record, 1_100 + MARGIN) && near(outcome, 100 + MARGIN), "{record:?} {outcome:?}");
    // The same columns, without an end, for the next run of a freed key.
    let freed = win(&store, &claim("freed", Guarantee::Fenced)).await;
    let end = End::Free(Duration::from_secs(50));
    assert!(matches!(store.release(freed.lease(), end).await.unwrap(), Applied::Applied(_)));
    assert!(near(ttl(&session, "ends-", &freed).await.0, 50 + MARGIN));
    let next = win(&store, &claim("freed", Guarantee::Fenced)).await;
    assert_eq!(next.epoch, freed.epoch.next());
    assert_eq!(ttl(&session, "ends-", &next).await, (None, None));
}

#[tokio::test]
async fn a_forgotten_answer_leaves_its_column() {
    let (store, session) = fixture("forgotten-", on_one_node()).await;
    let record = win(&store, &claim("key", Guarantee::Fenced)).await;
    complete(&store, &record, "x".repeat(2_000)).await;
    assert!(matches!(store.forget(record.lease()).await.unwrap(), Applied::Applied(_)));
    let (record, outcome) = ttl(&session, "forgotten-", &record).await;
    assert!(near(record, 1_100 + MARGIN) && outcome.is_none(), "{record:?} {outcome:?}");
}

#[tokio::test]
async fn entries_go_with_what_they_name() {
    let (store, session) = fixture("entries-", on_one_node()).await;
    let fenced = win(&store, &claim("fenced", Guarantee::Fenced)).await;
    let once = win(&store, &claim("once", Guarantee::AtMostOnce)).await;
    let (running, mut scopes) = entries(&session, "entries-").await;
    scopes.sort_unstable();
    // What must not run twice may stay for ever, so its entry does.
    assert_eq!((running, scopes.len(), scopes[0]), (2, 2, None));
    assert!(near(scopes[1], 10 + 1_100 + MARGIN), "{scopes:?}");
    complete(&store, &fenced, "answer".to_owned()).await;
    complete(&store, &once, "answer".to_owned()).await;
    eventually(SOON, "entries that end", async || {
        let (running, scopes) = entries(&session, "entries-").await;
        running == 0 && scopes.len() == 2 && scopes.iter().all(|ttl| ttl.is_some())
    })
    .await;
}

/// A process can die between the entry and the transaction. Readers remove what names nothing, once it is old.
#[tokio::test]
async fn entries_that_name_nothing_are_removed_by_readers() {
    let options = on_one_node().with_index_kept(Duration::from_secs(1));
    let (store, session) = fixture("old-", options).await;
    let (patient, _) = fixture("old-", on_one_node()).await;
    let lost = claim("lost", Guarantee::AtMostOnce);
    let id = lost.id();
    let run = format!("INSERT INTO {KEYSPACE}.running (space, bucket, id, owner, at) VALUES (?, ?, ?, ?, 0)");
    let bucket = i32::from(id.as_bytes()[16]) % 64;
    let owner = lost.owner.as_bytes().as_slice();
    session.query_unpaged(run, (b"old-".as_slice(), bucket, id.as_bytes().as_slice(), owner)).await.unwrap();
    let name = format!("INSERT INTO {KEYSPACE}.by_scope (scope, bucket, key, at) VALUES (?, ?, ?, 0)");
    let (scope, key) = ([b"old-".as_slice(), &id.scope_digest()].concat(), &id.as_bytes()[16..]);
    session.query_unpaged(name, (scope, i32::from(key[1]) % 16, key)).await.unwrap();
    let page = || PageRequest { scope: Some(Scope::new("caller").unwrap()), limit: 10, ..PageRequest::default() };
    let read = async |store: &Store| {
        assert!(store.list(page()).await.unwrap().value.records.is_empty());
        assert!(store.lapsed(None, 10).await.unwrap().value.records.is_empty());
        assert_eq!(store.count(lost.scope().clone(), 10).await.unwrap().at_least(), 0);
        store.sweep(10).await.unwrap();
    };
    read(&patient).await;
    assert_eq!(entries(&session, "old-").await, (1, vec![None]));
    eventually(SOON, "old entries to be removed", async || {
        read(&store).await;
        entries(&session, "old-").await == (0, Vec::new())
    })
    .await;
}

/// A row that has ended stays as tombstones, and a node gives up a read that meets too many.
#[tokio::test]
async fn many_that_have_ended_hide_none_that_is_there() {
    let (store, session) = fixture("hidden-", on_one_node()).await;
    let mut there = Vec::new();
    for key in ["one", "two", "three"] {
        let record = win(&store, &claim(key, Guarantee::Fenced)).await;
        complete(&store, &record, "answer".to_owned()).await;
        there.push(record.id());
    }
    let write = format!("UPDATE {KEYSPACE}.record USING TTL 1 SET epoch = 1 WHERE id = ?");
    let write = session.prepare(write).await.unwrap();
    let all: Vec<u32> = (0..5 * TOMBSTONES_MAX).collect();
    for some in all.chunks(100) {
        let keys = some.iter().map(|number| format!("ended-{number}").into_bytes());
        try_join_all(keys.map(|key| session.execute_unpaged(&write, (key,)))).await.unwrap();
    }
    let whole = format!("SELECT id FROM {KEYSPACE}.record");
    eventually(SOON, "a plain read to be given up", async || session.query_unpaged(&*whole, ()).await.is_err()).await;

    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = PageRequest { after, limit: 1, ..PageRequest::default() };
        let page = store.list(page).await.expect("a list of all records").value;
        found.extend(page.records.iter().map(Record::id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    there.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, there);
}

/// The entry of a run that has ended is a tombstone, too. It counts until `gc_grace_seconds` are over, which is a minute.
#[tokio::test]
async fn many_runs_that_have_ended_hide_none_for_long() {
    let (keyspace, bucket) = ("ended_runs", 7);
    let cluster = node(keyspace).await;
    let store = connect(cluster, keyspace, on_one_node()).await;
    let session = cluster.session().await;
    let policy = Policy { lease: Duration::from_millis(1), ..POLICY };
    let run = win(&store, &claim_under(&policy, "key", Guarantee::AtMostOnce)).await;
    let space = b"".as_slice();
    let write = format!("INSERT INTO {keyspace}.running (space, bucket, id, owner, at) VALUES (?, ?, ?, ?, 0)");
    let end = format!("DELETE FROM {keyspace}.running WHERE space = ? AND bucket = ? AND id = ? AND owner = ?");
    let (write, end) = (session.prepare(write).await.unwrap(), session.prepare(end).await.unwrap());
    let all: Vec<u32> = (0..2 * TOMBSTONES_MAX).collect();
    for some in all.chunks(100) {
        let ids = some.iter().map(|number| [[0; 28].as_slice(), &number.to_be_bytes()].concat());
        let begin_and_end = ids.map(async |id| {
            session.execute_unpaged(&write, (space, bucket, &id, b"owner".as_slice())).await?;
            session.execute_unpaged(&end, (space, bucket, &id, b"owner".as_slice())).await
        });
        try_join_all(begin_and_end).await.unwrap();
    }
    assert!(store.lapsed(None, 10).await.is_err(), "a read of so many tombstones is given up");
    // As if the minute was over.
    let later = format!("ALTER TABLE {keyspace}.running WITH gc_grace_seconds = 1");
    session.query_unpaged(later, ()).await.unwrap();
    eventually(SOON, "the run to be found", async || {
        let found = store.lapsed(None, 10).await;
        found.is_ok_and(|page| page.value.records.iter().map(Record::id).eq([run.id()]))
    })
    .await;
}
