//! A sweep removes everything that is due, and nothing else.

use super::Harness;
use super::fixture::{
    LEASE, MS, RETENTION, Subject, TOMBSTONE, YEARS, again, at_most_once, completion, fenced, outcome, reused, scope,
};
use crate::machine::{End, Phase};
use crate::store::Swept;
use crate::{Record, State};

const ALL: usize = 1_000;

async fn completed(subject: &Subject<'_>, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for at in 0..count {
        let claim = fenced(&format!("key-{at}"));
        let record = subject.win(&claim).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
        records.push(subject.record(claim.id()).await);
    }
    records
}

/// An empty store has nothing to sweep.
pub async fn empty_store_has_nothing_to_sweep(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    assert_eq!(subject.sweep(ALL).await, Swept::default());
}

/// An answer is removed at the instant at which its retention ends, not 1 ms before, and its record stays.
pub async fn answer_is_buried_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(RETENTION - MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    assert_eq!(subject.record(claim.id()).await, record);
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 1, removed: 0, more: false });
    let State::Completed { expires_at, .. } = record.state else { panic!("the record is completed") };
    let tombstone = Record { state: State::Completed { outcome: None, expires_at }, ..record };
    assert_eq!(subject.record(claim.id()).await, tombstone);
}

/// A tombstone is removed at the instant at which it ends, and not 1 ms before.
pub async fn tombstone_is_removed_at_the_instant(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Tombstone, "key").await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 1, removed: 0, more: false });
    subject.advance(TOMBSTONE - MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    let _ = subject.record(claim.id()).await;
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A record past its tombstone is removed at once, even if it was never turned into a tombstone.
pub async fn unburied_record_is_removed_at_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Completed, "key").await;
    subject.advance(RETENTION + TOMBSTONE).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A tombstone without its answer still holds the key, against the same request and any other.
pub async fn buried_tombstone_holds_its_key(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(Phase::Tombstone, "key").await;
    assert_eq!(subject.sweep(ALL).await.tombstoned, 1);
    for claim in [again(&claim), reused(&claim)] {
        assert_eq!(outcome(&subject.lose(&claim).await), None);
    }
    subject.advance(TOMBSTONE - MS).await;
    let _ = subject.lose(&again(&claim)).await;
    subject.advance(MS).await;
    let _ = subject.win(&again(&claim)).await;
}

/// A current run stays, and so does one whose lease has ended, until it is free for anyone.
pub async fn running_record_is_never_swept(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    let free_at = record.free_at.expect("a fenced run is free at some time");
    for wait in [LEASE - MS, MS, LEASE * 10] {
        subject.advance(wait).await;
        assert_eq!(subject.sweep(ALL).await, Swept::default());
        assert_eq!(subject.record(claim.id()).await, record);
    }
    subject.advance(subject.now().await.until(free_at) - MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
    assert_eq!(subject.read(claim.id()).await, None);
}

/// A renewed run is not swept at the time that its first lease would have allowed.
pub async fn renewed_record_is_never_swept(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    let free_at = record.free_at.expect("a fenced run is free at some time");
    subject.advance(subject.now().await.until(free_at) - MS).await;
    subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    assert_eq!(subject.phase(claim.id()).await, Phase::Running);
}

/// What must not run twice is never swept before it is completed, however old it is.
pub async fn unknown_record_is_never_swept(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = at_most_once("key");
    let record = subject.win(&claim).await;
    subject.advance(YEARS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    assert_eq!(subject.record(claim.id()).await, record);
    subject.assert_applied(subject.complete(record.lease(), completion("resolved")).await).await;
    subject.advance(RETENTION + TOMBSTONE).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
}

/// A key that waited for a retry in vain is removed.
pub async fn retry_that_never_came_is_swept(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claim = fenced("key");
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.release(record.lease(), End::Retry(LEASE)).await).await;
    subject.advance(LEASE - MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept::default());
    subject.advance(MS).await;
    assert_eq!(subject.sweep(ALL).await, Swept { tombstoned: 0, removed: 1, more: false });
}

/// A sweep changes at most `limit` records, repeated sweeps change the rest, and none is changed twice.
pub async fn sweep_keeps_to_its_limit(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let records = completed(&subject, 25).await;
    subject.advance(RETENTION).await;
    for expected in [10, 10, 5, 0] {
        assert_eq!(subject.sweep(10).await, Swept { tombstoned: expected, removed: 0, more: expected == 10 });
    }
    subject.assert_counted(scope("caller"), 100, 25).await;
    subject.advance(TOMBSTONE).await;
    for expected in [7, 7, 7, 4, 0] {
        assert_eq!(subject.sweep(7).await, Swept { tombstoned: 0, removed: expected, more: expected == 7 });
    }
    for record in records {
        assert_eq!(subject.read(record.id()).await, None);
    }
}

/// A sweep with a limit of zero changes nothing.
pub async fn sweep_of_nothing_changes_nothing(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let records = completed(&subject, 3).await;
    subject.advance(RETENTION).await;
    assert_eq!(subject.sweep(0).await, Swept::default());
    for record in records {
        assert_eq!(subject.record(record.id()).await, record);
    }
}

/// One sweep makes tombstones and removes records, and counts each separately.
pub async fn sweep_counts_what_it_did(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let old = completed(&subject, 3).await;
    subject.advance(TOMBSTONE).await;
    let mut young = Vec::new();
    for at in 0..2 {
        let record = subject.win(&fenced(&format!("young-{at}"))).await;
        subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
        young.push(record.id());
    }
    let running = subject.win(&at_most_once("running")).await;
    subject.advance(RETENTION).await;
    let mut swept = Swept::default();
    for _ in 0..3 {
        swept += subject.sweep(4).await;
    }
    assert_eq!(swept, Swept { tombstoned: 2, removed: 3, more: false });
    assert_eq!(subject.read(old[0].id()).await, None);
    assert_eq!(subject.record(running.id()).await, running);
    for id in young {
        assert_eq!(subject.phase(id).await, Phase::Tombstone);
    }
}

/// To sweep while there is more removes everything that is due, whatever the limit, and ends.
pub async fn sweep_says_whether_there_is_more(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let records = completed(&subject, 24).await;
    subject.advance(RETENTION).await;
    for (limit, wait) in [(6, TOMBSTONE), (7, MS)] {
        let mut swept = Swept { more: true, ..Swept::default() };
        while swept.more {
            let next = subject.sweep(limit).await;
            assert!(next.total() > 0 || !next.more, "a sweep that has done nothing is the last");
            swept += next;
        }
        assert_eq!(swept.total(), records.len());
        assert_eq!(subject.sweep(ALL).await, Swept::default());
        subject.advance(wait).await;
    }
    subject.assert_counted(scope("caller"), 100, 0).await;
}
