//! Runs that nobody is working on are found, and no others.

use super::Harness;
use super::fixture::{
    FREE, LEASE, MS, RETENTION, Subject, TOMBSTONE, again, all_pages, at_most_once, completion, fenced,
};
use crate::Record;
use crate::machine::{End, Phase};
use crate::store::PAGE_RECORDS_MAX;

/// All lapsed runs, read in pages of at most `limit`, in the order of their identities.
async fn lapsed(subject: &Subject<'_>, limit: usize) -> Vec<Record> {
    let read = async |after| subject.store.lapsed(after, limit).await.map(|page| page.value);
    let mut records = all_pages(limit, read).await.expect("the store lists");
    records.sort_by_key(Record::id);
    records
}

/// A run is found from the instant at which its lease ends, and not 1 ms before, whether or not it may run again.
pub async fn run_lapses_at_the_end_of_its_lease(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    assert!(lapsed(&subject, 10).await.is_empty());
    let mut running = vec![subject.win(&fenced("fenced")).await, subject.win(&at_most_once("at-most-once")).await];
    running.sort_by_key(Record::id);
    subject.advance(LEASE - MS).await;
    assert!(lapsed(&subject, 10).await.is_empty());
    subject.advance(MS).await;
    assert_eq!(lapsed(&subject, 10).await, running);
    let listed = subject.store.lapsed(None, 10).await.expect("the store lists");
    assert_eq!(listed.now, subject.now().await);
}

/// A renewed run lapses at its new end.
pub async fn renewed_run_lapses_at_its_new_end(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, record) = subject.in_phase(Phase::Abandoned, "key").await;
    assert_eq!(lapsed(&subject, 10).await.len(), 1);
    subject.assert_applied(subject.renew(record.lease(), claim.terms).await).await;
    assert!(lapsed(&subject, 10).await.is_empty());
    subject.advance(LEASE).await;
    assert_eq!(lapsed(&subject, 10).await.len(), 1);
}

/// Of everything in the store, only running records whose lease has ended are found: not what is completed, taken over
/// or gone, and what was released at once.
pub async fn only_lapsed_runs_are_found(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let [completed, late, taken, freed, unknown, retried] =
        ["completed", "late", "taken", "freed", "unknown", "retried"].map(fenced);
    let record = subject.win(&completed).await;
    subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
    let [late_lease, _, freed_lease] =
        [subject.win(&late).await.lease(), subject.win(&taken).await.lease(), subject.win(&freed).await.lease()];
    subject.advance(LEASE).await;
    assert_eq!(lapsed(&subject, 10).await.len(), 3);

    subject.assert_applied(subject.complete(late_lease, completion("late")).await).await;
    let _ = subject.win(&again(&taken)).await;
    subject.assert_applied(subject.release(freed_lease, FREE).await).await;
    for (claim, end) in [(&unknown, End::Unknown), (&retried, End::Retry(LEASE))] {
        let lease = subject.win(claim).await.lease();
        subject.assert_applied(subject.release(lease, end).await).await;
    }
    let mut expected = vec![subject.record(unknown.id()).await, subject.record(retried.id()).await];
    expected.sort_by_key(Record::id);
    assert_eq!(lapsed(&subject, 10).await, expected);

    subject.advance(RETENTION + TOMBSTONE + LEASE).await;
    while subject.sweep(10).await.total() > 0 {}
    assert_eq!(lapsed(&subject, 10).await, [subject.record(unknown.id()).await]);
}

/// Pages show every lapsed run once, whatever their size.
pub async fn pages_show_every_lapsed_run_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let mut all = Vec::new();
    for at in 0..30 {
        all.push(subject.win(&at_most_once(&format!("lapsed-{at}"))).await);
    }
    subject.advance(LEASE).await;
    for at in 0..30 {
        let _ = subject.win(&fenced(&format!("running-{at}"))).await;
    }
    all.sort_by_key(Record::id);
    for limit in [1, 7, 30, 31, PAGE_RECORDS_MAX] {
        assert_eq!(lapsed(&subject, limit).await, all, "pages of {limit}");
    }
    assert!(lapsed(&subject, 0).await.is_empty());
}

/// A page of lapsed runs is never longer than the longest page, whatever it asks for.
pub async fn page_of_lapsed_runs_is_never_too_long(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for at in 0..PAGE_RECORDS_MAX + 3 {
        let _ = subject.win(&fenced(&format!("key-{at}"))).await;
    }
    subject.advance(LEASE).await;
    let read = async |after| subject.store.lapsed(after, usize::MAX).await.map(|page| page.value);
    let all = all_pages(PAGE_RECORDS_MAX, read).await.expect("the store lists");
    assert_eq!(all.len(), PAGE_RECORDS_MAX + 3);
}
