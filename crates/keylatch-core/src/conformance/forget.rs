//! How an operator takes an answer away: its tombstone stays, so that a retry never runs again.

use super::Harness;
use super::fixture::{
    FREE, GONE, MS, NEVER_HAPPENED, PHASES, RETENTION, Subject, TOMBSTONE, again, completion, fenced, outcome, reused,
    with_other_owner, with_stale_epoch,
};
use crate::machine::{Decision, Phase, Resolution, decide};
use crate::store::{Applied, Swept};
use crate::{Record, State, Timestamp};

const ALL: usize = 1_000;

/// `record` without its answer, which ended `at`.
fn tombstone_of(record: &Record, at: Timestamp) -> Record {
    let State::Completed { expires_at, .. } = record.state else { panic!("the record is completed") };
    let state = State::Completed { outcome: None, expires_at: at.min(expires_at) };
    Record { state, ..record.clone() }
}

/// A completed record loses its answer, and nothing else: it is a tombstone at once.
pub async fn answer_is_forgotten(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(MS).await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    let now = subject.now().await;
    assert_eq!(subject.record(claim.id()).await, tombstone_of(&record, now));
    assert_eq!(subject.phase(claim.id()).await, Phase::Tombstone);
}

/// A retry of the request is told that it took effect, and another request that the key is held. Neither runs, nor sees
/// the answer, until the instant at which the tombstone would have ended anyway.
pub async fn retry_of_a_forgotten_request_never_runs(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    for wait in [MS, RETENTION - MS, TOMBSTONE - MS] {
        let held = subject.lose(&again(&claim)).await;
        assert_eq!(decide(Some(&held), claim.fingerprint, subject.now().await), Decision::Expired);
        assert_eq!(outcome(&held), None);
        let other = reused(&claim);
        let held = subject.lose(&other).await;
        assert_eq!(decide(Some(&held), other.fingerprint, subject.now().await), Decision::Mismatch);
        subject.advance(wait).await;
    }
    let _ = subject.lose(&again(&claim)).await;
    subject.advance(MS).await;
    assert_eq!(subject.win(&again(&claim)).await.epoch, record.epoch.next());
}

/// A sweep leaves a forgotten record alone until its tombstone ends, and then removes it.
pub async fn forgotten_record_is_swept_at_its_end(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    let forgotten = subject.record(claim.id()).await;
    for wait in [RETENTION, TOMBSTONE - MS] {
        assert_eq!(subject.sweep(ALL).await, Swept::default());
        subject.advance(wait).await;
    }
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    assert_eq!(subject.record(claim.id()).await, forgotten);
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
    assert_eq!(subject.read(claim.id()).await, None);
}

/// Sent again after a lost reply, it changes nothing and succeeds.
pub async fn forgotten_again_changes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    let forgotten = subject.record(claim.id()).await;
    for wait in [MS, RETENTION, TOMBSTONE - MS - MS] {
        subject.advance(wait).await;
        subject.assert_applied(subject.forget(record.lease()).await).await;
        assert_eq!(subject.record(claim.id()).await, forgotten);
    }
    subject.advance(MS).await;
    assert_eq!(subject.forget(record.lease()).await, Applied::Lost);
}

/// An answer that is past its retention is taken away before the sweep comes; one that was swept is gone already.
pub async fn expired_answer_is_forgotten(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Tombstone, "key").await;
    subject.advance(MS).await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    let tombstone = tombstone_of(&record, subject.now().await);
    assert_eq!(subject.record(claim.id()).await, tombstone);
    assert_eq!(subject.sweep(ALL).await, Swept::default());

    let (claim, record) = subject.in_phase(Phase::Tombstone, "swept").await;
    assert_eq!(subject.sweep(ALL).await.tombstoned, 1);
    let swept = subject.record(claim.id()).await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    assert_eq!(subject.record(claim.id()).await, swept);
}

