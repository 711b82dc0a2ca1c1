//! What a closure may not do.

use keylatch::Guarantee;
use keylatch::sqlite::TxError;
use keylatch::store::ErrorKind;
use rusqlite::ErrorCode;

use crate::support::{Fixture, add, claim, committed, keep};

const FORBIDDEN: [&str; 34] = [
    "BEGIN",
    "COMMIT",
    "END",
    "ROLLBACK",
    "SAVEPOINT mine",
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
    // Made by another process, where nobody guards.
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
    // Not even by the very statement with which the store commits.
    for ends in ["INSERT OR ROLLBACK INTO item (name) VALUES ('a')", include_str!("../../src/sqlite/sql/commit.sql")] {
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
