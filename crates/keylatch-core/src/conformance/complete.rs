//! How a run gets its outcome; and the first outcome is final.

use std::sync::Arc;
use std::time::Duration;

use super::Harness;
use super::fixture::{
    GONE, LEASE, MS, PHASES, POLICY, RETENTION, Subject, TOMBSTONE, again, completion, fenced, outcome,
    with_other_owner, with_stale_epoch,
};
use crate::machine::{Completion, End, Phase};
use crate::store::Applied;
use crate::{Outcome, Record, State};

/// The outcome is stored, with the instants until which it is remembered; everything else stays.
pub async fn outcome_is_stored(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(MS).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;

    let expires_at = subject.now().await + RETENTION;
    let state = State::Completed { outcome: Some(Outcome::bytes("answer").into()), expires_at };
    let expected = Record { takeover_at: None, free_at: Some(expires_at + TOMBSTONE), state, ..record };
    assert_eq!(subject.record(claim.id()).await, expected);
    let elsewhere = harness.connect().await;
    assert_eq!(elsewhere.read(claim.id()).await.expect("the other handle reads").value, Some(expected));
}

/// The notes of a run are removed when its outcome is stored: nobody needs them any more.
pub async fn outcome_takes_the_place_of_the_notes(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.note(lease, "charge", "paid").await).await;
    subject.assert_applied(subject.complete(lease, completion("answer")).await).await;
    assert_eq!(outcome(&subject.record(claim.id()).await), Some(&Outcome::bytes("answer")));
}

/// A completion sent again after a lost reply succeeds and changes nothing, not even how long it is kept.
pub async fn repeated_completion_changes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    for _ in 0..3 {
        subject.advance(MS).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
        assert_eq!(subject.record(claim.id()).await, record);
    }
}

/// A completion sent again with other spans keeps the first ones.
pub async fn repeated_completion_keeps_its_spans(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    let longer = Completion { retention: RETENTION * 2, tombstone: TOMBSTONE * 2, ..completion("answer") };
    subject.assert_applied(subject.complete(record.lease(), longer).await).await;
    assert_eq!(subject.record(claim.id()).await, record);
}

/// A second, different outcome never replaces the first, and its writer is told: it must give the first as its answer.
pub async fn second_outcome_never_replaces_the_first(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    let mut others = vec![completion("another answer"), completion("")];
    for change in [
        (|outcome| outcome.status = http::StatusCode::CREATED) as fn(&mut Outcome),
        |outcome| outcome.headers.push((http::header::ETAG, http::HeaderValue::from_static("1"))),
        |outcome| outcome.body = crate::Body::NotRetained { digest: None },
    ] {
        let mut other = completion("answer");
        change(Arc::make_mut(&mut other.outcome));
        others.push(other);
    }
    for other in others {
        assert_eq!(subject.complete(record.lease(), other).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record);
    }
}

/// A completion sent again after the answer has expired does not bring it back.
pub async fn tombstone_gets_no_answer(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Tombstone, "key").await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    assert_eq!(subject.record(claim.id()).await, record);
    assert_eq!(subject.sweep(10).await.tombstoned, 1);
    for answer in ["answer", "another answer"] {
        assert_eq!(subject.complete(record.lease(), completion(answer)).await, Applied::Lost);
        assert_eq!(outcome(&subject.record(claim.id()).await), None);
        assert_eq!(subject.phase(claim.id()).await, Phase::Tombstone);
    }
}

/// A late owner completes, if nobody has taken over: its effect happened, and must be recorded.
pub async fn late_owner_completes(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Abandoned, "key").await;
    subject.advance(LEASE * 5).await;
    subject.assert_applied(subject.complete(record.lease(), completion("late")).await).await;
    assert_eq!(outcome(&subject.lose(&again(&claim)).await), Some(&Outcome::bytes("late")));
}

/// An outcome that was unknown is known once its owner completes.
pub async fn unknown_outcome_is_completed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Unknown, "key").await;
    subject.assert_applied(subject.complete(record.lease(), completion("resolved")).await).await;
    let completed = subject.lose(&again(&claim)).await;
    assert_eq!(outcome(&completed), Some(&Outcome::bytes("resolved")));
    assert_eq!(completed.free_at, Some(subject.now().await + RETENTION + TOMBSTONE));
}

/// Once someone has taken over, the old owner's completion changes nothing.
pub async fn completion_after_takeover_is_lost(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, late) = subject.in_phase(Phase::Abandoned, "key").await;
    let winner = subject.win(&again(&claim)).await;
    assert_eq!(subject.complete(late.lease(), completion("late")).await, Applied::Lost);
    assert_eq!(subject.record(claim.id()).await, winner);
    subject.assert_applied(subject.complete(winner.lease(), completion("winner")).await).await;
    assert_eq!(subject.complete(late.lease(), completion("late")).await, Applied::Lost);
    assert_eq!(outcome(&subject.record(claim.id()).await), Some(&Outcome::bytes("winner")));
}

/// With an old epoch, a completion changes nothing, in any phase.
pub async fn stale_epoch_completes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.complete(with_stale_epoch(record.lease()), completion("stale")).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// With another owner's token, a completion changes nothing, in any phase.
pub async fn other_owner_completes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.complete(with_other_owner(record.lease()), completion("stale")).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// A completion without a record does not create one.
pub async fn absent_record_is_not_completed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), GONE).await).await;
    assert_eq!(subject.complete(record.lease(), completion("answer")).await, Applied::Lost);
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A run that released its key for a retry can still complete, until the retry has begun.
pub async fn released_run_completes_before_its_retry(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for end in [End::Retry(LEASE), End::Unknown] {
        let claim = fenced(&format!("{end:?}").replace(' ', ""));
        let record = subject.win(&claim).await;
        subject.assert_applied(subject.release(record.lease(), end).await).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Completed);
    }
}

/// Each completion is kept for as long as it says.
pub async fn retention_is_that_of_the_completion(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let now = subject.now().await;
    for (at, (retention, tombstone)) in
        [(MS, Duration::ZERO), (MS, MS), (RETENTION * 9, TOMBSTONE * 9)].into_iter().enumerate()
    {
        let claim = fenced(&format!("key-{at}"));
        let record = subject.win(&claim).await;
        let policy = crate::Policy { retention, tombstone, ..POLICY };
        let completion = Completion::new(Outcome::bytes("answer"), &policy);
        subject.assert_applied(subject.complete(record.lease(), completion).await).await;
        let completed = subject.record(claim.id()).await;
        assert_eq!(completed.free_at, Some(now + retention + tombstone));
        assert!(matches!(completed.state, State::Completed { expires_at, .. } if expires_at == now + retention));
    }
}
