//! What becomes of a run whose lease has ended.

use bytes::Bytes;

use super::Harness;
use super::fixture::{LEASE, MS, Subject, YEARS, again, at_most_once, completion, fenced, notes, reused};
use crate::machine::{Claim, End, Phase, Terms};
use crate::{Epoch, Guarantee, State};

/// The same request takes over at the instant at which the lease ends, and not 1 ms before.
pub async fn lease_is_taken_over_at_its_end(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE - MS).await;
    assert_eq!(subject.lose(&again(&claim)).await, record);
    subject.advance(MS).await;
    let takeover = again(&claim);
    let taken = subject.win(&takeover).await;
    assert_eq!(taken.owner, takeover.owner);
    assert_eq!(subject.record(claim.id()).await, taken);
}

/// Long after the lease has ended, it is still only the same request that takes over.
pub async fn only_the_same_request_takes_over(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let _ = subject.win(&claim).await;
    subject.advance(LEASE * 10).await;
    let _ = subject.lose(&reused(&claim)).await;
    let _ = subject.win(&again(&claim)).await;
}

/// Every takeover has the next epoch and the next attempt number; the time of the first claim stays.
pub async fn takeovers_count_epochs_and_attempts(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let first = subject.win(&claim).await;
    for attempt in 2..=20 {
        subject.advance(LEASE).await;
        let record = subject.win(&again(&claim)).await;
        assert_eq!((record.epoch, record.attempt), (Epoch::from_u64(attempt.into()), attempt));
        assert_eq!(record.created_at, first.created_at);
        assert_eq!(record.takeover_at, Some(subject.now().await + LEASE));
    }
}

/// The run that takes over finds the steps of earlier attempts.
pub async fn notes_survive_a_takeover(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.note(record.lease(), "charge", "paid").await).await;
    subject.advance(LEASE).await;
    let taken = subject.win(&again(&claim)).await;
    assert_eq!(notes(&taken).steps, [("charge".to_owned(), Bytes::from_static(b"paid"))]);
    subject.assert_applied(subject.note(taken.lease(), "mail", "sent").await).await;
    subject.advance(LEASE).await;
    let steps = notes(&subject.win(&again(&claim)).await).steps.clone();
    assert_eq!(steps.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["charge", "mail"]);
}

/// A renewed lease is taken over at its new end, and not at its old one.
pub async fn renewal_postpones_the_takeover(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE / 3).await;
    subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;
    subject.advance(LEASE - MS).await;
    let _ = subject.lose(&again(&claim)).await;
    subject.advance(MS).await;
    let _ = subject.win(&again(&claim)).await;
}

/// A run that must not happen twice is never taken over, and its outcome is unknown from the end of the lease.
pub async fn at_most_once_is_never_taken_over(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = at_most_once("key");
    let record = subject.win(&claim).await;
    assert_eq!((record.takeover_at, record.free_at), (None, None));
    subject.advance(LEASE - MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Running);
    subject.advance(MS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Unknown);
    assert_eq!(subject.lose(&again(&claim)).await, record);
    subject.advance(YEARS).await;
    assert_eq!(subject.phase(claim.id()).await, Phase::Unknown);
    assert_eq!(subject.lose(&again(&claim)).await, record);
}

/// A takeover has the terms and the guarantee of the claim that takes over.
pub async fn takeover_is_on_its_own_terms(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let _ = subject.win(&claim).await;
    subject.advance(LEASE).await;
    let terms = Terms { lease: LEASE * 2, takeover: None, free: None };
    let taken = subject.win(&Claim { guarantee: Guarantee::AtMostOnce, terms, ..again(&claim) }).await;
    assert_eq!((taken.guarantee, taken.takeover_at, taken.free_at), (Guarantee::AtMostOnce, None, None));
    let end = subject.now().await + LEASE * 2;
    assert!(matches!(taken.state, State::Running { lease_ends_at, .. } if lease_ends_at == end));
}

/// The run that took over completes; the previous one does not.
pub async fn winner_of_a_takeover_completes(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let late = subject.win(&claim).await;
    subject.advance(LEASE).await;
    let winner = subject.win(&again(&claim)).await;
    let lost = subject.complete(late.lease(), completion("late")).await;
    assert_eq!(lost, crate::store::Applied::Lost);
    subject.assert_applied(subject.complete(winner.lease(), completion("winner")).await).await;
}

/// An epoch is higher than all earlier ones, over takeovers, retries and the end of the tombstone.
pub async fn epochs_only_rise(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let mut record = subject.win(&claim).await;
    for round in 0..12 {
        match round % 4 {
            0 => subject.advance(LEASE).await,
            1 => subject.assert_applied(subject.release(record.lease(), End::Retry(LEASE)).await).await,
            2 => {
                subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
                subject.advance(YEARS).await;
            }
            _ => subject.advance(YEARS).await,
        }
        let next = subject.win(&again(&claim)).await;
        assert!(next.epoch > record.epoch, "round {round}");
        record = next;
    }
}
