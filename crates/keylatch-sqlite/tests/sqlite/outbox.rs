//! The outbox: transactions outside requests.

use futures_util::FutureExt as _;
use keylatch::machine::Completion;
use keylatch::outbox::{Event, Events, Outbox as _, Skip};
use keylatch::sqlite::rusqlite::TransactionBehavior;
use keylatch::sqlite::{InOwn, Options, Store};
use keylatch::store::ErrorKind;
use keylatch::{Guarantee, Outcome, Policy};

use crate::support::{Fixture, claim};

fn event(value: &str) -> Event {
    Event::new("orders").with_key("k").with_value(value.to_owned())
}

fn events(of: &[&str]) -> Events {
    let mut events = Events::default();
    for value in of {
        events.publish(event(value)).unwrap();
    }
    events
}

async fn waiting(store: &Store) -> Vec<String> {
    let pending = store.pending(1_000, usize::MAX, Skip::default()).await.unwrap();
    pending.iter().map(|pending| String::from_utf8(pending.event.event.value().unwrap().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_closures_events_are_one_with_its_writes() {
    let fixture = Fixture::with_items().await;
    let written = fixture.store.execute_and_publish(|db, events| {
        events.publish(event("1")).unwrap();
        db.execute("INSERT INTO item (name) VALUES ('a')", [])
    });
    assert_eq!(written.await.unwrap(), 1);
    fixture.store.woken().await;
    let failed = fixture.store.execute_and_publish(|db, events| {
        events.publish(event("2")).unwrap();
        db.execute("INSERT INTO item (name) VALUES ('b'), ('a')", [])
    });
    failed.await.unwrap_err();
    assert!(fixture.store.woken().now_or_never().is_none());
    assert_eq!((waiting(&fixture.store).await, fixture.items().await), (vec!["1".to_owned()], vec!["a".to_owned()]));
}

/// A closure that leaves a deferred constraint violated publishes nothing.
#[tokio::test]
async fn a_closure_that_is_undone_at_its_end_publishes_nothing() {
    let fixture = Fixture::new().await;
    let create = "CREATE TABLE parent (a INTEGER PRIMARY KEY);
        CREATE TABLE child (a INTEGER REFERENCES parent (a) DEFERRABLE INITIALLY DEFERRED)";
    fixture.store.execute(move |db| db.execute_batch(create)).await.unwrap();
    let owes = fixture.store.execute_and_publish(|db, events| {
        events.publish(event("1")).unwrap();
        db.execute("INSERT INTO child (a) VALUES (9)", [])
    });
    owes.await.unwrap_err();
    assert!(waiting(&fixture.store).await.is_empty());
}

#[tokio::test]
async fn events_of_an_own_transaction_are_one_with_its_record() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let mut conn = fixture.raw();
    for commits in [false, true] {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let InOwn::Entered(mut entered) = fixture.store.claim_in(&tx, &claim).unwrap() else { panic!("it is free") };
        entered.publish(event("with the record")).unwrap();
        fixture.store.publish_in(&tx, events(&["before it"])).unwrap();
        let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
        assert!(fixture.store.complete_in(&tx, entered, completion).unwrap().is_some());
        if commits {
            tx.commit().unwrap();
        } else {
            tx.rollback().unwrap();
        }
        let expected: &[&str] = if commits { &["before it", "with the record"] } else { &[] };
        assert_eq!(waiting(&fixture.store).await, expected);
    }
}

#[tokio::test]
async fn events_belong_in_a_transaction_on_the_file() {
    let fixture = Fixture::new().await;
    let conn = fixture.raw();
    let error = fixture.store.publish_in(&conn, events(&["1"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    let mut elsewhere = rusqlite::Connection::open(fixture.directory.path().join("other.db")).unwrap();
    let tx = elsewhere.transaction().unwrap();
    assert_eq!(fixture.store.publish_in(&tx, events(&["1"])).unwrap_err().kind(), ErrorKind::Refused);
}

/// Takes everything away that came after the first version of the schema.
fn back_to_version_1(file: &rusqlite::Connection) {
    let later = "SELECT 'DROP TABLE ' || name FROM sqlite_schema
        WHERE type = 'table' AND name LIKE 'keylatch_%' AND name NOT IN ('keylatch_record', 'keylatch_schema')";
    let later: Vec<String> =
        file.prepare(later).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    file.execute_batch(&format!("{}; DELETE FROM keylatch_schema WHERE version > 1", later.join(";"))).unwrap();
}

/// A process of the first version goes on while another brings the file up to date, and afterwards.
#[tokio::test]
async fn the_outbox_comes_into_a_file_that_is_in_use() {
    let fixture = Fixture::with_items().await;
    back_to_version_1(&fixture.raw());
    let commits = async |name: &'static str| {
        let done = fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            crate::support::add(&mut tx, name).await.unwrap();
            crate::support::keep("done")
        });
        crate::support::committed(done.await);
    };
    commits("before").await;
    let new = Store::open_with(fixture.path(), Options::default()).await.unwrap();
    commits("after").await;
    new.execute_and_publish(|_, events| {
        events.publish(event("1")).unwrap();
        Ok(())
    })
    .await
    .unwrap();
    commits("and after").await;
    assert_eq!((waiting(&new).await, fixture.items().await.len()), (vec!["1".to_owned()], 3));
}
