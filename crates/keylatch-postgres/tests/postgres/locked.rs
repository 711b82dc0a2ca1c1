//! I8: a row that another transaction has locked delays only the callers of that row.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::{join, join_all};
use keylatch::machine::{Claim, Claimed, Completion, End, Terms};
use keylatch::postgres::sqlx::{self, AssertSqlSafe, Postgres, Transaction};
use keylatch::postgres::{Options, Store};
use keylatch::store::{Applied, ErrorKind, Owner, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Lease, Outcome, Policy, Record, Scope};

use crate::support::{database, fresh, store_with};

/// Locked rows, and calls for other rows in the same batch.
const LOCKED: usize = 5;
const OTHERS: usize = 57;

fn claim(lease: Duration) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(&fresh("key")).unwrap());
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    let mut claim = Claim::new(scope, key, fingerprint, Guarantee::Fenced, &Policy::default());
    claim.terms = Terms { lease, takeover: Some(lease), free: Some(Duration::from_secs(600)) };
    claim
}

async fn won(store: &Store, claim: Claim) -> Record {
    match store.claim(claim).await.unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("it is free: {record:?}"),
    }
}

async fn records(store: &Store, lease: Duration) -> Vec<(Claim, Record)> {
    join_all((0..LOCKED).map(|_| async {
        let claim = claim(lease);
        (claim.clone(), won(store, claim).await)
    }))
    .await
}

/// Another client's transaction that has locked these rows.
async fn lock(other: &Store, records: &[(Claim, Record)]) -> Transaction<'static, Postgres> {
    let mut holder = other.pool().begin().await.unwrap();
    for (_, record) in records {
        let sql = "SELECT FROM keylatch.record WHERE id = $1 FOR UPDATE";
        let held =
            sqlx::query(AssertSqlSafe(sql)).bind(record.id().as_bytes().as_slice()).fetch_all(&mut *holder).await;
        assert_eq!(held.unwrap().len(), 1);
    }
    holder
}

/// Starts `locked` and `others` together. `others` end while all of `locked` wait, and `locked` end after the lock is
/// gone.
async fn apart<T, U>(
    locked: impl IntoIterator<Item = impl Future<Output = T>>,
    others: impl IntoIterator<Item = impl Future<Output = U>>,
    holder: Transaction<'static, Postgres>,
) -> (Vec<T>, Vec<U>) {
    let ended = Cell::new(0);
    let locked = join_all(locked.into_iter().map(|call| async {
        let done = call.await;
        ended.set(ended.get() + 1);
        done
    }));
    let others = async {
        let done = join_all(others).await;
        assert_eq!(ended.get(), 0, "the others came after one that is locked");
        holder.rollback().await.unwrap();
        done
    };
    join(locked, others).await
}

async fn stores() -> (Store, Store) {
    let database = database().await;
    let few = Options::default().with_connections_max(2);
    (store_with(&database, few).await, store_with(&database, Options::default()).await)
}

#[tokio::test]
async fn i8_a_locked_row_holds_up_no_other_claim() {
    let (store, other) = stores().await;
    let held = records(&store, Duration::ZERO).await;
    let holder = lock(&other, &held).await;
    let takeovers = held.iter().map(|(claim, _)| store.claim(Claim { owner: Owner::random(), ..claim.clone() }));
    let new = (0..OTHERS).map(|_| store.claim(claim(Duration::from_secs(60))));
    let (takeovers, new) = apart(takeovers, new, holder).await;
    for claimed in takeovers.into_iter().chain(new) {
        assert!(matches!(claimed.unwrap().value, Claimed::Won(_)));
    }
}

/// A claim that another process has written and not committed is a lock too, on a row that nobody can see.
#[tokio::test]
async fn i8_a_claim_under_way_holds_up_no_other_claim() {
    let (store, other) = stores().await;
    let wanted: Vec<_> = (0..LOCKED).map(|_| claim(Duration::from_secs(60))).collect();
    let mut holder = other.pool().begin().await.unwrap();
    for claim in &wanted {
        let sql = "INSERT INTO keylatch.record (id, owner, epoch, attempt, guarantee, state, created_at, fingerprint, \
                   caller, operation, key) VALUES ($1, '\\x00', 1, 1, 2, 1, 0, '\\x00', '', '', '')";
        let id = *claim.id().as_bytes();
        sqlx::query(AssertSqlSafe(sql)).bind(id.as_slice()).execute(&mut *holder).await.unwrap();
    }
    let locked = wanted.into_iter().map(|claim| store.claim(claim));
    let new = (0..OTHERS).map(|_| store.claim(claim(Duration::from_secs(60))));
    let (locked, new) = apart(locked, new, holder).await;
    for claimed in locked.into_iter().chain(new) {
        assert!(matches!(claimed.unwrap().value, Claimed::Won(_)));
    }
}

#[tokio::test]
async fn i8_a_locked_row_holds_up_no_other_completion() {
    let (store, other) = stores().await;
    let held = records(&store, Duration::from_secs(60)).await;
    let running = join_all((0..OTHERS).map(|_| won(&store, claim(Duration::from_secs(60))))).await;
    let holder = lock(&other, &held).await;
    let complete = |lease| store.complete(lease, Completion::new(Outcome::bytes("done"), &Policy::default()));
    let (locked, others) = apart(
        held.iter().map(|(_, record)| complete(record.lease())),
        running.iter().map(|record| complete(record.lease())),
        holder,
    )
    .await;
    assert!(locked.into_iter().chain(others).all(|applied| matches!(applied.unwrap(), Applied::Applied(_))));
}

/// Renewals and releases that wait for a lock hold no connection: more of them can wait than there are connections.
#[tokio::test]
async fn i8_a_locked_row_holds_up_no_other_renewal_or_release() {
    let (store, other) = stores().await;
    let terms = claim(Duration::from_secs(60)).terms;
    for round in ["renew", "release"] {
        let held = records(&store, Duration::from_secs(60)).await;
        let running = join_all((0..OTHERS).map(|_| won(&store, claim(Duration::from_secs(60))))).await;
        let holder = lock(&other, &held).await;
        let call = |lease: Lease| match round {
            "renew" => store.renew(lease, terms, None),
            _ => store.release(lease, End::Retry(Duration::from_secs(60))),
        };
        let (locked, others) = apart(
            held.iter().map(|(_, record)| call(record.lease())),
            running.iter().map(|record| call(record.lease())),
            holder,
        )
        .await;
        assert!(locked.into_iter().chain(others).all(|applied| matches!(applied.unwrap(), Applied::Applied(_))));
    }
}

/// A lock that stays leads to an error, which says that nothing was written.
#[tokio::test]
async fn a_lock_that_stays_is_unavailable() {
    let database = database().await;
    let brief = Options::default().with_statement_max(Duration::from_millis(300));
    let (store, other) = (store_with(&database, brief).await, store_with(&database, Options::default()).await);
    let held = records(&store, Duration::ZERO).await;
    let holder = lock(&other, &held).await;
    let (claim, record) = &held[0];
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let errors = [
        store.claim(Claim { owner: Owner::random(), ..claim.clone() }).await.map(drop),
        store.complete(record.lease(), completion.clone()).await.map(|_| ()),
        store.renew(record.lease(), claim.terms, None).await.map(|_| ()),
        store.release(record.lease(), End::Unknown).await.map(|_| ()),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("lock"), "{error}");
    }
    holder.rollback().await.unwrap();
    assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
}
