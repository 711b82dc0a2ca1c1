//! Claims in transactions of the caller's own.

use keylatch::machine::{Claim, Completion};
use keylatch::postgres::{InOwn, Options, Store};
use keylatch::store::{ErrorKind, State, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};

use crate::support::{database, insert, items, records, store, store_with};

fn claim(input: &str) -> Claim {
    let (scope, key) = (Scope::new("job").unwrap(), Key::new("nightly").unwrap());
    Claim::new(scope, key, Fingerprint::of([input.as_bytes()]), Guarantee::Atomic, &Policy::default())
}

fn done(body: &'static str) -> Completion {
    Completion::new(Outcome::bytes(body), &Policy::default())
}

async fn run(store: &Store, claim: &Claim, commit: bool) -> bool {
    let mut tx = store.pool().begin().await.unwrap();
    let InOwn::Entered(entered) = store.claim_in(&mut tx, claim).await.unwrap() else { return false };
    insert(&mut tx, "a").await.unwrap();
    let written = store.complete_in(&mut tx, entered, done("first")).await.unwrap().expect("nobody else has it");
    assert_eq!(written.value.owner, claim.owner);
    if commit {
        tx.commit().await.unwrap();
        assert_eq!(store.read(claim.id()).await.unwrap().value, Some(written.value));
    } else {
        tx.rollback().await.unwrap();
    }
    true
}

#[tokio::test]
async fn writes_and_record_are_one() {
    let store = store(&database().await).await;
    assert!(run(&store, &claim("input"), false).await);
    assert_eq!((items(&store).await.len(), records(&store).await), (0, 0));
    assert!(run(&store, &claim("input"), true).await);
    assert_eq!(items(&store).await, ["a"]);

    let mut tx = store.pool().begin().await.unwrap();
    for input in ["input", "other"] {
        let InOwn::Held(held) = store.claim_in(&mut tx, &claim(input)).await.unwrap() else {
            panic!("the record holds the key");
        };
        let State::Completed { outcome, .. } = held.value.state else { panic!("it is completed") };
        assert_eq!(outcome, Some(Outcome::bytes("first").into()));
    }
}

#[tokio::test]
async fn another_transaction_is_told_at_once() {
    let store = store(&database().await).await;
    let mut tx = store.pool().begin().await.unwrap();
    let InOwn::Entered(entered) = store.claim_in(&mut tx, &claim("input")).await.unwrap() else { panic!("it is free") };
    for input in ["input", "other"] {
        let mut beside = store.pool().begin().await.unwrap();
        assert!(matches!(store.claim_in(&mut beside, &claim(input)).await.unwrap(), InOwn::Busy));
    }
    assert!(store.complete_in(&mut tx, entered, done("first")).await.unwrap().is_some());
    tx.commit().await.unwrap();
    let mut beside = store.pool().begin().await.unwrap();
    assert!(matches!(store.claim_in(&mut beside, &claim("input")).await.unwrap(), InOwn::Held(_)));
}

#[tokio::test]
async fn only_the_transaction_that_claimed_completes() {
    let store = store(&database().await).await;
    let mut tx = store.pool().begin().await.unwrap();
    let InOwn::Entered(entered) = store.claim_in(&mut tx, &claim("input")).await.unwrap() else { panic!("it is free") };
    tx.rollback().await.unwrap();
    let mut other = store.pool().begin().await.unwrap();
    let error = store.complete_in(&mut other, entered, done("first")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    drop(other);
    assert_eq!(records(&store).await, 0);
}

/// Two stores in one database, each in its own schema, are independent.
#[tokio::test]
async fn stores_in_two_schemas_have_keys_of_their_own() {
    let database = database().await;
    let in_schema = async |schema| store_with(&database, Options::default().with_schema(schema)).await;
    let (left, right) = (in_schema("left_store").await, in_schema("right_store").await);
    let mut on_left = left.pool().begin().await.unwrap();
    let mut on_right = right.pool().begin().await.unwrap();
    assert!(matches!(left.claim_in(&mut on_left, &claim("input")).await.unwrap(), InOwn::Entered(_)));
    assert!(matches!(right.claim_in(&mut on_right, &claim("other")).await.unwrap(), InOwn::Entered(_)));
    let mut beside = left.pool().begin().await.unwrap();
    assert!(matches!(left.claim_in(&mut beside, &claim("input")).await.unwrap(), InOwn::Busy));
}

/// If a claim on a lease comes between, it wins, and the transaction is told.
#[tokio::test]
async fn a_lease_in_between_wins() {
    let store = store(&database().await).await;
    let mut tx = store.pool().begin().await.unwrap();
    let InOwn::Entered(entered) = store.claim_in(&mut tx, &claim("input")).await.unwrap() else { panic!("it is free") };
    let leased = Claim { guarantee: Guarantee::Fenced, ..claim("input") };
    assert!(matches!(store.claim(leased).await.unwrap().value, keylatch::machine::Claimed::Won(_)));
    assert!(store.complete_in(&mut tx, entered, done("first")).await.unwrap().is_none());
}
