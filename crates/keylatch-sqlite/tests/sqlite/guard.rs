//! What a closure may not do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keylatch::Guarantee;
use keylatch::sqlite::TxError;
use keylatch::store::ErrorKind;
use keylatch::tx::{Misuse, Transacted};
use rusqlite::ErrorCode;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::limits::Limit;

use crate::support::{Fixture, add, claim, committed, keep};

const FORBIDDEN: [&str; 34] = [
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT keylatch_unit",
    "RELEASE keylatch_unit",
    "ROLLBACK TO keylatch_unit",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA synchronous = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA defer_foreign_keys = ON",
    "PRAGMA query_only = ON",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA busy_timeout = 1",
    "PRAGMA max_page_count = 1",
    "INSERT INTO keylatch_schema (version, applied_at) VALUES (9, 9)",
    "UPDATE keylatch_record SET epoch = 9",
    "DELETE FROM keylatch_record",
    "DELETE FROM KEYLATCH_RECORD WHERE 0",
    "DROP TABLE keylatch_record",
    "DROP INDEX keylatch_record_id",
    "ALTER TABLE keylatch_record RENAME TO mine",
    "ALTER TABLE keylatch_record ADD COLUMN mine",
    "CREATE INDEX mine ON keylatch_record (owner)",
    "CREATE TRIGGER mine AFTER INSERT ON keylatch_record BEGIN SELECT 1; END",
    "CREATE TEMP TRIGGER mine AFTER INSERT ON main.keylatch_record BEGIN SELECT 1; END",
    "CREATE TABLE keylatch_mine (a)",
    "CREATE TEMP TABLE keylatch_record (a)",
    "CREATE VIEW Keylatch_view AS SELECT 1",
    "CREATE TEMP VIEW keylatch_record AS SELECT 1",
];

const ALLOWED: [&str; 12] = [
    "CREATE TABLE mine (a INTEGER PRIMARY KEY, b REFERENCES item (name))",
    "CREATE INDEX mine_b ON mine (b)",
    "CREATE TRIGGER mine_t AFTER INSERT ON mine BEGIN SELECT 1; END",
    "CREATE VIEW mine_v AS SELECT * FROM mine",
    "INSERT INTO mine (a) VALUES (1)",
    "UPDATE mine SET a = 2",
    "ALTER TABLE mine ADD COLUMN c",
    "PRAGMA user_version = 7",
    "PRAGMA table_info(mine)",
    "SELECT count(*) FROM keylatch_record",
    "DELETE FROM mine",
    "DROP TABLE mine",
];

fn assert_denied(result: Result<(), TxError>, sql: &str) {
    let Err(TxError::Sql(error)) = result else { panic!("{sql}: {result:?}") };
    let code = match &error {
        rusqlite::Error::SqlInputError { error, .. } => Some(error.code),
        other => other.sqlite_error_code(),
    };
    assert_eq!(code, Some(ErrorCode::AuthorizationForStatementDenied), "{sql}: {error}");
    // The error names the rule.
    assert!(error.to_string().contains("refused: "), "{sql}: {error}");
}

#[tokio::test]
async fn a_handler_cannot_end_its_transaction_or_write_records() {
    let fixture = Fixture::with_items().await;
    let claim = claim(Guarantee::Atomic);
    let result = fixture
        .attempt(claim.clone(), async |mut tx| {
            add(&mut tx, "a").await.unwrap();
            for sql in FORBIDDEN {
                assert_denied(tx.run(|db| db.execute_batch(sql)).await, sql);
                assert_denied(tx.run(|db| db.prepare_cached(sql).map(drop)).await, sql);
            }
            keep("done")
        })
        .await;
    assert_eq!(fixture.record(&claim).await, Some(committed(result)));
    assert_eq!(fixture.items().await, ["a"]);
}

#[tokio::test]
async fn a_unit_of_the_users_cannot_either() {
    let fixture = Fixture::with_items().await;
    for sql in FORBIDDEN {
        assert_denied(fixture.store.execute(move |db| db.execute_batch(sql)).await, sql);
    }
    for sql in ALLOWED {
        let done = fixture.store.execute(move |db| db.execute_batch(sql)).await;
        assert!(done.is_ok(), "{sql}: {done:?}");
    }
}

#[tokio::test]
async fn a_trigger_of_the_users_cannot_write_records() {
    let fixture = Fixture::with_items().await;
    // Made by another process, where nothing guards it.
    fixture
        .raw()
        .execute_batch("CREATE TRIGGER reach AFTER INSERT ON item BEGIN DELETE FROM keylatch_record; END")
        .unwrap();
    let added = fixture.store.execute(|db| db.execute_batch("INSERT INTO item (name) VALUES ('a')")).await;
    assert_denied(added, "a trigger");
    fixture.win(&claim(Guarantee::Fenced)).await;
}

#[tokio::test]
async fn a_query_cannot_write() {
    let fixture = Fixture::with_items().await;
    for sql in FORBIDDEN {
        assert_denied(fixture.store.query(move |db| db.execute_batch(sql)).await, sql);
    }
    for sql in ["INSERT INTO item (name) VALUES ('a')", "CREATE TABLE mine (a)", "PRAGMA user_version = 7"] {
        let Err(TxError::Sql(error)) = fixture.store.query(move |db| db.execute_batch(sql)).await else {
            panic!("{sql}")
        };
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly), "{sql}: {error}");
    }
    assert!(fixture.items().await.is_empty());
}

