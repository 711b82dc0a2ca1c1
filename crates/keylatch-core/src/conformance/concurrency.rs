//! With many writers at once, each write is one step.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, POLICY, RETENTION, Subject, TOMBSTONE, YEARS, again, completion, fenced, notes, outcome, reused,
    scope,
};
use crate::machine::{Claim, Claimed, Completion, Phase, Terms};
use crate::store::{Applied, Count, Store};
use crate::{Epoch, Guarantee, Outcome, Record};

/// Runs all of `calls` at once, each in its own task.
async fn at_once<T: Send + 'static>(
    calls: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: JoinSet<T> = calls.into_iter().collect();
    tasks.join_all().await
}

/// Sends all of `claims` at once, spread over `stores`, and returns the one winner.
async fn one_winner(stores: &[Arc<dyn Store>], claims: Vec<Claim>) -> Record {
    let calls = claims.into_iter().enumerate().map(|(at, claim)| {
        let store = stores[at % stores.len()].clone();
        async move { store.claim(claim).await.expect("the store claims").value }
    });
    let (mut won, mut held) = (Vec::new(), Vec::new());
    for claimed in at_once(calls).await {
        match claimed {
            Claimed::Won(record) => won.push(record),
            Claimed::Held(record) => held.push(record),
        }
    }
    let [winner] = <[Record; 1]>::try_from(won).expect("exactly one claim wins");
    assert!(held.iter().all(|record| *record == winner), "all others find the winner's record");
    winner
}

/// Of 64 claims of one key at once, one wins, over 1,000 rounds and two handles.
pub async fn one_of_64_claims_wins_a_thousand_times(harness: &dyn Harness) {
    let stores = [harness.store(), harness.connect().await];
    for round in 0..1_000 {
        let claim = fenced(&format!("key-{round}"));
        let winner = one_winner(&stores, (0..64).map(|_| again(&claim)).collect()).await;
        assert_eq!(winner.epoch, Epoch::FIRST);
    }
}

/// Of claims for two requests under one key at once, one wins.
pub async fn one_of_two_requests_wins(harness: &dyn Harness) {
    let stores = [harness.store(), harness.connect().await];
    for round in 0..100 {
        let claim = fenced(&format!("key-{round}"));
        let claims = (0..16).map(|at| if at % 2 == 0 { again(&claim) } else { reused(&claim) });
        let _ = one_winner(&stores, claims.collect()).await;
    }
}

/// Of many takeovers at once, one wins.
pub async fn one_of_many_takes_over(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let stores = [harness.store(), harness.connect().await];
    let claim = fenced("key");
    let mut record = subject.win(&claim).await;
    for _ in 0..100 {
        subject.advance(LEASE).await;
        let winner = one_winner(&stores, (0..16).map(|_| again(&claim)).collect()).await;
        assert_eq!(winner.epoch, record.epoch.next());
        record = winner;
    }
}

/// Of many claims of a key that has become free, one wins, whatever the request.
pub async fn one_of_many_has_a_free_key(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let stores = [harness.store(), harness.connect().await];
    let claim = fenced("key");
    let mut record = subject.win(&claim).await;
    for _ in 0..100 {
        subject.advance(YEARS / 1_000).await;
        let claims = (0..16).map(|at| if at % 2 == 0 { again(&claim) } else { reused(&claim) });
        let winner = one_winner(&stores, claims.collect()).await;
        assert_eq!((winner.epoch, winner.attempt), (record.epoch.next(), 1));
        record = winner;
    }
}

/// One claim sent many times at once is won each time, and is one claim.
pub async fn one_claim_sent_often_is_one_claim(harness: &dyn Harness) {
    let stores = [harness.store(), harness.connect().await];
    for round in 0..50 {
        let claim = fenced(&format!("key-{round}"));
        let calls = (0..16).map(|at| {
            let (store, claim) = (stores[at % 2].clone(), claim.clone());
            async move { store.claim(claim).await.expect("the store claims").value }
        });
        let claimed: BTreeSet<_> = at_once(calls)
            .await
            .into_iter()
            .map(|claimed| match claimed {
                Claimed::Won(record) => (record.epoch, record.attempt),
                Claimed::Held(record) => panic!("the claim is its own, and is held by {record:?}"),
            })
            .collect();
        assert_eq!(claimed.into_iter().collect::<Vec<_>>(), [(Epoch::FIRST, 1)]);
    }
}

