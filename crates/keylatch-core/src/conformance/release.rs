//! How a run ends without an outcome.

use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, MS, PHASES, Subject, TOMBSTONE, YEARS, again, at_most_once, completion, fenced, notes, outcome,
    reused, with_other_owner, with_stale_epoch,
};
use crate::machine::{End, Phase};
use crate::store::Applied;
use crate::{Outcome, Record, State};

const ENDS: [End; 4] = [FREE, GONE, End::Retry(LEASE), End::Unknown];

/// A released key is free at once, for any request, and only the epoch of its run is left.
pub async fn freed_key_is_won_by_anyone(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for (end, key) in [(FREE, "freed"), (GONE, "gone")] {
        let claim = fenced(key);
        let first = subject.win(&claim).await;
        subject.assert_applied(subject.note(first.lease(), "charge", "paid").await).await;
        subject.assert_applied(subject.release(first.lease(), end).await).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Free);
        subject.advance(MS).await;
        let record = subject.win(&reused(&claim)).await;
        assert_eq!((record.attempt, record.created_at), (1, subject.now().await));
        assert!(notes(&record).steps.is_empty());
    }
}

/// Of a freed record only the epoch stays: everything else of its run is removed.
pub async fn freed_record_is_an_epoch(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for claim in [fenced("fenced"), at_most_once("once")] {
        let record = subject.win(&claim).await;
        subject.assert_applied(subject.note(record.lease(), "charge", "paid").await).await;
        subject.advance(MS).await;
        subject.assert_applied(subject.release(record.lease(), FREE).await).await;
        let now = subject.now().await;
        let state = State::Completed { outcome: None, expires_at: now + TOMBSTONE };
        let expected = Record { takeover_at: None, free_at: Some(now), state, ..record };
        assert_eq!(subject.record(claim.id()).await, expected);
    }
    let gone = fenced("gone");
    let record = subject.win(&gone).await;
    subject.assert_applied(subject.release(record.lease(), GONE).await).await;
    assert_eq!(subject.read(gone.id()).await, None, "an epoch that need not be kept is not");
}

/// As long as the epoch of a freed key is kept, a claim gets a higher one, whoever makes it, and even after sweeps.
pub async fn freed_key_keeps_its_epoch(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let mut record = subject.win(&claim).await;
    for (round, wait) in [Duration::ZERO, MS, TOMBSTONE - MS].into_iter().enumerate() {
        subject.assert_applied(subject.release(record.lease(), FREE).await).await;
        subject.advance(wait).await;
        assert_eq!(subject.sweep(10).await.total(), 0, "round {round}");
        let next = subject.win(&if round == 1 { reused(&claim) } else { again(&claim) }).await;
        assert_eq!((next.epoch, next.attempt), (record.epoch.next(), 1), "round {round}");
        record = next;
    }
    // Even if the claim that wins it ends in the same way, and its lease has ended meanwhile.
    subject.advance(LEASE).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    assert_eq!(subject.win(&again(&claim)).await.epoch, record.epoch.next());
}

/// A sweep removes a freed record when its epoch need not be kept any more, and not 1 ms before.
pub async fn freed_record_goes_in_the_end(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    let freed = subject.record(claim.id()).await;
    subject.advance(TOMBSTONE - MS).await;
    assert_eq!(subject.sweep(10).await.total(), 0);
    assert_eq!(subject.record(claim.id()).await, freed);
    subject.advance(MS).await;
    assert_eq!(subject.sweep(10).await.removed, 1);
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A key can be released even if nobody may take over: its owner knows that nothing happened.
pub async fn at_most_once_is_freed(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = at_most_once("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    let _ = subject.win(&again(&claim)).await;
}

/// A run that failed is run again at once by the same request, with the next epoch and the steps so far.
pub async fn retry_runs_at_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.note(record.lease(), "charge", "paid").await).await;
    subject.assert_applied(subject.release(record.lease(), End::Retry(LEASE)).await).await;
    let retried = subject.win(&again(&claim)).await;
    assert_eq!((retried.epoch, retried.attempt), (record.epoch.next(), 2));
    assert_eq!(retried.created_at, record.created_at);
    assert_eq!(notes(&retried).steps, [("charge".to_owned(), Bytes::from_static(b"paid"))]);
}

