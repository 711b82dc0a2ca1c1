//! `Atomic`: a handler's writes, its record and its answer are one unit.

use std::future::pending;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use keylatch::Guarantee;
use keylatch::sqlite::{Loaned, Session, TxError};
use keylatch::store::{ErrorKind, Store as _};
use keylatch::tx::{Misuse, Transacted, Verdict};
use tokio::sync::oneshot;

use crate::support::{Fixture, add, claim, claim_of, committed, keep};

#[tokio::test]
async fn a_held_key_runs_no_closure() {
    let fixture = Fixture::with_items().await;
    let first = claim_of("key", Guarantee::Atomic);
    let record = committed(fixture.attempt(first, async |_| keep("done")).await);
    let (dropped, is_dropped) = oneshot::channel::<()>();
    let result = fixture
        .attempt(claim_of("key", Guarantee::Atomic), async |mut tx| {
            let _dropped = dropped;
            add(&mut tx, "a").await.unwrap();
            keep("again")
        })
        .await;
    assert_eq!(result.unwrap().value, Transacted::Held(Some(record)));
    assert!(is_dropped.await.is_err(), "the handler is dropped");
    assert!(fixture.items().await.is_empty());
}

#[tokio::test]
async fn one_that_fails_takes_only_its_own_writes_back() {
    let fixture = Fixture::with_items().await;
    let attempt = |name: &'static str, keeps: bool| {
        fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            add(&mut tx, name).await.unwrap();
            if keeps { keep("done") } else { Verdict::Free }
        })
    };
    let (a, b, c, d) = tokio::join!(attempt("a", true), attempt("b", false), attempt("c", true), attempt("d", false));
    committed(a);
    assert_eq!(b.unwrap().value, Transacted::RolledBack);
    committed(c);
    assert_eq!(d.unwrap().value, Transacted::RolledBack);
    assert_eq!(fixture.items().await, ["a", "c"]);
}

#[tokio::test]
async fn one_whose_record_cannot_be_written_takes_its_writes_back() {
    let fixture = Fixture::with_items().await;
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON keylatch_record WHEN new.key = 'refused'
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    fixture.raw().execute_batch(refuse).unwrap();
    let attempt = |key: &'static str| {
        fixture.attempt(claim_of(key, Guarantee::Atomic), async move |mut tx| {
            add(&mut tx, key).await.unwrap();
            keep("done")
        })
    };
    // If they share a batch, the batch fails as a whole; from then on each is alone.
    let (refused, _) = tokio::join!(attempt("refused"), attempt("kept"));
    assert!(refused.is_err());
    assert_eq!(attempt("refused").await.unwrap_err().kind(), ErrorKind::Refused);
    assert!(matches!(attempt("kept").await.unwrap().value, Transacted::Committed(_) | Transacted::Held(_)));
    assert_eq!(fixture.items().await, ["kept"]);
}

#[tokio::test]
async fn a_statement_that_fails_is_an_error_in_the_handler() {
    let fixture = Fixture::with_items().await;
    let result = fixture
        .attempt(claim(Guarantee::Atomic), async |mut tx| {
            add(&mut tx, "a").await.unwrap();
            let error = add(&mut tx, "a").await.unwrap_err();
            assert!(matches!(error, TxError::Sql(_)), "{error}");
            keep("done")
        })
        .await;
    committed(result);
    assert_eq!(fixture.items().await, ["a"]);
}

#[tokio::test]
async fn awaiting_before_the_first_use_is_fine() {
    let fixture = Fixture::with_items().await;
    let (go, gone) = oneshot::channel();
    let attempt = fixture.attempt(claim(Guarantee::Atomic), async |mut tx| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        gone.await.unwrap();
        add(&mut tx, "a").await.unwrap();
        keep("done")
    });
    let ((), result) = tokio::join!(async { go.send(()).unwrap() }, attempt);
    committed(result);
    assert_eq!(fixture.items().await, ["a"]);
}

fn assert_awaited_inside(transacted: &Transacted) {
    let Transacted::Misused(misuse @ Misuse::AwaitedInside { after: Some(_) }) = transacted else {
        panic!("{transacted:?}")
    };
    // The error names the place.
    assert!(misuse.to_string().contains("tests/sqlite/"), "{misuse}");
}

