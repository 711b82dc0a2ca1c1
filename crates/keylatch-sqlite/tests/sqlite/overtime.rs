//! A closure that holds the writer for too long is stopped, and no other.

use std::sync::mpsc;
use std::time::Duration;

use keylatch::Guarantee;
use keylatch::sqlite::{Options, TxError};
use keylatch::tx::{Misuse, Transacted};
use rusqlite::ErrorCode;

use crate::support::{Fixture, add, claim, committed, keep};

/// Short, so that the test is short: a closure that exceeds it never ends by itself.
const TIME_MAX: Duration = Duration::from_millis(200);

const ENDLESS_READ: &str =
    "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n WHERE n < 0";
const ENDLESS_WRITE: &str = "INSERT INTO item (name)
     WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT 'never' FROM n WHERE n < 0";

async fn fixture() -> Fixture {
    let fixture = Fixture::with(Options::default().with_closure_time_max(TIME_MAX)).await;
    fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();
    fixture
}

/// Everything works as before.
async fn assert_goes_on(fixture: &Fixture) {
    for name in ["after", "and after"] {
        let result = fixture.attempt(claim(Guarantee::Atomic), async |mut tx| {
            add(&mut tx, name).await.unwrap();
            keep("done")
        });
        committed(result.await);
    }
    assert_eq!(fixture.items().await, ["after", "and after"]);
}

#[tokio::test]
async fn a_statement_without_an_end_is_interrupted() {
    for endless in [ENDLESS_READ, ENDLESS_WRITE] {
        let fixture = fixture().await;
        let claim = claim(Guarantee::Atomic);
        let result = fixture
            .attempt(claim.clone(), async move |mut tx| {
                add(&mut tx, "before").await.unwrap();
                let error = tx.run(|db| db.query_row(endless, [], |row| row.get::<_, i64>(0))).await.unwrap_err();
                assert!(matches!(error, TxError::TooLong), "{error}");
                let error = add(&mut tx, "later").await.unwrap_err();
                assert!(matches!(error, TxError::TooLong), "{error}");
                keep("done")
            })
            .await;
        assert_eq!(result.unwrap().value, Transacted::Misused(Misuse::TooLong));
        assert_eq!(fixture.record(&claim).await, None);
        assert_goes_on(&fixture).await;
    }
}

#[tokio::test]
async fn a_unit_without_an_end_is_interrupted() {
    for endless in [ENDLESS_READ, ENDLESS_WRITE] {
        let fixture = fixture().await;
        let error = fixture
            .store
            .execute(move |db| {
                db.execute("INSERT INTO item (name) VALUES ('before')", [])?;
                let error = db.query_row(endless, [], |row| row.get::<_, i64>(0)).unwrap_err();
                assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted));
                Ok(())
            })
            .await
            .unwrap_err();
        assert!(matches!(error, TxError::TooLong), "{error}");
        assert!(error.to_string().contains("with_closure_time_max"), "{error}");
        assert_goes_on(&fixture).await;
    }
}

#[tokio::test]
async fn a_closure_that_blocks_is_told_when_it_goes_on() {
    let fixture = fixture().await;
    let claim = claim(Guarantee::Atomic);
    let (_kept, never) = mpsc::channel::<()>();
    let result = fixture
        .attempt(claim.clone(), async move |mut tx| {
            add(&mut tx, "before").await.unwrap();
            // Twice the limit, as a call over the network might take.
            let blocked = tx.run(move |_| Ok(never.recv_timeout(TIME_MAX * 2).is_err())).await;
            assert!(matches!(blocked, Err(TxError::TooLong)), "{blocked:?}");
            let later = add(&mut tx, "later").await;
            assert!(matches!(later, Err(TxError::TooLong)), "{later:?}");
            keep("done")
        })
        .await;
    assert_eq!(result.unwrap().value, Transacted::Misused(Misuse::TooLong));
    assert_eq!(fixture.record(&claim).await, None);
    assert_goes_on(&fixture).await;
}

#[tokio::test]
async fn many_slow_closures_do_not_add_up_in_one_batch() {
    let fixture = fixture().await;
    let slow = |name: &'static str| {
        fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            let (_kept, never) = mpsc::channel::<()>();
            add(&mut tx, name).await.unwrap();
            tx.run(move |_| Ok(never.recv_timeout(TIME_MAX / 2).is_err())).await.unwrap();
            keep("done")
        })
    };
    let before = fixture.log().commits();
    let names = ["a", "b", "c", "d", "e", "f"];
    for result in futures_util::future::join_all(names.map(slow)).await {
        committed(result);
    }
    let commits = fixture.log().commits() - before;
    assert!(commits >= 2, "{commits} commits");
    assert_eq!(fixture.items().await, names);
}
