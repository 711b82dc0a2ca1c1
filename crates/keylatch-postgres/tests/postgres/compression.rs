//! Answers can be stored compressed or not, and readers read both.

use std::sync::Arc;

use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::sqlx;
use keylatch::postgres::{Options, Store};
use keylatch::store::{ErrorKind, State, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, RecordId, Scope};

use crate::support::{database, fresh, store_with};

const FROM_BYTES: usize = 1_024;

fn claim(key: &str) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(key).unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
}

async fn written(store: &Store, outcome: &Outcome) -> (String, RecordId) {
    let key = fresh("key");
    let Claimed::Won(record) = store.claim(claim(&key)).await.unwrap().value else { panic!("it is free") };
    let _ = store.complete(record.lease(), Completion::new(outcome.clone(), &Policy::default())).await.unwrap();
    (key, record.id())
}

async fn stored_bytes(store: &Store, id: RecordId) -> usize {
    let length = "SELECT octet_length(outcome) FROM keylatch.record WHERE id = $1";
    let length = sqlx::query_scalar::<_, i32>(length).bind(id.as_bytes().as_slice());
    usize::try_from(length.fetch_one(store.pool()).await.unwrap()).unwrap()
}

async fn read(store: &Store, id: RecordId) -> Option<Arc<Outcome>> {
    match store.read(id).await.unwrap().value.unwrap().state {
        State::Completed { outcome, .. } => outcome,
        State::Running { .. } => panic!("it is completed"),
    }
}

#[tokio::test]
async fn either_is_read_by_either() {
    let database = database().await;
    let on = store_with(&database, Options::default().with_compression(Some(FROM_BYTES))).await;
    let off = store_with(&database, Options::default().with_compression(None)).await;
    let body = |length: usize| "{\"id\":1,\"total\":\"3.10\"}".chars().cycle().take(length).collect::<String>();
    for (length, compressed) in [(10, false), (FROM_BYTES - 100, false), (FROM_BYTES, true), (200_000, true)] {
        let outcome = Outcome::bytes(body(length));
        for writer in [&on, &off] {
            let (_, id) = written(writer, &outcome).await;
            for reader in [&on, &off] {
                assert_eq!(read(reader, id).await.as_deref(), Some(&outcome));
            }
            let smaller = stored_bytes(writer, id).await < length / 4;
            assert_eq!(smaller, compressed && std::ptr::eq(writer, &on), "{length}");
        }
    }
}

/// Damaged bytes are neither an answer nor a free key.
#[tokio::test]
async fn damaged_bytes_are_never_an_answer() {
    let store = store_with(&database().await, Options::default()).await;
    let outcome = Outcome::bytes("{\"id\":1}".repeat(1_000));
    for damage in [
        // The end is missing; a byte in the middle or in the length is changed; it is empty; it claims to be a
        // gigabyte.
        "substr(outcome, 1, octet_length(outcome) - 1)",
        "set_byte(outcome, octet_length(outcome) / 2, get_byte(outcome, octet_length(outcome) / 2) # 16)",
        "set_byte(outcome, 1, get_byte(outcome, 1) # 1)",
        "''",
        "set_byte(outcome, 4, 255)",
    ] {
        let (key, id) = written(&store, &outcome).await;
        let update = format!("UPDATE keylatch.record SET outcome = {damage} WHERE id = $1");
        let update = sqlx::query(sqlx::AssertSqlSafe(update)).bind(id.as_bytes().as_slice());
        assert_eq!(update.execute(store.pool()).await.unwrap().rows_affected(), 1);
        assert_eq!(store.read(id).await.unwrap_err().kind(), ErrorKind::Corrupt, "{damage}");
        assert_eq!(store.claim(claim(&key)).await.unwrap_err().kind(), ErrorKind::Corrupt, "{damage}");
    }
}
