//! Who wins a key; and a claim that is sent again after a lost reply is recognised.

use super::Harness;
use super::fixture::{
    FREE, LEASE, MS, PHASES, RETENTION, Subject, again, at_most_once, claim_of, completion, fenced, outcome, reused,
};
use crate::machine::{self, Claim, Claimed, Phase};
use crate::{Epoch, Guarantee, Outcome, State};
use std::time::Duration;

/// The first claim of a key wins, and the record says who, what and until when.
pub async fn absent_key_is_won(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    assert_eq!(subject.read(claim.id()).await, None);
    let record = subject.win(&claim).await;

    let now = subject.now().await;
    assert!(record.belongs_to(claim.scope(), claim.key()));
    assert_eq!((record.fingerprint, record.guarantee, record.owner), (claim.fingerprint, claim.guarantee, claim.owner));
    assert_eq!((record.epoch, record.attempt, record.created_at), (Epoch::FIRST, 1, now));
    assert_eq!(record.takeover_at, claim.terms.takeover.map(|span| now + span));
    assert_eq!(record.free_at, claim.terms.free.map(|span| now + span));
    assert!(matches!(record.state, State::Running { lease_ends_at, .. } if lease_ends_at == now + LEASE));
    assert_eq!(Claimed::Won(record), machine::claim(None, &claim, now));
}

/// What a claim returned is what every reader finds, on other handles too.
pub async fn won_record_is_what_is_read(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    for guarantee in [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce] {
        let claim = claim_of(guarantee, &format!("{guarantee:?}"));
        let record = subject.win(&claim).await;
        assert_eq!(subject.record(claim.id()).await, record);
        let read = elsewhere.read(claim.id()).await.expect("the other handle reads");
        assert_eq!(read.value, Some(record));
        assert_eq!(read.now, subject.now().await);
    }
}

/// A claim returns the store's time.
pub async fn claim_tells_the_time_of_the_store(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let won = subject.store.claim(claim.clone()).await.expect("the store claims");
    assert_eq!(won.now, subject.now().await);
    subject.advance(MS).await;
    let held = subject.store.claim(again(&claim)).await.expect("the store claims");
    assert_eq!(held.now, won.now + MS);
    assert_eq!(held.now, subject.now().await);
}

/// During a run, its key is held against the same request.
pub async fn running_key_is_held(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    assert_eq!(subject.lose(&again(&claim)).await, record);
    let elsewhere = harness.connect().await;
    let claimed = elsewhere.claim(again(&claim)).await.expect("the other handle claims").value;
    assert_eq!(claimed, Claimed::Held(record));
}

/// A claim whose reply was lost, sent again, is the claim that won, and changes nothing.
pub async fn repeated_claim_is_ours(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for claim in [fenced("fenced"), at_most_once("at-most-once")] {
        let record = subject.win(&claim).await;
        assert_eq!(subject.win(&claim).await, record);
        assert_eq!(subject.record(claim.id()).await, record);
    }
}

/// A claim sent again later does not get a longer lease than the first reply stated.
pub async fn repeated_claim_keeps_its_lease(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.advance(LEASE - MS).await;
    assert_eq!(subject.win(&claim).await, record);
    assert_eq!(subject.record(claim.id()).await, record);
}

/// A claim sent again when its lease has ended is still ours, if nobody has taken over.
pub async fn repeated_claim_after_its_lease_is_ours(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claims = [fenced("fenced"), at_most_once("at-most-once")];
    let records = [subject.win(&claims[0]).await, subject.win(&claims[1]).await];
    subject.advance(LEASE + MS).await;
    for (claim, record) in claims.iter().zip(records) {
        assert_eq!(subject.win(claim).await, record);
    }
}

/// A claim sent again after someone took over is not ours any more.
pub async fn repeated_claim_after_takeover_is_held(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let _ = subject.win(&claim).await;
    subject.advance(LEASE).await;
    let winner = subject.win(&again(&claim)).await;
    assert_eq!(subject.lose(&claim).await, winner);
}

