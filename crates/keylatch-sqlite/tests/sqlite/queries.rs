//! The user's own reads and writes.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc;

use futures_util::FutureExt as _;
use keylatch::Guarantee;
use keylatch::sqlite::{Options, TxError};
use keylatch::store::Inspect as _;

use crate::support::{Fixture, claim};

fn count(db: &rusqlite::Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT count(*) FROM item", [], |row| row.get(0))
}

#[tokio::test]
async fn a_unit_that_fails_leaves_nothing() {
    let fixture = Fixture::with_items().await;
    let failed = fixture
        .store
        .execute(|db| {
            db.execute("INSERT INTO item (name) VALUES ('a')", [])?;
            db.execute("INSERT INTO item (name) VALUES ('a')", [])
        })
        .await;
    assert!(matches!(failed, Err(TxError::Sql(_))), "{failed:?}");
    assert!(fixture.items().await.is_empty());
    let added = fixture.store.execute(|db| db.execute("INSERT INTO item (name) VALUES ('b')", [])).await;
    assert_eq!(added.unwrap(), 1);
    assert_eq!(fixture.items().await, ["b"]);
}

#[tokio::test]
async fn a_panic_reaches_its_caller_and_the_store_goes_on() {
    let fixture = Fixture::with_items().await;
    let execute = fixture.store.execute(|db| -> rusqlite::Result<()> {
        db.execute("INSERT INTO item (name) VALUES ('a')", [])?;
        panic!("in a unit")
    });
    let panic = AssertUnwindSafe(execute).catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"in a unit"));
    for _ in 0..4 {
        let query = fixture.store.query(|_| -> rusqlite::Result<()> { panic!("in a query") });
        let panic = AssertUnwindSafe(query).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"in a query"));
    }
    assert!(fixture.items().await.is_empty());
    fixture.win(&claim(Guarantee::Fenced)).await;
}

#[tokio::test]
async fn a_query_sees_one_state_of_the_file() {
    let fixture = Fixture::with_items().await;
    let (looked, has_looked) = tokio::sync::oneshot::channel();
    let (write, written) = mpsc::channel();
    let query = fixture.store.query(move |db| {
        let first = count(db)?;
        looked.send(()).unwrap();
        written.recv().unwrap();
        Ok((first, count(db)?))
    });
    let writer = async {
        has_looked.await.unwrap();
        fixture.store.execute(|db| db.execute("INSERT INTO item (name) VALUES ('a')", [])).await.unwrap();
        write.send(()).unwrap();
    };
    let (seen, ()) = tokio::join!(query, writer);
    assert_eq!(seen.unwrap(), (0, 0));
    assert_eq!(fixture.store.query(count).await.unwrap(), 1);
}

#[tokio::test]
async fn a_long_query_stops_neither_reads_nor_other_queries() {
    let fixture = Fixture::with(Options::default().with_query_threads(2)).await;
    let (end, ended) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let long = fixture.store.query(move |_| {
        begun.send(()).unwrap();
        ended.recv().unwrap();
        Ok(())
    });
    let others = async {
        has_begun.await.unwrap();
        let claim = claim(Guarantee::Fenced);
        fixture.win(&claim).await;
        assert!(fixture.record(&claim).await.is_some());
        for _ in 0..4 {
            fixture.store.query(|_| Ok(())).await.unwrap();
            assert_eq!(fixture.store.count(claim.scope().clone(), 10).await.unwrap().at_least(), 1);
        }
        end.send(()).unwrap();
    };
    let (long, ()) = tokio::join!(long, others);
    long.unwrap();
}
