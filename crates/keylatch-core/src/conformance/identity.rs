//! No request ever gets what belongs to another scope or key.

use super::Harness;
use super::fixture::{Subject, again, claim_in, completion, fenced, key, outcome, scope};
use crate::machine::Claim;
use crate::store::ErrorKind;
use crate::{KEY_BYTES_MAX, Outcome, RecordId, SCOPE_FIELD_BYTES_MAX, Scope};

/// Each of these pairs of scope and key has its own record: all are won, and all keep their answers.
async fn are_told_apart(harness: &dyn Harness, identities: Vec<(Scope, crate::Key)>) {
    let subject = Subject::new(harness);
    let claims: Vec<_> = identities.into_iter().map(|(scope, key)| claim_in(scope, key)).collect();
    let outcome_of = |at: usize| Outcome::bytes(format!("answer {at}"));
    for (at, claim) in claims.iter().enumerate() {
        let record = subject.win(&again(claim)).await;
        let completion = crate::machine::Completion { outcome: outcome_of(at).into(), ..completion("") };
        subject.assert_applied(subject.complete(record.lease(), completion).await).await;
    }
    for (at, claim) in claims.iter().enumerate() {
        let held = subject.lose(&again(claim)).await;
        assert!(held.belongs_to(claim.scope(), claim.key()));
        assert_eq!(outcome(&held), Some(&outcome_of(at)));
        let in_scope = claims.iter().filter(|other| other.scope() == claim.scope()).count() as u64;
        subject.assert_counted(claim.scope().clone(), u64::MAX, in_scope).await;
    }
}

/// The same key in two scopes is two records.
pub async fn scopes_with_one_key_are_apart(harness: &dyn Harness) {
    let scopes = ["alice", "bob", "Alice", "alic\u{e9}"].map(|caller| (scope(caller), key("key")));
    are_told_apart(harness, scopes.into()).await;
}

/// The operation is part of the scope.
pub async fn operations_are_apart(harness: &dyn Harness) {
    let operations = ["", "POST /orders", "PATCH /orders", "POST /orders/"];
    let scope_of = |operation| scope("caller").for_operation(operation).expect("a valid operation");
    are_told_apart(harness, operations.map(|operation| (scope_of(operation), key("key"))).into()).await;
}

/// Scopes and keys whose concatenations are equal are different.
pub async fn texts_that_run_together_are_apart(harness: &dyn Harness) {
    let parts =
        [("a", "bc", "d"), ("ab", "c", "d"), ("abc", "", "d"), ("a", "b", "cd"), ("a", "bcd", "d"), ("a", "", "bcd")];
    let separators = [("a/b", "c", "d"), ("a", "b/c", "d"), ("a", "b", "c/d"), ("a:b", "c", "d"), ("a|b", "c", "d")];
    let identity = |(caller, operation, text): (&str, &str, &str)| {
        (scope(caller).for_operation(operation).expect("a valid operation"), key(text))
    };
    are_told_apart(harness, parts.into_iter().chain(separators).map(identity).collect()).await;
}

/// Keys that differ in case, in the last character or in length are different.
pub async fn similar_keys_are_apart(harness: &dyn Harness) {
    let keys = ["key", "Key", "KEY", "key1", "ke", "key.", "\"key\"", "key%", "key_", "k*y", "'key'"];
    are_told_apart(harness, keys.map(|text| (scope("caller"), key(text))).into()).await;
}

/// The longest keys differ by their last character.
pub async fn longest_keys_are_apart(harness: &dyn Harness) {
    let long = |last: char| key(&format!("{}{last}", "k".repeat(KEY_BYTES_MAX - 1)));
    are_told_apart(harness, ['a', 'b', '~', '!'].map(|last| (scope("caller"), long(last))).into()).await;
}

/// The longest scopes differ by their last character, even if that is not ASCII.
pub async fn longest_scopes_are_apart(harness: &dyn Harness) {
    let long = |last: &str| format!("{}{last}", "s".repeat(SCOPE_FIELD_BYTES_MAX - last.len()));
    let fields = ["a", "b", "\u{e9}", "\u{1f511}"].map(long);
    let both = fields.iter().flat_map(|caller| fields.iter().map(move |operation| (caller, operation)));
    let scope_of = |(caller, operation): (&String, &String)| {
        (scope(caller).for_operation(operation).expect("a valid operation"), key("key"))
    };
    are_told_apart(harness, both.map(scope_of).collect()).await;
}

/// Stores the answer of one record under the identity of another, and returns that other's claim.
async fn misplaced(subject: &Subject<'_>, taken: bool) -> Claim {
    let secret = subject.win(&fenced("secret")).await;
    subject.assert_applied(subject.complete(secret.lease(), completion("secret")).await).await;
    let claim = claim_in(scope("other"), key("secret"));
    if taken {
        let record = subject.win(&claim).await;
        subject.assert_applied(subject.complete(record.lease(), completion("own")).await).await;
    }
    subject.harness.misplace(secret.id(), claim.id()).await;
    again(&claim)
}

async fn assert_corrupt<T>(result: Result<T, crate::store::Error>) {
    match result {
        Ok(_) => panic!("a record under another's identity must be an error"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
    }
}

/// A claim that finds another's record is an error: it neither runs nor gets that answer.
pub async fn misplaced_record_is_never_claimed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = misplaced(&subject, false).await;
    for _ in 0..2 {
        assert_corrupt(subject.store.claim(claim.clone()).await).await;
    }
}

/// A claim that finds another's record in place of its own is an error.
pub async fn overwritten_record_is_never_claimed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = misplaced(&subject, true).await;
    assert_corrupt(subject.store.claim(claim).await).await;
}

/// A reader that finds another's record gets an error, never the record, and never "absent".
pub async fn misplaced_record_is_never_read(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = misplaced(&subject, false).await;
    assert_corrupt(subject.store.read(claim.id()).await).await;
    let elsewhere = harness.connect().await;
    assert_corrupt(elsewhere.read(claim.id()).await).await;
}

/// A page that contains a misplaced record is an error.
pub async fn misplaced_record_is_never_listed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = misplaced(&subject, false).await;
    assert_corrupt(subject.list(Some(claim.scope().clone()), 10).await).await;
}

/// One misplaced record harms no other: the record it was copied from, and every other key, still work.
pub async fn misplaced_record_harms_no_other(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let _ = misplaced(&subject, false).await;
    assert_eq!(outcome(&subject.lose(&again(&fenced("secret"))).await), Some(&Outcome::bytes("secret")));
    let _ = subject.win(&fenced("another")).await;
}

/// The identity of a stored record is the one under which it is read.
pub async fn record_names_its_identity(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    assert_eq!(record.id(), RecordId::of(claim.scope(), claim.key()));
    let read = subject.record(claim.id()).await;
    assert!(read.belongs_to(claim.scope(), claim.key()));
}