#[tokio::test]
async fn awaiting_inside_is_misuse_also_of_what_is_there_at_once() {
    let fixture = Fixture::with_items().await;
    let lock = Arc::new(tokio::sync::Mutex::new(()));
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    for kind in 0..4 {
        let (lock, sender) = (lock.clone(), sender.clone());
        let result = fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            add(&mut tx, "a").await.unwrap();
            match kind {
                0 => drop(lock.lock().await),
                1 => sender.send(()).await.unwrap(),
                2 => tokio::time::sleep(Duration::ZERO).await,
                _ => drop(tokio::time::timeout(Duration::from_secs(60), lock.lock()).await.unwrap()),
            }
            keep("done")
        });
        assert_awaited_inside(&result.await.unwrap().value);
    }
    receiver.close();
    assert!(fixture.items().await.is_empty());
    // What only looks similar is allowed.
    let result = fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
        let _free = lock.lock().await;
        tokio::time::timeout(Duration::from_secs(60), add(&mut tx, "a")).await.unwrap().unwrap();
        tokio::join!(async { add(&mut tx, "b").await.unwrap() }, async {});
        let _ = sender.try_send(());
        keep("done")
    });
    committed(result.await);
    assert_eq!(fixture.items().await, ["a", "b"]);
}

#[tokio::test]
async fn awaiting_inside_is_misuse_and_harms_nobody_else() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let misused = fixture.attempt(claim.clone(), async |mut tx| {
        add(&mut tx, "a").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        add(&mut tx, "b").await.unwrap();
        keep("done")
    });
    let fine = fixture.attempt(crate::support::claim(Guarantee::Atomic), async |mut tx| {
        add(&mut tx, "c").await.unwrap();
        keep("done")
    });
    let (misused, fine) = tokio::join!(misused, fine);
    assert_awaited_inside(&misused.unwrap().value);
    committed(fine);
    assert_eq!(fixture.record(&claim).await, None);
    assert_eq!(fixture.items().await, ["c"]);
}

#[tokio::test]
async fn a_handler_that_yields_to_itself_goes_on() {
    let fixture = Fixture::with_items().await;
    let result = fixture
        .attempt(claim(Guarantee::Atomic), async |mut tx| {
            add(&mut tx, "a").await.unwrap();
            let mut polled = false;
            std::future::poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            keep("done")
        })
        .await;
    committed(result);
}

