//! How someone other than its owner ends a run whose outcome is unknown.

use std::time::Duration;

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, MS, NEVER_HAPPENED, PHASES, RETENTION, Subject, TOMBSTONE, again, at_most_once, completion,
    fenced, outcome, reused, with_other_owner, with_stale_epoch,
};
use crate::machine::{End, Phase, Resolution};
use crate::store::Applied;
use crate::{Outcome, State};

/// Every resolution.
fn resolutions() -> [Resolution; 2] {
    [happened("resolved"), NEVER_HAPPENED]
}

fn happened(answer: &'static str) -> Resolution {
    Resolution::Completed(completion(answer))
}

/// An unknown outcome is known once it is resolved, and is remembered like any other.
pub async fn unknown_run_is_completed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Unknown, "key").await;
    subject.advance(MS).await;
    subject.assert_applied(subject.resolve(record.lease(), happened("resolved")).await).await;
    let resolved = subject.lose(&again(&claim)).await;
    assert_eq!(outcome(&resolved), Some(&Outcome::bytes("resolved")));
    let expires_at = subject.now().await + RETENTION;
    assert_eq!(resolved.free_at, Some(expires_at + TOMBSTONE));
    assert!(matches!(resolved.state, State::Completed { expires_at: ends, .. } if ends == expires_at));
    assert_eq!(resolved.lease(), record.lease());
}

/// The key of a run that never happened is free for anyone.
pub async fn unknown_run_never_happened(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for other in [false, true] {
        let (claim, record) = subject.in_phase(Phase::Unknown, &format!("key-{other}")).await;
        subject.assert_applied(subject.resolve(record.lease(), NEVER_HAPPENED).await).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Free);
        let won = subject.win(&if other { reused(&claim) } else { again(&claim) }).await;
        assert_eq!((won.epoch, won.attempt), (record.epoch.next(), 1));
    }
}

/// The key of a run that never happened leaves no record, if its epoch need not be kept.
pub async fn run_that_never_happened_leaves_no_record(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Unknown, "key").await;
    let resolution = Resolution::NeverHappened(Duration::ZERO);
    subject.assert_applied(subject.resolve(record.lease(), resolution).await).await;
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A run that ended without knowing its outcome can be resolved at once, in every guarantee.
pub async fn run_that_does_not_know_is_resolved(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (at, resolution) in resolutions().into_iter().enumerate() {
        for claim in [fenced(&format!("fenced-{at}")), at_most_once(&format!("once-{at}"))] {
            let record = subject.win(&claim).await;
            subject.assert_applied(subject.release(record.lease(), End::Unknown).await).await;
            subject.assert_applied(subject.resolve(record.lease(), resolution.clone()).await).await;
            let expected = if at == 0 { Phase::Completed } else { Phase::Free };
            assert_eq!(subject.phase(claim.id()).await, expected);
        }
    }
}

/// A run is resolved at the instant at which its lease ends, and not 1 ms before.
pub async fn run_is_resolved_from_the_end_of_its_lease(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (at, resolution) in resolutions().into_iter().enumerate() {
        let claim = at_most_once(&format!("key-{at}"));
        let record = subject.win(&claim).await;
        subject.advance(LEASE - MS).await;
        assert_eq!(subject.resolve(record.lease(), resolution.clone()).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, record);
        subject.advance(MS).await;
        subject.assert_applied(subject.resolve(record.lease(), resolution).await).await;
    }
}

/// A current run is not resolved, although epoch and owner match.
pub async fn live_run_is_not_resolved(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (at, resolution) in resolutions().into_iter().enumerate() {
        for claim in [fenced(&format!("fenced-{at}")), at_most_once(&format!("once-{at}"))] {
            let record = subject.win(&claim).await;
            assert_eq!(subject.resolve(record.lease(), resolution.clone()).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record);
        }
    }
}

/// The owner renews its lease after the resolver has read that it ended: the run is alive and continues.
pub async fn renewed_run_is_not_resolved(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (at, resolution) in resolutions().into_iter().enumerate() {
        let (claim, read) = subject.in_phase(Phase::Unknown, &format!("key-{at}")).await;
        subject.assert_applied(subject.renew(read.lease(), claim.terms).await).await;
        let renewed = subject.record(claim.id()).await;
        assert_eq!(subject.resolve(read.lease(), resolution.clone()).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, renewed);
        let _ = subject.lose(&again(&claim)).await;
        // When that lease has ended as well, it is resolved.
        subject.advance(LEASE).await;
        subject.assert_applied(subject.resolve(read.lease(), resolution).await).await;
    }
}

