//! What a renewal does, and what it must not change.

use bytes::Bytes;

use super::Harness;
use super::fixture::{
    GONE, LEASE, MS, PHASES, Subject, again, at_most_once, fenced, notes, with_other_owner, with_stale_epoch,
};
use crate::machine::Phase;
use crate::store::Applied;
use crate::{Record, State};

fn lease_ends_at(record: &Record) -> crate::Timestamp {
    match record.state {
        State::Running { lease_ends_at, .. } => lease_ends_at,
        State::Completed { .. } => panic!("a completed record has no lease"),
    }
}

/// A renewed lease runs from the store's now, and everything else stays.
pub async fn renewal_counts_from_now(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE / 2).await;
    subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;

    let now = subject.now().await;
    let renewed = subject.record(claim.id()).await;
    assert_eq!(lease_ends_at(&renewed), now + LEASE);
    assert_eq!(renewed.takeover_at, claim.terms.takeover.map(|span| now + span));
    assert_eq!(renewed.free_at, claim.terms.free.map(|span| now + span));
    let Record { takeover_at, free_at, ref state, .. } = renewed;
    assert_eq!(renewed, Record { takeover_at, free_at, state: state.clone(), ..record });
}

/// A renewal in time keeps a run from becoming unknown, and never allows a takeover.
pub async fn at_most_once_is_renewed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = at_most_once("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE - MS).await;
    subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;
    subject.advance(LEASE - MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Running);
    subject.advance(MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Unknown);
    let renewed = subject.record(claim.id()).await;
    assert_eq!((renewed.takeover_at, renewed.free_at), (None, None));
}

/// A late renewal holds, if nobody has taken over.
pub async fn late_renewal_holds(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (phase, key) in [(Phase::Abandoned, "fenced"), (Phase::Unknown, "at-most-once")] {
        let (claim, record) = subject.in_phase(phase, key).await;
        subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Running);
        let _ = subject.lose(&again(&claim)).await;
    }
}

/// Once someone has taken over, the old owner's renewal changes nothing.
pub async fn renewal_after_takeover_is_lost(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, late) = subject.in_phase(Phase::Abandoned, "key").await;
    let winner = subject.win(&again(&claim)).await;
    subject.advance(MS).await;
    assert_eq!(subject.note(late.lease(), "step", "result").await, Applied::Lost);
    assert_eq!(subject.record(claim.id()).await, winner);
}

/// With an old epoch, a renewal changes nothing, in any phase.
pub async fn stale_epoch_renews_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.note(with_stale_epoch(record.lease()), "step", "result").await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// With another owner's token, a renewal changes nothing, in any phase.
pub async fn other_owner_renews_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.note(with_other_owner(record.lease()), "step", "result").await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
    }
}

/// A run that is over is not renewed, even by its owner.
pub async fn completed_record_is_not_renewed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in [Phase::Completed, Phase::Tombstone] {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        assert_eq!(subject.note(record.lease(), "step", "result").await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record);
    }
}

/// A renewal without a record does not create one.
pub async fn absent_record_is_not_renewed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), GONE).await).await;
    assert_eq!(subject.note(record.lease(), "step", "result").await, Applied::Lost);
    assert_eq!(subject.read(claim.id()).await, None);
}

/// Finished steps are kept in the order in which they finished, whatever their content.
pub async fn steps_are_noted_in_order(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    let steps: Vec<(String, Bytes)> = [
        ("charge", Bytes::from_static(b"paid")),
        ("a step with spaces, \u{e9}, \u{1f511} and a quote'", Bytes::new()),
        ("all bytes", (0..=u8::MAX).collect()),
        ("", Bytes::from_static(b"a step without a name")),
        ("100 KiB", vec![7; 100 << 10].into()),
    ]
    .map(|(name, result)| (name.to_owned(), result))
    .into();
    for (name, result) in &steps {
        subject.assert_applied(subject.note(lease, name, result.clone()).await).await;
    }
    assert_eq!(notes(&subject.record(claim.id()).await).steps, steps);
}

/// A step that is noted again, after a lost reply, keeps its first result; the lease is still renewed.
pub async fn step_is_noted_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.note(lease, "charge", "first").await).await;
    subject.advance(MS).await;
    subject.assert_applied(subject.note(lease, "charge", "second").await).await;
    let record = subject.record(claim.id()).await;
    assert_eq!(notes(&record).steps, [("charge".to_owned(), Bytes::from_static(b"first"))]);
    assert_eq!(lease_ends_at(&record), subject.now().await + LEASE);
}

/// A renewal without a step leaves the notes as they are.
pub async fn renewal_keeps_the_notes(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.note(lease, "charge", "paid").await).await;
    let noted = subject.record(claim.id()).await;
    subject.advance(MS).await;
    subject.assert_applied(subject.renew(lease, claim.terms).await).await;
    assert_eq!(notes(&subject.record(claim.id()).await), notes(&noted));
}
