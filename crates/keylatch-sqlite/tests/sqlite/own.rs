//! `Atomic` in the caller's own transaction, on its own connection.

use keylatch::machine::Completion;
use keylatch::sqlite::rusqlite::{Connection, TransactionBehavior};
use keylatch::sqlite::{InOwn, Store};
use keylatch::store::{ErrorKind, Store as _};
use keylatch::{Guarantee, Outcome, Policy};

use crate::support::{Fixture, add, claim, claim_of, committed, keep};

fn completion(answer: &'static str) -> Completion {
    Completion::new(Outcome::bytes(answer), &Policy::default())
}

fn add_in(tx: &Connection, name: &str) {
    tx.execute("INSERT INTO item (name) VALUES (?1)", [name]).unwrap();
}

#[tokio::test]
async fn effect_and_record_commit_together_or_not_at_all() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let mut conn = fixture.raw();
    for commits in [false, true] {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let InOwn::Entered(entered) = fixture.store.claim_in(&tx, &claim).unwrap() else { panic!("it is free") };
        add_in(&tx, "a");
        let record = fixture.store.complete_in(&tx, entered, completion("done")).unwrap().unwrap().value;
        assert_eq!(fixture.record(&claim).await, None, "it counts when it is committed");
        if commits {
            tx.commit().unwrap();
            assert_eq!(fixture.record(&claim).await, Some(record));
            assert_eq!(fixture.items().await, ["a"]);
        } else {
            tx.rollback().unwrap();
            assert_eq!(fixture.record(&claim).await, None);
            assert!(fixture.items().await.is_empty());
        }
    }
    let tx = conn.transaction().unwrap();
    let InOwn::Held(held) = fixture.store.claim_in(&tx, &claim).unwrap() else { panic!("it is done") };
    assert_eq!(fixture.record(&claim).await, Some(held.value));
}

#[tokio::test]
async fn nobody_else_runs_the_request_meanwhile() {
    let fixture = Fixture::with_items().await;
    let mut conn = fixture.raw();
    let tx = conn.transaction().unwrap();
    let InOwn::Entered(entered) = fixture.store.claim_in(&tx, &claim_of("key", Guarantee::Atomic)).unwrap() else {
        panic!("it is free")
    };
    let mut beside = fixture.raw();
    beside.busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = beside.transaction().unwrap();
    let busy = fixture.store.claim_in(&other, &claim_of("key", Guarantee::Atomic)).unwrap();
    assert!(matches!(busy, InOwn::Busy), "{busy:?}");
    drop(other);
    let mut attempt = Box::pin(fixture.attempt(claim_of("key", Guarantee::Atomic), async |mut tx| {
        add(&mut tx, "handler").await.unwrap();
        keep("handler")
    }));
    assert!(futures_util::poll!(&mut attempt).is_pending());
    add_in(&tx, "own");
    let record = fixture.store.complete_in(&tx, entered, completion("own")).unwrap().unwrap().value;
    tx.commit().unwrap();
    assert_eq!(attempt.await.unwrap().value, keylatch::tx::Transacted::Held(Some(record)));
    assert_eq!(fixture.items().await, ["own"]);
}

#[tokio::test]
async fn a_claim_counts_in_its_own_transaction_only() {
    let fixture = Fixture::with_items().await;
    let mut conn = fixture.raw();
    let tx = conn.transaction().unwrap();
    let InOwn::Entered(entered) = fixture.store.claim_in(&tx, &claim_of("key", Guarantee::Atomic)).unwrap() else {
        panic!("it is free")
    };
    tx.rollback().unwrap();
    let record = committed(fixture.attempt(claim_of("key", Guarantee::Atomic), async |_| keep("handler")).await);
    let tx = conn.transaction().unwrap();
    assert_eq!(fixture.store.complete_in(&tx, entered, completion("own")).unwrap(), None);
    tx.commit().unwrap();
    assert_eq!(fixture.record(&claim_of("key", Guarantee::Atomic)).await, Some(record));
}

#[tokio::test]
async fn what_does_not_commit_with_the_record_is_refused() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let assert_refused = |conn: &Connection, word: &str| {
        let error = fixture.store.claim_in(conn, &claim).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    assert_refused(&fixture.raw(), "no transaction is open");
    let other = Fixture::new().await;
    for mut conn in [other.raw(), Connection::open_in_memory().unwrap()] {
        assert_refused(&conn.transaction().unwrap(), "another file");
    }
    let mut conn = fixture.raw();
    conn.pragma_update(None, "synchronous", "NORMAL").unwrap();
    assert_refused(&conn.transaction().unwrap(), "synchronous");
}

#[tokio::test]
async fn a_transaction_that_has_read_an_older_state_does_not_win() {
    let fixture = Fixture::with_items().await;
    let mut conn = fixture.raw();
    let tx = conn.transaction_with_behavior(TransactionBehavior::Deferred).unwrap();
    tx.query_row("SELECT count(*) FROM item", [], |row| row.get::<_, i64>(0)).unwrap();
    committed(fixture.attempt(claim_of("key", Guarantee::Atomic), async |_| keep("handler")).await);
    let busy = fixture.store.claim_in(&tx, &claim_of("key", Guarantee::Atomic)).unwrap();
    assert!(matches!(busy, InOwn::Busy), "{busy:?}");
    tx.rollback().unwrap();
    let tx = conn.transaction().unwrap();
    let held = fixture.store.claim_in(&tx, &claim_of("key", Guarantee::Atomic)).unwrap();
    assert!(matches!(held, InOwn::Held(_)), "{held:?}");
}

#[tokio::test]
async fn a_store_knows_its_file_by_any_path() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("a/../keylatch.db")).await;
    let store = match store {
        Ok(store) => store,
        Err(error) => panic!("{error}"),
    };
    store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT)")).await.unwrap();
    let mut conn = Connection::open(directory.path().join("keylatch.db")).unwrap();
    let tx = conn.transaction().unwrap();
    let claim = claim(Guarantee::Atomic);
    assert!(matches!(store.claim_in(&tx, &claim).unwrap(), InOwn::Entered(_)));
    tx.rollback().unwrap();
    assert_eq!(store.read(claim.id()).await.unwrap().value, None);
}