#[tokio::test]
async fn nothing_is_committed_after_the_transaction_has_ended() {
    let fixture = Fixture::with_items().await;
    fixture.store.execute(|db| db.execute_batch("INSERT INTO item (name) VALUES ('a')")).await.unwrap();
    // Not even with the very statement that the store uses for its commit.
    for ends in ["INSERT OR ROLLBACK INTO item (name) VALUES ('a')", include_str!("../../src/sql/commit.sql")] {
        let claim = claim(Guarantee::Atomic);
        let result = fixture
            .attempt(claim.clone(), async move |mut tx| {
                add(&mut tx, "before").await.unwrap();
                let late = tx.run(move |db| {
                    db.prepare_cached(ends)?.execute([]).unwrap_err();
                    assert!(db.is_autocommit());
                    db.execute("INSERT INTO item (name) VALUES ('late')", [])
                });
                late.await.unwrap_err();
                let over = add(&mut tx, "later").await;
                assert!(matches!(over, Err(TxError::Over)), "{over:?}");
                keep("done")
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
        let unit = fixture.store.execute(move |db| {
            db.prepare_cached(ends)?.execute([]).unwrap_err();
            db.execute("INSERT INTO item (name) VALUES ('late')", []).or(Ok(0))
        });
        unit.await.unwrap_err();
        assert_eq!(fixture.record(&claim).await, None);
        assert_eq!(fixture.items().await, ["a"]);
    }
    fixture.win(&claim(Guarantee::Fenced)).await;
}

/// Changes to a connection that are not made by a statement.
const CHANGES: [fn(&rusqlite::Connection) -> rusqlite::Result<()>; 7] = [
    |db| db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).map(drop),
    |db| db.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, true).map(drop),
    |db| db.set_db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, true).map(drop),
    |db| db.set_limit(Limit::SQLITE_LIMIT_LENGTH, 100).map(drop),
    |db| db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>),
    |db| db.commit_hook(Some(|| true)),
    |db| db.progress_handler(1, Some(|| true)),
];

#[tokio::test]
async fn what_a_closure_changes_about_its_connection_goes_with_it() {
    let fixture = Fixture::with_items().await;
    for (at, change) in CHANGES.into_iter().enumerate() {
        let claim = claim(Guarantee::Atomic);
        let result = fixture
            .attempt(claim.clone(), async move |mut tx| {
                add(&mut tx, "a").await.unwrap();
                let _ = tx.run(change).await;
                keep("done")
            })
            .await;
        assert_eq!(result.unwrap().value, Transacted::Misused(Misuse::Reconfigured), "change {at}");
        assert_eq!(fixture.record(&claim).await, None, "change {at}");
        for result in [fixture.store.execute(change).await, fixture.store.query(change).await] {
            assert!(matches!(result, Err(TxError::Reconfigured)), "change {at}: {result:?}");
        }
        assert_denied(fixture.store.execute(|db| db.execute_batch("COMMIT")).await, "COMMIT");
        assert_denied(fixture.store.query(|db| db.execute_batch("COMMIT")).await, "COMMIT");
        let large = "x".repeat(1_000);
        let result = fixture.attempt(crate::support::claim(Guarantee::Atomic), async move |mut tx| {
            tx.run(|db| {
                assert!(db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY)?);
                assert!(!db.db_config(DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA)?);
                db.execute("INSERT INTO item (name) VALUES (?1)", [&large])?;
                db.execute("DELETE FROM item", [])
            })
            .await
            .unwrap();
            keep("done")
        });
        committed(result.await);
        assert!(fixture.items().await.is_empty(), "change {at}");
    }
}

#[tokio::test]
async fn what_a_closure_watches_ends_with_it() {
    let fixture = Fixture::with(keylatch::sqlite::Options::default().with_checkpoint_pages(100)).await;
    fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = |seen: &AtomicUsize| {
        seen.fetch_add(1, Ordering::SeqCst);
    };
    let (updates, rollbacks) = (seen.clone(), seen.clone());
    let watch = fixture.store.execute(move |db| {
        db.update_hook(Some(move |_, _: &str, _: &str, _| count(&updates)))?;
        db.rollback_hook(Some(move || count(&rollbacks)))?;
        db.wal_hook(None);
        db.busy_timeout(std::time::Duration::ZERO)?;
        db.set_prepared_statement_cache_capacity(0);
        db.execute("INSERT INTO item (name) VALUES ('a')", [])
    });
    watch.await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    fixture.store.execute(|db| db.execute("INSERT INTO item (name) VALUES ('b')", [])).await.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // The store waits for the lock of another process.
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut added = Box::pin(fixture.store.execute(|db| db.execute("INSERT INTO item (name) VALUES ('c')", [])));
    assert!(futures_util::poll!(&mut added).is_pending());
    raw.execute_batch("ROLLBACK").unwrap();
    added.await.unwrap();
    // And the log is written back.
    let salt = fixture.log().salt();
    let mut written = 0;
    while fixture.log().salt() == salt {
        let add = fixture.store.execute(move |db| db.execute("INSERT INTO item (name) VALUES (?1)", [written]));
        add.await.unwrap();
        written += 1;
        assert!(written < 10_000, "the log does not start anew");
    }
}