/// Nothing else has an answer to forget: a run goes on or stays unknown, and a free key stays free.
pub async fn only_a_completed_record_is_forgotten(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in [Phase::Running, Phase::Abandoned, Phase::Unknown] {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.forget(record.lease()).await, Applied::Lost, "{phase:?}");
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
    for (at, end) in [FREE, GONE].into_iter().enumerate() {
        let freed = fenced(&format!("freed-{at}"));
        let record = subject.win(&freed).await;
        subject.assert_applied(subject.release(record.lease(), end).await).await;
        let before = subject.read(freed.id()).await;
        assert_eq!(subject.forget(record.lease()).await, Applied::Lost);
        assert_eq!(subject.read(freed.id()).await, before);
        assert_eq!(subject.phase(freed.id()).await, Phase::Free);
    }
    // Its tombstone has ended: the key is anyone's.
    let (claim, record) = subject.in_phase(Phase::Completed, "over").await;
    subject.advance(RETENTION + TOMBSTONE).await;
    assert_eq!(subject.forget(record.lease()).await, Applied::Lost);
    let next = subject.win(&reused(&claim)).await;
    assert_eq!(subject.forget(record.lease()).await, Applied::Lost);
    assert_eq!(subject.record(claim.id()).await, next);
}

/// With an old epoch, nothing is forgotten, in any phase.
pub async fn stale_epoch_forgets_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.forget(with_stale_epoch(record.lease())).await, Applied::Lost, "{phase:?}");
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// With another owner's token, nothing is forgotten, in any phase.
pub async fn other_owner_forgets_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.forget(with_other_owner(record.lease())).await, Applied::Lost, "{phase:?}");
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// No later write brings the answer back: not the completion that is sent again, nor a resolution of the run.
pub async fn forgotten_answer_never_comes_back(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.assert_applied(subject.forget(record.lease()).await).await;
    let forgotten = subject.record(claim.id()).await;
    assert_eq!(subject.complete(record.lease(), completion("answer")).await, Applied::Lost);
    for resolution in [Resolution::Completed(completion("answer")), NEVER_HAPPENED] {
        assert_eq!(subject.resolve(record.lease(), resolution).await, Applied::Lost);
    }
    assert_eq!(subject.renew(record.lease(), claim.terms).await, Applied::Lost);
    assert_eq!(subject.release(record.lease(), FREE).await, Applied::Lost);
    assert_eq!(subject.record(claim.id()).await, forgotten);
}

/// If an answer is forgotten at the moment in which it is written, either it is gone, or nothing was there to forget.
pub async fn completion_or_forgetting_is_first(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for round in 0..50 {
        let claim = fenced(&format!("key-{round}"));
        let lease = subject.win(&claim).await.lease();
        let (one, other) = (subject.store.clone(), harness.connect().await);
        let completing =
            tokio::spawn(async move { one.complete(lease, completion("answer")).await.expect("the store completes") });
        let forgetting = tokio::spawn(async move { other.forget(lease).await.expect("the store forgets") });
        subject.assert_applied(completing.await.expect("no panic")).await;
        let forgotten = forgetting.await.expect("no panic") != Applied::Lost;
        let record = subject.record(claim.id()).await;
        assert_eq!(outcome(&record).is_none(), forgotten);
        assert!(matches!(record.state, State::Completed { .. }));
        assert_eq!(record.free_at, Some(subject.now().await + RETENTION + TOMBSTONE));
    }
}

/// A sweep that comes at the same moment finds the answer, or its tombstone: either way, that is what is left.
pub async fn sweep_and_forgetting_leave_a_tombstone(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    for round in 0..50 {
        let (claim, record) = subject.in_phase(Phase::Tombstone, &format!("key-{round}")).await;
        let lease = record.lease();
        let (one, other) = (subject.store.clone(), elsewhere.clone());
        let sweeping = tokio::spawn(async move { one.sweep(ALL).await.expect("the store sweeps") });
        let forgetting = tokio::spawn(async move { other.forget(lease).await.expect("the store forgets") });
        let swept = sweeping.await.expect("no panic");
        subject.assert_applied(forgetting.await.expect("no panic")).await;
        assert_eq!(subject.record(claim.id()).await, tombstone_of(&record, subject.now().await));
        assert!(swept.removed <= round, "only what an earlier round has left is removed");
    }
}