/// Keys do not block each other: all claims of different keys at once win, and all complete.
pub async fn different_keys_all_win(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let calls = (0..500).map(|at| {
        let store = subject.store.clone();
        async move {
            let claim = fenced(&format!("key-{at}"));
            let Claimed::Won(record) = store.claim(claim).await.expect("the store claims").value else {
                panic!("nobody else claims this key");
            };
            let outcome = Outcome::bytes(format!("answer {at}"));
            let completion = Completion::new(outcome.clone(), &POLICY);
            let applied = store.complete(record.lease(), completion).await.expect("the store completes");
            assert!(matches!(applied, Applied::Applied(_)));
            (record.id(), outcome)
        }
    });
    for (id, stored) in at_once(calls).await {
        assert_eq!(outcome(&subject.record(id).await), Some(&stored));
    }
    subject.assert_counted(scope("caller"), u64::MAX, 500).await;
}

/// When a late owner completes at the moment of a takeover, exactly one of the two succeeds.
pub async fn completion_or_takeover_applies(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    for round in 0..200 {
        let (claim, late) = subject.in_phase(Phase::Abandoned, &format!("key-{round}")).await;
        let (store, lease) = (subject.store.clone(), late.lease());
        let completing = tokio::spawn(async move { store.complete(lease, completion("late")).await });
        let (store, takeover) = (elsewhere.clone(), again(&claim));
        let taking = tokio::spawn(async move { store.claim(takeover).await });
        let completed = completing.await.expect("the call ends").expect("the store completes");
        let taken = taking.await.expect("the call ends").expect("the store claims").value;
        let record = subject.record(claim.id()).await;
        match (completed, taken) {
            (Applied::Applied(_), Claimed::Held(held)) => {
                assert_eq!(outcome(&held), Some(&Outcome::bytes("late")));
                assert_eq!(record, held);
            }
            (Applied::Lost, Claimed::Won(won)) => assert_eq!(record, won),
            both => panic!("round {round}: completion and takeover exclude each other: {both:?}"),
        }
    }
}

/// When an owner releases a key at the moment of a takeover, the key is taken over or free, never both.
pub async fn release_or_takeover_applies(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for round in 0..200 {
        let (claim, late) = subject.in_phase(Phase::Abandoned, &format!("key-{round}")).await;
        let (store, lease) = (subject.store.clone(), late.lease());
        let end = [FREE, GONE][round % 2];
        let releasing = tokio::spawn(async move { store.release(lease, end).await });
        let (store, takeover) = (subject.store.clone(), again(&claim));
        let taking = tokio::spawn(async move { store.claim(takeover).await });
        let released = releasing.await.expect("the call ends").expect("the store releases");
        let Claimed::Won(won) = taking.await.expect("the call ends").expect("the store claims").value else {
            panic!("an abandoned or a freed key is won");
        };
        // A takeover is the second attempt; a freed key begins anew, with the next epoch if that was kept.
        assert_eq!(won.attempt == 1, matches!(released, Applied::Applied(_)), "round {round}");
        assert_eq!(won.epoch == Epoch::FIRST, won.attempt == 1 && end == GONE, "round {round}");
        assert_eq!(subject.record(claim.id()).await, won, "the late release takes nothing from the winner");
    }
}

/// Of different outcomes written at once by the owner, one stays, and only its writer is told that it is written.
pub async fn one_of_many_outcomes_stays(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for round in 0..50 {
        let claim = fenced(&format!("key-{round}"));
        let lease = subject.win(&claim).await.lease();
        let calls = (0..8).map(|at| {
            let store = subject.store.clone();
            async move {
                let stored = Outcome::bytes(format!("answer {at}"));
                let completion = Completion::new(stored.clone(), &POLICY);
                let applied = store.complete(lease, completion).await.expect("the store completes");
                let record = store.read(lease.id).await.expect("the store reads").value.expect("there is a record");
                (applied, stored, record)
            }
        });
        let seen = at_once(calls).await;
        let record = subject.record(claim.id()).await;
        assert!(seen.iter().all(|(.., seen)| *seen == record), "an outcome never changes");
        let written = seen.iter().filter(|(applied, ..)| *applied != Applied::Lost).map(|(_, stored, _)| Some(stored));
        assert_eq!(written.collect::<Vec<_>>(), [outcome(&record)]);
    }
}

