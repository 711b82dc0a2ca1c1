//! A look at a key: which transactions have ended, and what they have left.

use std::time::Duration;

use keylatch::postgres::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection, Row as _};
use testing_support::eventually;

use crate::support::{cluster, database, store};

const KEY_LOCK: i64 = 7;
/// A lock of the test that stops the look.
const GATE: i64 = 8;

/// A transaction that holds the key commits its record during a look. If the look does not report the key as busy, it
/// returns that record.
#[tokio::test]
async fn a_look_returns_what_has_ended_before_it_answers() {
    let database = database().await;
    let store = store(&database).await;
    // The look stops where it reads the time: before it reads the record, or in the statement that does.
    let gated = format!(
        "CREATE OR REPLACE FUNCTION keylatch.clock() RETURNS bigint LANGUAGE plpgsql VOLATILE AS
         'BEGIN PERFORM pg_advisory_xact_lock({GATE}); RETURN 1; END'"
    );
    sqlx::raw_sql(AssertSqlSafe(gated)).execute(store.pool()).await.unwrap();
    let mut gate = store.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(GATE).execute(&mut *gate).await.unwrap();
    let mut owner = store.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(KEY_LOCK).execute(&mut *owner).await.unwrap();

    let looking = async {
        let mut other = PgConnection::connect(&cluster().url(&database)).await.unwrap();
        let look = "SELECT flag <> 0 AS busy, id IS NOT NULL AS there \
                    FROM keylatch.look(ARRAY['\\x01'::bytea], ARRAY[$1])";
        let row = sqlx::query(look).bind(KEY_LOCK).fetch_one(&mut other).await.unwrap();
        (row.get::<bool, _>("busy"), row.get::<bool, _>("there"))
    };
    let committing = async {
        let stopped = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database \
                       WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)";
        let stopped = async || sqlx::query_scalar::<_, bool>(stopped).fetch_one(store.pool()).await.unwrap();
        eventually(Duration::from_secs(30), "the look to stop", stopped).await;
        let record = "INSERT INTO keylatch.record (id, owner, epoch, attempt, guarantee, state, created_at, fingerprint, \
                      caller, operation, key) VALUES ('\\x01', '\\x00', 1, 1, 2, 2, 0, '\\x00', '', '', '')";
        sqlx::raw_sql(record).execute(&mut *owner).await.unwrap();
        owner.commit().await.unwrap();
        gate.rollback().await.unwrap();
    };
    let ((busy, there), ()) = tokio::join!(looking, committing);
    assert!(busy || there, "busy: {busy}, there: {there}");
}
