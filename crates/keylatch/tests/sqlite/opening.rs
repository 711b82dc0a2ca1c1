//! Opening a file, and leaving it.

use std::time::{Duration, Instant};

use keylatch::Guarantee;
use keylatch::machine::Completion;
use keylatch::sqlite::{OpenError, Store};
use keylatch::store::{Durability, Store as _};
use keylatch::{Outcome, Policy};

use crate::support::{Fixture, claim};

#[tokio::test]
async fn directories_are_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/keylatch.db");
    let store = Store::open(&path).await.unwrap();
    assert!(path.exists());
    assert_eq!(store.durability(), Durability::Disk);
    assert_eq!(format!("{store:?}"), format!("sqlite::Store({})", path.display()));
}

#[tokio::test]
async fn what_cannot_be_opened_says_what_to_do() {
    for path in ["", ":memory:"] {
        assert!(matches!(Store::open(path).await, Err(OpenError::NoFile)), "{path:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("notes.txt");
    std::fs::write(&file, "these are notes, and they are longer than the header of a database. ".repeat(20)).unwrap();
    let error = Store::open(&file).await.unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
    assert!(error.to_string().contains("check that it is one"), "{error}");
    let error = Store::open(file.join("keylatch.db")).await.unwrap_err();
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
    let error = Store::open(directory.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error:?}");
}

#[tokio::test]
async fn a_later_schema_is_refused() {
    let fixture = Fixture::new().await;
    fixture.raw().execute_batch("INSERT INTO keylatch_schema (version, applied_at) VALUES (99, 0)").unwrap();
    let error = Store::open(fixture.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::NewerSchema { found: 99, known: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("upgrade this process"), "{error}");
}

#[tokio::test]
async fn the_file_is_shared_with_tables_of_the_users() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("CREATE TABLE mine (a); INSERT INTO mine VALUES (1); PRAGMA user_version = 42").unwrap();
    let store = Store::open(&path).await.unwrap();
    let seen = store
        .query(|db| {
            let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((version, db.query_row("SELECT a FROM mine", [], |row| row.get::<_, i64>(0))?))
        })
        .await;
    assert_eq!(seen.unwrap(), (42, 1));
}

#[tokio::test]
async fn records_are_found_again() {
    let fixture = Fixture::new().await;
    let (running, completed) = (claim(Guarantee::Fenced), claim(Guarantee::Fenced));
    let running_record = fixture.win(&running).await;
    let lease = fixture.win(&completed).await.lease();
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let _ = fixture.store.complete(lease, completion).await.unwrap();
    let completed_record = fixture.record(&completed).await;
    let Fixture { store, directory } = fixture;
    drop(store);
    let store = Store::open(directory.path().join("keylatch.db")).await.unwrap();
    let fixture = Fixture { store, directory };
    assert_eq!(fixture.record(&running).await, Some(running_record));
    assert!(completed_record.is_some());
    assert_eq!(fixture.record(&completed).await, completed_record);
}

#[tokio::test]
async fn the_last_clone_takes_the_threads_with_it() {
    let fixture = Fixture::new().await;
    fixture.win(&claim(Guarantee::Fenced)).await;
    let Fixture { store, directory } = fixture;
    let clone = store.clone();
    drop(store);
    clone.claim(claim(Guarantee::Fenced)).await.unwrap();
    drop(clone);
    // SQLite removes the log with the last connection.
    let log = directory.path().join("keylatch.db-wal");
    let started = Instant::now();
    while log.exists() {
        assert!(started.elapsed() < Duration::from_secs(30), "a connection is still open");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn many_may_open_a_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keylatch.db");
    let opened = futures_util::future::join_all((0..8).map(|_| Store::open(&path))).await;
    for store in opened {
        store.unwrap().claim(claim(Guarantee::Fenced)).await.unwrap();
    }
}
