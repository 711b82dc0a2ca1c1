//! The ends of every range: the longest, the most, the latest.

use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::fixture::{LEASE, Subject, YEARS, again, claim_in, completion, fenced, key, notes, outcome, scope};
use crate::machine::{Completion, Phase, Terms};
use crate::{KEY_BYTES_MAX, Outcome, SCOPE_FIELD_BYTES_MAX, Timestamp};

/// The longest key in the longest scope is a key like any other.
pub async fn longest_key_in_the_longest_scope(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let caller = "\u{20ac}".repeat(SCOPE_FIELD_BYTES_MAX / 3) + "__";
    let operation = "o".repeat(SCOPE_FIELD_BYTES_MAX);
    assert_eq!(caller.len(), SCOPE_FIELD_BYTES_MAX);
    let scope = scope(&caller).for_operation(&operation).expect("a valid operation");
    let claim = claim_in(scope.clone(), key(&"~".repeat(KEY_BYTES_MAX)));
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    let held = subject.lose(&again(&claim)).await;
    assert!(held.belongs_to(claim.scope(), claim.key()));
    subject.assert_counted(scope, u64::MAX, 1).await;
}

/// A key of any one allowed character is a key.
pub async fn every_character_of_a_key(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for character in '!'..='~' {
        let claim = fenced(&character.to_string());
        let record = subject.win(&claim).await;
        assert_eq!(subject.record(record.id()).await.key, *claim.key());
    }
}

/// Spans that reach past the end of time end there, instead of in the past.
pub async fn spans_end_with_time(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let end_of_time = Timestamp::from_millis(i64::MAX);
    let mut claim = fenced("key");
    claim.terms = Terms { lease: Duration::MAX, takeover: Some(Duration::MAX), free: Some(Duration::MAX) };
    let record = subject.win(&claim).await;
    assert_eq!((record.takeover_at, record.free_at), (Some(end_of_time), Some(end_of_time)));
    assert_eq!(subject.record(claim.id()).await, record);
    subject.advance(YEARS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Running);
    let completion =
        Completion { outcome: Outcome::bytes("answer").into(), retention: Duration::MAX, tombstone: Duration::MAX };
    subject.assert_applied(subject.complete(record.lease(), completion).await).await;
    subject.advance(YEARS).await;
    assert_eq!(subject.sweep(10).await.total(), 0);
    let held = subject.lose(&again(&claim)).await;
    assert_eq!(outcome(&held), Some(&Outcome::bytes("answer")));
    assert_eq!(held.free_at, Some(end_of_time));
}

/// A lease that ends at once can be taken over at once.
pub async fn lease_of_no_time_is_taken_over_at_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let mut claim = fenced("key");
    claim.terms = Terms { lease: Duration::ZERO, takeover: Some(Duration::ZERO), free: Some(LEASE) };
    for attempt in 1..=3 {
        assert_eq!(subject.win(&again(&claim)).await.attempt, attempt);
    }
}

/// Hundreds of steps, one of them large, are noted under one record.
pub async fn many_notes_are_kept(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    let large = "x".repeat(256 << 10);
    subject.assert_applied(subject.note(lease, "large", large.clone()).await).await;
    for at in 0..300 {
        subject.assert_applied(subject.note(lease, &format!("step {at}"), format!("result {at}")).await).await;
    }
    let record = subject.record(claim.id()).await;
    let small = (0..300).map(|at| (format!("step {at}"), Bytes::from(format!("result {at}"))));
    let expected: Vec<_> = std::iter::once(("large".to_owned(), Bytes::from(large))).chain(small).collect();
    assert_eq!(notes(&record).steps, expected);
}

/// A sweep may have no limit, and neither may a count.
pub async fn largest_limits_are_limits(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for at in 0..50 {
        let record = subject.win(&fenced(&format!("key-{at}"))).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    }
    subject.advance(YEARS).await;
    subject.assert_counted(scope("caller"), u64::MAX, 50).await;
    assert_eq!(subject.sweep(usize::MAX).await.removed, 50);
    subject.assert_counted(scope("caller"), u64::MAX, 0).await;
}
