//! How long a key is remembered: the answer, then the tombstone, each to its last millisecond.

use std::time::Duration;

use super::Harness;
use super::fixture::{LEASE, MS, POLICY, RETENTION, Subject, TOMBSTONE, YEARS, again, fenced, notes, outcome, reused};
use crate::machine::{self, Completion, Decision, Phase};
use crate::{Outcome, Policy};

/// The answer is replayed up to 1 ms before its retention ends, and not at its end.
pub async fn answer_expires_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(RETENTION - MS).await;
    let held = subject.lose(&again(&claim)).await;
    let decision = machine::decide(Some(&held), claim.fingerprint, subject.now().await);
    assert_eq!(decision, Decision::Replay(&Outcome::bytes("answer")));
    subject.advance(MS).await;
    let held = subject.lose(&again(&claim)).await;
    let decision = machine::decide(Some(&held), claim.fingerprint, subject.now().await);
    assert_eq!(decision, Decision::Expired);
}

/// A tombstone refuses up to 1 ms before its end, and at its end the same request runs anew.
pub async fn tombstone_ends_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(RETENTION + TOMBSTONE - MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Tombstone);
    let _ = subject.lose(&again(&claim)).await;
    subject.advance(MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Free);
    let anew = subject.win(&again(&claim)).await;
    assert_eq!((anew.epoch, anew.attempt, anew.created_at), (record.epoch.next(), 1, subject.now().await));
    assert_eq!(outcome(&subject.record(claim.id()).await), None);
}

/// At the tombstone's end, and not 1 ms before, another request may claim the key.
pub async fn key_is_free_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(RETENTION + TOMBSTONE - MS).await;
    let _ = subject.lose(&reused(&claim)).await;
    subject.advance(MS).await;
    let other = reused(&claim);
    let won = subject.win(&other).await;
    assert_eq!((won.fingerprint, won.attempt), (other.fingerprint, 1));
}

/// Without a tombstone, the key is free as soon as the answer has expired.
pub async fn key_without_tombstone_is_free_at_expiry(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    let policy = Policy { tombstone: Duration::ZERO, ..POLICY };
    let completion = Completion::new(Outcome::bytes("answer"), &policy);
    subject.assert_applied(subject.complete(record.lease(), completion).await).await;
    subject.advance(RETENTION - MS).await;
    let _ = subject.lose(&reused(&claim)).await;
    subject.advance(MS).await;
    let _ = subject.win(&reused(&claim)).await;
}

/// An abandoned run is the same request's only until it is free for anyone, at the instant.
pub async fn abandoned_run_is_free_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Abandoned, "key").await;
    let free_at = record.free_at.expect("an abandoned run is free at some time");
    subject.advance(subject.now().await.until(free_at) - MS).await;
    let _ = subject.lose(&reused(&claim)).await;
    subject.advance(MS).await;
    let _ = subject.win(&reused(&claim)).await;
}

/// No note of an earlier request reaches the request that has the key after it.
pub async fn notes_do_not_outlive_their_request(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.note(lease, "charge", "paid").await).await;
    subject.advance(YEARS).await;
    let won = subject.win(&reused(&claim)).await;
    assert_eq!(*notes(&won), crate::Notes::default());
    assert_eq!(*notes(&subject.record(claim.id()).await), crate::Notes::default());
}

/// An answer is kept for its whole retention from its completion, however late that was.
pub async fn retention_counts_from_completion(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE * 20).await;
    let completion = Completion::new(Outcome::bytes("answer"), &POLICY);
    subject.assert_applied(subject.complete(record.lease(), completion).await).await;
    subject.advance(RETENTION - MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Completed);
    subject.advance(MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Tombstone);
}