/// Steps noted at once are all noted.
pub async fn steps_noted_at_once_are_all_noted(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    let calls = (0..32).map(|at| {
        let store = subject.store.clone();
        async move {
            let step = (format!("step {at}"), Bytes::from(format!("result {at}")));
            store.renew(lease, Terms::of(Guarantee::Fenced, &POLICY), Some(step)).await.expect("the store renews")
        }
    });
    assert!(at_once(calls).await.iter().all(|applied| matches!(applied, Applied::Applied(_))));
    let noted: BTreeSet<_> = notes(&subject.record(claim.id()).await).steps.iter().cloned().collect();
    assert_eq!(noted, (0..32).map(|at| (format!("step {at}"), format!("result {at}").into())).collect());
}

/// Many sweeps at once remove each record once, and nothing else.
pub async fn many_sweeps_remove_each_record_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    for at in 0..200 {
        let record = subject.win(&fenced(&format!("key-{at}"))).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    }
    for (wait, expected) in [(RETENTION, (200, 0)), (TOMBSTONE, (0, 200))] {
        subject.advance(wait).await;
        let running = subject.win(&fenced("running")).await;
        let calls = (0..8).map(|at| {
            let store = if at % 2 == 0 { subject.store.clone() } else { elsewhere.clone() };
            async move {
                let (mut tombstoned, mut removed) = (0, 0);
                // A sweep may be empty because another one ran at the same time: a few more make sure.
                let mut idle = 0;
                while idle < 3 {
                    let swept = store.sweep(7).await.expect("the store sweeps");
                    assert!(swept.total() <= 7);
                    idle = if swept.total() == 0 { idle + 1 } else { 0 };
                    tombstoned += swept.tombstoned;
                    removed += swept.removed;
                }
                (tombstoned, removed)
            }
        });
        let total = at_once(calls).await.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(total, expected);
        assert_eq!(subject.record(running.id()).await, running);
        subject.assert_applied(subject.release(running.lease(), GONE).await).await;
    }
}

/// A sweep never takes the record of a claim that was won at the same moment.
pub async fn sweep_never_takes_a_new_claim(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for round in 0..200 {
        let (claim, _) = subject.in_phase(Phase::Free, &format!("key-{round}")).await;
        let store = subject.store.clone();
        let sweeping = tokio::spawn(async move { store.sweep(10).await });
        let (store, anew) = (subject.store.clone(), reused(&claim));
        let claiming = tokio::spawn(async move { store.claim(anew).await });
        let _ = sweeping.await.expect("the call ends").expect("the store sweeps");
        let Claimed::Won(won) = claiming.await.expect("the call ends").expect("the store claims").value else {
            panic!("a free key is won");
        };
        assert_eq!(subject.record(claim.id()).await, won, "round {round}");
    }
}

/// Readers do not disturb writers, and see complete records.
pub async fn readers_see_whole_records(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let writing = (0..8).map(|writer| {
        let store = subject.store.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let claim = fenced(&format!("key-{writer}-{round}"));
                let Claimed::Won(record) = store.claim(claim).await.expect("the store claims").value else {
                    panic!("nobody else claims this key");
                };
                let _ = store.complete(record.lease(), completion("answer")).await.expect("the store completes");
            }
        })
    });
    let writing: Vec<_> = writing.collect();
    let mut seen = 0;
    while seen < 8 * 40 {
        let page = subject.list(Some(scope("caller")), 1_000).await.expect("the store lists");
        assert!(page.len() >= seen, "records that were seen stay");
        assert!(page.iter().all(|record| outcome(record).is_none_or(|stored| *stored == Outcome::bytes("answer"))));
        seen = page.len();
        let counted = subject.store.count(scope("caller"), u64::MAX).await.expect("the store counts");
        assert!(matches!(counted, Count::AtLeast(_)) || counted.at_least() >= seen as u64);
    }
    for writer in writing {
        writer.await.expect("every write succeeds");
    }
}