/// A claim sent again after the run completed is answered, and not won: the run is over.
pub async fn repeated_claim_after_completion_is_held(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    let held = subject.lose(&claim).await;
    assert_eq!(outcome(&held), Some(&Outcome::bytes("answer")));
    subject.advance(RETENTION).await;
    let _ = subject.lose(&claim).await;
}

/// A claim sent again after the key was released is a new claim.
pub async fn repeated_claim_after_release_runs_anew(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), FREE).await).await;
    subject.advance(MS).await;
    assert_eq!(subject.win(&claim).await.created_at, subject.now().await);
}

/// A completed record is returned with its answer, to the same request from anyone.
pub async fn completed_key_is_held_with_its_answer(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    let held = subject.lose(&again(&claim)).await;
    assert_eq!(outcome(&held), Some(&Outcome::bytes("answer")));
    assert_eq!(held.lease(), record.lease());
}

async fn reused_key_is_held(harness: &dyn Harness, phase: Phase) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(phase, "key").await;
    assert_eq!(subject.lose(&reused(&claim)).await, record);
    let read = subject.store.read(claim.id()).await.expect("the store reads");
    let decision = machine::decide(read.value.as_ref(), reused(&claim).fingerprint, read.now);
    assert_eq!(decision, machine::Decision::Mismatch);
}

/// Another request never wins the key of a current run.
pub async fn reused_key_is_held_while_running(harness: &dyn Harness) {
    reused_key_is_held(harness, Phase::Running).await;
}

/// Another request never takes over.
pub async fn reused_key_is_held_while_abandoned(harness: &dyn Harness) {
    reused_key_is_held(harness, Phase::Abandoned).await;
}

/// Another request never wins a key whose outcome is not known.
pub async fn reused_key_is_held_while_unknown(harness: &dyn Harness) {
    reused_key_is_held(harness, Phase::Unknown).await;
}

/// Another request never wins a completed key.
pub async fn reused_key_is_held_when_completed(harness: &dyn Harness) {
    reused_key_is_held(harness, Phase::Completed).await;
}

/// Another request never wins a key before its tombstone ends.
pub async fn reused_key_is_held_by_a_tombstone(harness: &dyn Harness) {
    reused_key_is_held(harness, Phase::Tombstone).await;
}

/// Another request that happens to have the owner token of a finished run does not win with it.
pub async fn token_of_a_finished_run_wins_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    let reused = Claim { owner: record.owner, ..reused(&claim) };
    assert_eq!(subject.lose(&reused).await, record);
}

/// Any request wins a free key, whatever record is still stored there.
pub async fn free_key_is_won_by_another_request(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Free, "key").await;
    let reused = reused(&claim);
    let record = subject.win(&reused).await;
    assert_eq!(record.fingerprint, reused.fingerprint);
    assert_eq!(subject.record(claim.id()).await, record);
}

/// A claim gets its own terms, whatever they are.
pub async fn terms_are_those_of_the_claim(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let spans = [None, Some(Duration::ZERO), Some(MS), Some(LEASE * 7)];
    let now = subject.now().await;
    for (at, (takeover, free)) in spans.iter().flat_map(|a| spans.iter().map(move |b| (*a, *b))).enumerate() {
        let mut claim = fenced(&format!("key-{at}"));
        claim.terms = machine::Terms { lease: LEASE * 3, takeover, free };
        let record = subject.win(&claim).await;
        assert_eq!(record.takeover_at, takeover.map(|span| now + span));
        assert_eq!(record.free_at, free.map(|span| now + span));
        assert_eq!(subject.record(claim.id()).await, record);
    }
}

/// Every phase in which there is a record holds the key against one more request, except the abandoned one.
pub async fn only_an_abandoned_key_is_won_by_the_same_request(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let (claim, record) = subject.in_phase(phase, &format!("{phase:?}")).await;
        match phase {
            Phase::Abandoned => assert_eq!(subject.win(&again(&claim)).await.epoch, record.epoch.next()),
            _ => assert_eq!(subject.lose(&again(&claim)).await, record),
        }
    }
}
