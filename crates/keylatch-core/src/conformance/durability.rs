//! An acknowledged write survives what the store claims that it survives.

use super::Harness;
use super::fixture::{FREE, GONE, LEASE, MS, Subject, again, at_most_once, completion, fenced, outcome};
use crate::machine::{Claimed, End};
use crate::store::Durability;
use crate::{Outcome, Record};

/// Restarts the store and returns it, with `records` unchanged, if its durability claims that they survive. A store
/// that lives in the process must have forgotten them: then there is nothing more to test.
async fn restarted<'h>(subject: Subject<'h>, records: &[Record]) -> Option<Subject<'h>> {
    let Subject { harness, store } = subject;
    let durability = store.durability();
    drop(store);
    let restarted = Subject { harness, store: harness.restart().await };
    assert_eq!(restarted.store.durability(), durability);
    let survives = durability > Durability::Process;
    for record in records {
        assert_eq!(restarted.read(record.id()).await, survives.then(|| record.clone()));
    }
    survives.then_some(restarted)
}

/// A completed record survives, with its answer.
pub async fn completed_record_survives(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    let record = subject.record(claim.id()).await;
    if let Some(subject) = restarted(subject, &[record]).await {
        assert_eq!(outcome(&subject.lose(&again(&claim)).await), Some(&Outcome::bytes("answer")));
    }
}

/// A running record survives: it holds its key, is recognised by its owner, and is taken over in time.
pub async fn running_record_survives(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claims = [fenced("fenced"), at_most_once("at-most-once")];
    let mut records = [subject.win(&claims[0]).await, subject.win(&claims[1]).await];
    subject.assert_applied(subject.note(records[0].lease(), "charge", "paid").await).await;
    records[0] = subject.record(claims[0].id()).await;
    if let Some(subject) = restarted(subject, &records).await {
        subject.advance(LEASE - MS).await;
        for (claim, record) in claims.iter().zip(&records) {
            assert_eq!(subject.lose(&again(claim)).await, *record);
            assert_eq!(subject.win(claim).await, *record);
        }
        subject.advance(MS).await;
        assert_eq!(subject.win(&again(&claims[0])).await.epoch, records[0].epoch.next());
        let _ = subject.lose(&again(&claims[1])).await;
    }
}

/// What was released or removed does not come back, and an unknown outcome stays unknown.
pub async fn ends_of_runs_survive(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let [freed, unknown, retried] = ["freed", "unknown", "retried"].map(fenced);
    for (claim, end) in [(&freed, FREE), (&unknown, End::Unknown), (&retried, End::Retry(LEASE))] {
        let record = subject.win(claim).await;
        subject.assert_applied(subject.release(record.lease(), end).await).await;
    }
    let gone = subject.win(&fenced("gone")).await;
    subject.assert_applied(subject.release(gone.lease(), GONE).await).await;
    let kept = [freed.id(), unknown.id(), retried.id()];
    let kept = [subject.record(kept[0]).await, subject.record(kept[1]).await, subject.record(kept[2]).await];
    if let Some(subject) = restarted(subject, &kept).await {
        assert_eq!(subject.read(gone.id()).await, None);
        assert_eq!(subject.win(&again(&freed)).await.epoch, kept[0].epoch.next());
        let _ = subject.lose(&again(&unknown)).await;
        assert_eq!(subject.win(&again(&retried)).await.attempt, 2);
    }
}

/// An answer that was taken away does not come back, and its tombstone stays.
pub async fn forgotten_answer_stays_forgotten(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let lease = subject.win(&claim).await.lease();
    subject.assert_applied(subject.complete(lease, completion("answer")).await).await;
    subject.assert_applied(subject.forget(lease).await).await;
    let forgotten = subject.record(claim.id()).await;
    if let Some(subject) = restarted(subject, &[forgotten]).await {
        assert_eq!(outcome(&subject.lose(&again(&claim)).await), None);
    }
}

/// Many writes that were acknowledged at once all survive.
pub async fn every_acknowledged_write_survives(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let calls = (0..200).map(|at| {
        let store = subject.store.clone();
        async move {
            let claimed = store.claim(fenced(&format!("key-{at}"))).await.expect("the store claims").value;
            let Claimed::Won(record) = claimed else { panic!("nobody else claims this key") };
            record
        }
    });
    let records = futures_util::future::join_all(calls).await;
    if let Some(subject) = restarted(subject, &records).await {
        subject.assert_counted(records[0].scope.clone(), u64::MAX, 200).await;
    }
}

/// A lease continues over a restart: the clock does not start anew.
pub async fn clock_goes_on(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    subject.advance(LEASE).await;
    let before = subject.now().await;
    if let Some(subject) = restarted(subject, &[]).await {
        assert!(subject.now().await >= before);
    }
}
