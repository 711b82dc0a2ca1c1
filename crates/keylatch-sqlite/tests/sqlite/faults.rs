//! A full disk, a lock that is held: callers get errors, nothing is corrupted, and the store recovers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::Completion;
use keylatch::sqlite::{Options, TxError};
use keylatch::store::{ErrorKind, Store as _, Sweep as _};
use keylatch::tx::Verdict;
use keylatch::{Clock, Guarantee, Outcome, Policy, Timestamp};

use crate::support::{Fixture, add, claim, committed, keep, won};

const ITEM_BYTES: usize = 100_000;

#[tokio::test]
async fn a_full_file_is_unavailable_until_there_is_space() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let fixture = Fixture::with(Options::default().with_clock(clock.clone()).with_file_pages_max(500)).await;
    let policy = Policy::default();
    let mut kept = Vec::new();
    let error = loop {
        assert!(kept.len() < 100, "it is never full");
        let claim = claim(Guarantee::Fenced);
        let lease = match fixture.store.claim(claim.clone()).await {
            Ok(claimed) => won(Ok(claimed)).lease(),
            Err(error) => break error,
        };
        let outcome = Outcome::bytes(vec![b'x'; ITEM_BYTES]);
        match fixture.store.complete(lease, Completion::new(outcome, &policy)).await {
            Ok(_) => kept.push(claim),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    for claim in &kept {
        assert!(fixture.record(claim).await.is_some());
    }

    clock.advance(policy.retention);
    assert_eq!(fixture.store.sweep(100).await.unwrap().tombstoned, kept.len());
    fixture.win(&claim(Guarantee::Fenced)).await;
}

#[tokio::test]
async fn a_handler_that_fills_the_file_fails_and_leaves_nothing() {
    let fixture = Fixture::with(Options::default().with_file_pages_max(200)).await;
    fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();
    let attempt = || claim(Guarantee::Atomic);
    for keeps in [true, false] {
        let claim = attempt();
        let result = fixture
            .attempt(claim.clone(), async move |mut tx| {
                add(&mut tx, "small").await.unwrap();
                let error = add(&mut tx, &"x".repeat(1_000_000)).await.unwrap_err();
                let TxError::Sql(error) = error else { panic!("{error}") };
                assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
                if keeps { Verdict::KeepOutcomeOnly(Outcome::bytes("no")) } else { Verdict::Free }
            })
            .await;
        if let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert_eq!(fixture.record(&claim).await, None);
        }
        assert!(fixture.items().await.is_empty());
    }
    committed(
        fixture
            .attempt(attempt(), async |mut tx| {
                add(&mut tx, "a").await.unwrap();
                keep("done")
            })
            .await,
    );
    assert_eq!(fixture.items().await, ["a"]);
}