/// A resolver must not end a run that can be taken over, or change a final record.
pub async fn only_an_unknown_run_is_resolved(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES.into_iter().filter(|phase| *phase != Phase::Unknown) {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for resolution in resolutions() {
            assert_eq!(subject.resolve(record.lease(), resolution).await, Applied::Lost, "{phase:?}");
            assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
        }
    }
    let absent = at_most_once("absent");
    let record = subject.win(&absent).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    for resolution in resolutions() {
        assert_eq!(subject.resolve(record.lease(), resolution).await, Applied::Lost);
        assert_eq!(subject.phase(absent.id()).await, Phase::Free);
    }
}

/// A resolution sent again after a lost reply has no further effect.
pub async fn resolution_sent_again_changes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Unknown, "completed").await;
    subject.assert_applied(subject.resolve(record.lease(), happened("resolved")).await).await;
    let resolved = subject.record(claim.id()).await;
    for _ in 0..2 {
        subject.advance(MS).await;
        subject.assert_applied(subject.resolve(record.lease(), happened("resolved")).await).await;
        assert_eq!(subject.record(claim.id()).await, resolved);
    }

    let (claim, record) = subject.in_phase(Phase::Unknown, "freed").await;
    subject.assert_applied(subject.resolve(record.lease(), NEVER_HAPPENED).await).await;
    assert_eq!(subject.resolve(record.lease(), NEVER_HAPPENED).await, Applied::Lost);
    assert_eq!(subject.phase(claim.id()).await, Phase::Free);
    let next = subject.win(&again(&claim)).await;
    subject.advance(LEASE).await;
    assert_eq!(subject.resolve(record.lease(), NEVER_HAPPENED).await, Applied::Lost);
    assert_eq!(subject.record(claim.id()).await, next);
}

/// An owner that was only paused finds the resolution and changes nothing.
pub async fn owner_that_comes_back_finds_the_resolution(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (at, resolution) in resolutions().into_iter().enumerate() {
        let (claim, record) = subject.in_phase(Phase::Unknown, &format!("key-{at}")).await;
        subject.assert_applied(subject.resolve(record.lease(), resolution).await).await;
        let resolved = subject.read(claim.id()).await;
        assert_eq!(subject.renew(record.lease(), claim.terms).await, Applied::Lost);
        assert_eq!(subject.complete(record.lease(), completion("late")).await, Applied::Lost);
        for end in [FREE, GONE, End::Retry(LEASE), End::Unknown] {
            assert_eq!(subject.release(record.lease(), end).await, Applied::Lost);
        }
        assert_eq!(subject.read(claim.id()).await, resolved);
    }
}

/// Of two resolutions the first counts, and the second is reported as lost.
pub async fn first_resolution_counts(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for second in [happened("another"), NEVER_HAPPENED] {
        let (claim, record) = subject.in_phase(Phase::Unknown, if second == NEVER_HAPPENED { "a" } else { "b" }).await;
        subject.assert_applied(subject.resolve(record.lease(), happened("first")).await).await;
        assert_eq!(subject.resolve(record.lease(), second).await, Applied::Lost);
        assert_eq!(outcome(&subject.record(claim.id()).await), Some(&Outcome::bytes("first")));
    }
}

/// With an old epoch, a resolution changes nothing, in any phase.
pub async fn stale_epoch_resolves_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for resolution in resolutions() {
            assert_eq!(subject.resolve(with_stale_epoch(record.lease()), resolution).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
        }
    }
}

/// With another owner's token, a resolution changes nothing, in any phase.
pub async fn other_owner_resolves_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for resolution in resolutions() {
            assert_eq!(subject.resolve(with_other_owner(record.lease()), resolution).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
        }
    }
}

/// If a renewal and a resolution arrive at the same moment, either the run continues or it is resolved.
pub async fn renewal_or_resolution_applies(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for round in 0..50 {
        let (claim, record) = subject.in_phase(Phase::Unknown, &format!("key-{round}")).await;
        let (lease, terms) = (record.lease(), claim.terms);
        let (one, other) = (subject.store.clone(), harness.connect().await);
        let renewing = tokio::spawn(async move { one.renew(lease, terms, None).await.expect("the store renews") });
        let resolving =
            tokio::spawn(async move { other.resolve(lease, NEVER_HAPPENED).await.expect("the store resolves") });
        let (renewed, resolved) = (renewing.await.expect("no panic"), resolving.await.expect("no panic"));
        let phase = subject.phase(claim.id()).await;
        match (renewed, resolved) {
            (Applied::Applied(_), Applied::Lost) => assert_eq!(phase, Phase::Running),
            (Applied::Lost, Applied::Applied(_)) => assert_eq!(phase, Phase::Free),
            both => panic!("one of them applies, and not the other: {both:?}"),
        }
    }
}