/// A key that waits for its retry is held against other requests until the wait is over: then anyone may claim it.
pub async fn retry_is_waited_for_and_no_longer(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), End::Retry(LEASE)).await).await;
    let _ = subject.lose(&reused(&claim)).await;
    subject.advance(LEASE - MS).await;
    let _ = subject.lose(&reused(&claim)).await;
    subject.advance(MS).await;
    let won = subject.win(&reused(&claim)).await;
    assert_eq!((won.epoch, won.attempt), (record.epoch.next(), 1));
}

/// A run with an unknown outcome holds its key for ever, in every guarantee.
pub async fn unknown_is_held_for_good(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for claim in [fenced("fenced"), at_most_once("at-most-once")] {
        let record = subject.win(&claim).await;
        subject.assert_applied(subject.release(record.lease(), End::Unknown).await).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Unknown);
        let _ = subject.lose(&again(&claim)).await;
        subject.advance(YEARS).await;
        assert_eq!(subject.phase(claim.id()).await, Phase::Unknown);
        let _ = subject.lose(&again(&claim)).await;
        let _ = subject.lose(&reused(&claim)).await;
        assert_eq!(subject.sweep(10).await.total(), 0);
    }
}

/// Freeing a key again finds nothing to free, and does not affect its next owner.
pub async fn repeated_release_frees_nothing_else(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    assert_eq!(subject.release(record.lease(), FREE).await, Applied::Lost);
    let next = subject.win(&again(&claim)).await;
    for end in ENDS {
        assert_eq!(subject.release(record.lease(), end).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, next);
    }
}

/// A late owner releases its key, if nobody has taken over.
pub async fn late_owner_releases(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Abandoned, "key").await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Free);
}

/// Once someone has taken over, the old owner's release changes nothing.
pub async fn release_after_takeover_is_lost(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, late) = subject.in_phase(Phase::Abandoned, "key").await;
    let winner = subject.win(&again(&claim)).await;
    for end in ENDS {
        assert_eq!(subject.release(late.lease(), end).await, Applied::Lost);
        assert_eq!(subject.record(claim.id()).await, winner);
    }
}

/// A final outcome is never released.
pub async fn completed_record_is_not_released(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in [Phase::Completed, Phase::Tombstone] {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for end in ENDS {
            assert_eq!(subject.release(record.lease(), end).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record);
        }
    }
}

/// With an old epoch, a release changes nothing, in any phase.
pub async fn stale_epoch_releases_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for end in ENDS {
            assert_eq!(subject.release(with_stale_epoch(record.lease()), end).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
        }
    }
}

/// With another owner's token, a release changes nothing, in any phase.
pub async fn other_owner_releases_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        for end in ENDS {
            assert_eq!(subject.release(with_other_owner(record.lease()), end).await, Applied::Lost);
            assert_eq!(subject.record(claim.id()).await, record, "{phase:?}");
        }
    }
}

/// A release without a record does not create one.
pub async fn absent_record_is_not_released(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.release(lease, GONE).await).await;
    for end in ENDS {
        assert_eq!(subject.release(lease, end).await, Applied::Lost);
        assert_eq!(subject.read(claim.id()).await, None);
    }
}

/// A retry completes like any run, and the answer is the retry's.
pub async fn retry_completes(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let first = subject.win(&claim).await;
    subject.assert_applied(subject.release(first.lease(), End::Retry(LEASE)).await).await;
    let second = subject.win(&again(&claim)).await;
    assert_eq!(subject.complete(first.lease(), completion("first")).await, Applied::Lost);
    subject.assert_applied(subject.complete(second.lease(), completion("second")).await).await;
    assert_eq!(outcome(&subject.record(claim.id()).await), Some(&Outcome::bytes("second")));
}