#[tokio::test]
async fn a_lock_held_for_too_long_is_unavailable_until_it_is_gone() {
    let fixture = Fixture::with(Options::default().with_busy_timeout(Duration::from_millis(20))).await;
    fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = fixture.store.claim(claim(Guarantee::Fenced)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("write lock"), "{error}");
    let attempt = claim(Guarantee::Atomic);
    let error = fixture
        .attempt(attempt.clone(), async |mut tx| match add(&mut tx, "a").await {
            Ok(()) => keep("done"),
            Err(_) => Verdict::Free,
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = fixture.store.execute(|db| db.execute_batch("DELETE FROM item")).await.unwrap_err();
    assert!(matches!(error, TxError::Sql(_)), "{error}");
    // Reads still work.
    assert_eq!(fixture.record(&attempt).await, None);
    raw.execute_batch("ROLLBACK").unwrap();
    fixture.win(&claim(Guarantee::Fenced)).await;
}

/// Attempts whose handlers count in `begun`. All wait while the writer is held, so they share the next batch. Each begins
/// after the handler of the previous one, so they are there in their order.
async fn in_one_batch<T, F: Future<Output = T>>(
    fixture: &Fixture,
    begun: &AtomicUsize,
    attempts: impl IntoIterator<Item = F>,
) -> Vec<T> {
    let (held, holds) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holding = fixture.store.execute(move |_| {
        let _ = held.send(());
        released.recv().expect("the test lets the writer go");
        Ok(())
    });
    let after_previous = async |nth, attempt: F| {
        while begun.load(Ordering::SeqCst) < nth {
            tokio::task::yield_now().await;
        }
        attempt.await
    };
    let attempts: Vec<_> =
        attempts.into_iter().enumerate().map(|(nth, attempt)| after_previous(nth, attempt)).collect();
    let count = attempts.len();
    let attempts = async {
        holds.await.unwrap();
        tokio::join!(join_all(attempts), async {
            // A handler that has begun has its place in the queue before anything else is polled here.
            while begun.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
            release.send(()).unwrap();
        })
    };
    let (held, (done, ())) = tokio::join!(holding, attempts);
    held.unwrap();
    done
}

/// This many jobs at once share commits: none has a commit of its own.
async fn assert_commits_are_shared(fixture: &Fixture) {
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let before = fixture.log().commits();
    let mut claims: Vec<_> = (0..64).map(|_| fixture.store.claim(claim(Guarantee::Fenced))).collect();
    for claim in &mut claims {
        assert!(futures_util::poll!(claim).is_pending());
    }
    raw.execute_batch("ROLLBACK").unwrap();
    for claimed in join_all(claims).await {
        won(claimed);
    }
    let commits = fixture.log().commits() - before;
    assert!((1..=2).contains(&commits), "{commits} commits");
}

#[tokio::test]
async fn a_deferred_constraint_that_does_not_hold_fails_its_own_handler_and_no_other() {
    let fixture = Fixture::new().await;
    fixture
        .store
        .execute(|db| {
            db.execute_batch(
                "CREATE TABLE parent (a INTEGER PRIMARY KEY);
                 CREATE TABLE child (a REFERENCES parent (a) DEFERRABLE INITIALLY DEFERRED)",
            )
        })
        .await
        .unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let child = |parent: Option<i64>, settled: bool| {
        let begun = begun.clone();
        fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            begun.fetch_add(1, Ordering::SeqCst);
            tx.run(move |db| db.execute("INSERT INTO child (a) VALUES (?1)", [parent])).await.unwrap();
            if settled {
                tx.run(move |db| db.execute("INSERT INTO parent (a) VALUES (?1)", [parent])).await.unwrap();
            }
            keep("done")
        })
    };
    let attempts = [child(None, false), child(Some(1), false), child(Some(2), true), child(Some(3), false)];
    let mut done = in_one_batch(&fixture, &begun, attempts).await.into_iter();
    committed(done.next().unwrap());
    let broken = done.next().unwrap().unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Refused, "{broken}");
    assert!(broken.to_string().contains("deferred constraint"), "{broken}");
    committed(done.next().unwrap());
    assert_eq!(done.next().unwrap().unwrap_err().kind(), ErrorKind::Refused);
    let children = fixture.store.query(|db| db.query_row("SELECT count(*) FROM child", [], |row| row.get::<_, i64>(0)));
    assert_eq!(children.await.unwrap(), 2);
    assert_commits_are_shared(&fixture).await;
    let unit = fixture.store.execute(|db| db.execute("INSERT INTO child (a) VALUES (9)", [])).await;
    assert!(unit.unwrap_err().to_string().contains("FOREIGN KEY"));
}

#[tokio::test]
async fn a_deferred_constraint_is_found_on_a_table_of_the_same_moment() {
    let fixture = Fixture::new().await;
    let made = fixture.store.execute(|db| {
        db.execute_batch("CREATE TABLE late (a REFERENCES late (b) DEFERRABLE INITIALLY DEFERRED, b UNIQUE)")?;
        db.execute("INSERT INTO late (a) VALUES (1)", [])
    });
    assert!(made.await.unwrap_err().to_string().contains("FOREIGN KEY"));
    // Another process may add one as well.
    fixture
        .raw()
        .execute_batch("CREATE TABLE late (a REFERENCES late (b) DEFERRABLE INITIALLY DEFERRED, b UNIQUE)")
        .unwrap();
    let owing = fixture.store.execute(|db| db.execute("INSERT INTO late (a) VALUES (1)", [])).await;
    assert!(owing.unwrap_err().to_string().contains("FOREIGN KEY"));
    fixture.store.execute(|db| db.execute("INSERT INTO late (a, b) VALUES (1, 1)", [])).await.unwrap();
}

#[tokio::test]
async fn a_statement_that_ends_the_transaction_does_not_touch_those_who_come_after() {
    let fixture = Fixture::with_items().await;
    fixture.store.execute(|db| db.execute_batch("INSERT INTO item (name) VALUES ('a')")).await.unwrap();
    let begun = Arc::new(AtomicUsize::new(0));
    let insert = |name: &'static str| {
        let begun = begun.clone();
        fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            begun.fetch_add(1, Ordering::SeqCst);
            let added = tx.run(move |db| db.execute("INSERT OR ROLLBACK INTO item (name) VALUES (?1)", [name])).await;
            if added.is_ok() { keep("done") } else { Verdict::KeepOutcomeOnly(Outcome::bytes("no")) }
        })
    };
    let done = in_one_batch(&fixture, &begun, ["b", "a", "c", "d"].map(insert)).await;
    let mut done = done.into_iter();
    for _ in 0..2 {
        let error = done.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("OR ROLLBACK"), "{error}");
    }
    done.for_each(|after| drop(committed(after)));
    assert_eq!(fixture.items().await, ["a", "c", "d"]);
    assert_commits_are_shared(&fixture).await;
}