#[tokio::test]
async fn a_combinator_with_wakers_of_its_own_goes_on() {
    let fixture = Fixture::with_items().await;
    let result = fixture
        .attempt(claim(Guarantee::Atomic), async |mut tx| {
            let mut several: FuturesUnordered<_> = [async {
                add(&mut tx, "a").await.unwrap();
                add(&mut tx, "b").await.unwrap();
            }]
            .into_iter()
            .collect();
            several.next().await.unwrap();
            drop(several);
            let chosen = tokio::select! {
                added = add(&mut tx, "c") => added.is_ok(),
                () = tokio::time::sleep(Duration::from_secs(30)) => false,
            };
            assert!(chosen);
            keep("done")
        })
        .await;
    committed(result);
    assert_eq!(fixture.items().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_handler_can_start_tasks_from_inside() {
    let fixture = Fixture::with_items().await;
    let (told, hears) = oneshot::channel();
    let result = fixture
        .attempt(claim(Guarantee::Atomic), async |mut tx| {
            add(&mut tx, "a").await.unwrap();
            tokio::spawn(async move { told.send("done").unwrap() });
            keep("done")
        })
        .await;
    committed(result);
    assert_eq!(hears.await, Ok("done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_moved_to_a_task_ends_with_its_handler() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let (moved, task) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel::<()>();
    let result = fixture
        .attempt(claim.clone(), async |mut tx: Loaned| {
            let task = tokio::spawn(async move {
                has_ended.await.unwrap();
                add(&mut tx, "late").await
            });
            moved.send(task).unwrap();
            keep("done")
        })
        .await;
    assert_eq!(result.unwrap().value, Transacted::Misused(Misuse::NotReturned));
    ended.send(()).unwrap();
    let late = task.await.unwrap().await.unwrap();
    assert!(matches!(late, Err(TxError::Over)), "{late:?}");
    assert!(fixture.items().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_waits_for_a_task_with_its_transaction_is_stopped() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let (moved, task) = oneshot::channel();
    let result = fixture
        .attempt(claim.clone(), async |mut tx: Loaned| {
            let task = tokio::spawn(async move {
                let mut results = Vec::new();
                for name in ["a", "b"] {
                    results.push(add(&mut tx, name).await);
                }
                results
            });
            moved.send(task).unwrap();
            pending::<()>().await;
            keep("done")
        })
        .await;
    let transacted = result.unwrap().value;
    assert!(matches!(transacted, Transacted::Misused(Misuse::AwaitedInside { .. })), "{transacted:?}");
    let results = task.await.unwrap().await.unwrap();
    assert!(matches!(results.last(), Some(Ok(()) | Err(TxError::Over))), "{results:?}");
    assert_eq!(fixture.record(&claim).await, None);
    assert!(fixture.items().await.is_empty());
    fixture.store.read(claim.id()).await.unwrap();
}

/// What a service may have as its own error.
#[derive(Debug)]
enum Refusal {
    Taken(String),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

/// For handlers that pass every error on with `?`.
impl From<TxError> for Refusal {
    fn from(error: TxError) -> Self {
        Self::Database(error.into())
    }
}

fn count(db: &rusqlite::Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT count(*) FROM item", [], |row| row.get(0))
}

/// Each form as a handler uses it: no error type is named here.
async fn place(tx: &mut Session, name: String) -> Result<i64, Refusal> {
    tx.run(|db| {
        let before = count(db)?;
        db.execute("INSERT INTO item (name) VALUES ('first')", [])?;
        Ok(before)
    })
    .await?;
    tx.run(count).await?;
    let known = tx.savepoint(|db| db.execute("INSERT INTO item (name) VALUES ('first')", [])).await;
    assert!(known.is_err());
    tx.try_run(move |db| {
        if db.query_row("SELECT EXISTS (SELECT 1 FROM item WHERE name = ?1)", [&name], |row| row.get(0))? {
            return Err(Refusal::Taken(name));
        }
        db.execute("INSERT INTO item (name) VALUES (?1)", [&name])?;
        Ok(count(db)?)
    })
    .await
}

#[tokio::test]
async fn a_closure_may_have_errors_of_its_own() {
    let fixture = Fixture::with_items().await;
    let result = fixture.attempt(claim(Guarantee::Atomic), async |mut tx| {
        assert_eq!(place(&mut tx, "second".to_owned()).await.unwrap(), 2);
        tx.run(|db| db.execute("DELETE FROM item WHERE name = 'first'", [])).await.unwrap();
        let taken = place(&mut tx, "second".to_owned()).await.unwrap_err();
        match taken {
            Refusal::Taken(name) => assert_eq!(name, "second"),
            Refusal::Database(error) => panic!("{error}"),
        }
        keep("done")
    });
    committed(result.await);
    assert_eq!(fixture.items().await, ["first", "second"]);
}

#[tokio::test]
async fn a_savepoint_takes_back_its_own_writes_and_no_others() {
    let fixture = Fixture::with_items().await;
    let result = fixture.attempt(claim(Guarantee::Atomic), async |mut tx| {
        add(&mut tx, "before").await.unwrap();
        let failed: Result<(), Refusal> = tx
            .savepoint(|db| {
                db.execute("INSERT INTO item (name) VALUES ('undone')", [])?;
                keylatch::sqlite::savepoint(db, |db| db.execute("INSERT INTO item (name) VALUES ('undone too')", []))?;
                Err(Refusal::Taken(String::new()))
            })
            .await;
        failed.unwrap_err();
        let kept = tx.savepoint(|db| -> rusqlite::Result<()> {
            db.execute("INSERT INTO item (name) VALUES ('kept')", [])?;
            let inner: rusqlite::Result<()> = keylatch::sqlite::savepoint(db, |db| {
                db.execute("INSERT INTO item (name) VALUES ('inner')", [])?;
                Err(rusqlite::Error::QueryReturnedNoRows)
            });
            inner.unwrap_err();
            Ok(())
        });
        kept.await.unwrap();
        // By hand as well, and left open.
        tx.run(|db| db.execute_batch("SAVEPOINT mine; INSERT INTO item (name) VALUES ('x'); ROLLBACK TO mine"))
            .await
            .unwrap();
        keep("done")
    });
    committed(result.await);
    assert_eq!(fixture.items().await, ["before", "kept"]);
}
