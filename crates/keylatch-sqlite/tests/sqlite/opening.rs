//! Opening a file, and closing it.

use std::time::{Duration, Instant};

use keylatch::Guarantee;
use keylatch::machine::{Completion, End};
use keylatch::sqlite::{OpenError, Store};
use keylatch::store::{Durability, ErrorKind, Store as _, Sweep as _};
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

/// What the next version may do to the file.
const NEXT: &str = "
    ALTER TABLE keylatch_record ADD COLUMN region TEXT;
    CREATE TABLE keylatch_next (id BLOB NOT NULL PRIMARY KEY) STRICT;
    CREATE INDEX keylatch_record_region ON keylatch_record (region) WHERE region IS NOT NULL;
    INSERT INTO keylatch_schema (version, min_reader, applied_at) VALUES (3, 1, 0)";
/// And one after it, which a process of this version would not understand.
const NEXT_BUT_ONE: &str = "
    ALTER TABLE keylatch_record RENAME COLUMN outcome TO answer;
    INSERT INTO keylatch_schema (version, min_reader, applied_at) VALUES (4, 3, 0)";

/// Everything that a store does with records.
async fn assert_works(fixture: &Fixture) {
    let (completed, running) = (claim(Guarantee::Fenced), claim(Guarantee::Fenced));
    let lease = fixture.win(&completed).await.lease();
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let _ = fixture.store.complete(lease, completion).await.unwrap();
    assert!(matches!(fixture.record(&completed).await.unwrap().state, keylatch::store::State::Completed { .. }));
    let lease = fixture.win(&running).await.lease();
    let _ = fixture.store.release(lease, End::Free(Duration::ZERO)).await.unwrap();
    let committed = fixture.attempt(claim(Guarantee::Atomic), async |_| crate::support::keep("done")).await;
    crate::support::committed(committed);
    fixture.store.sweep(10).await.unwrap();
}

#[tokio::test]
async fn a_process_of_the_version_before_goes_on_and_restarts_on_the_next_schema() {
    let fixture = Fixture::new().await;
    assert_works(&fixture).await;
    fixture.raw().execute_batch(NEXT).unwrap();
    assert_works(&fixture).await;
    let restarted = Fixture { store: Store::open(fixture.path()).await.unwrap(), directory: fixture.directory };
    assert_works(&restarted).await;
    drop(fixture.store);
    assert_works(&restarted).await;
    let version = restarted.raw().query_row("SELECT max(version) FROM keylatch_schema", [], |row| row.get::<_, i64>(0));
    assert_eq!(version.unwrap(), 3);
}

#[tokio::test]
async fn a_schema_that_this_version_may_not_use_is_refused() {
    let fixture = Fixture::new().await;
    assert_works(&fixture).await;
    fixture.raw().execute_batch(&format!("{NEXT}; {NEXT_BUT_ONE}")).unwrap();
    let error = Store::open(fixture.path()).await.unwrap_err();
    assert!(matches!(error, OpenError::NewerSchema { found: 4, min_reader: 3, known: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("upgrade this process"), "{error}");
    // A running store is told as well, and writes nothing.
    let error = fixture.store.claim(claim(Guarantee::Fenced)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
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
    // SQLite removes the log when the last connection closes.
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
