//! Read access for operators, and the store's clock as a reader sees it.

use std::collections::BTreeSet;

use super::Harness;
use super::fixture::{FREE, GONE, LEASE, MS, PHASES, Subject, again, claim_in, completion, fenced, key, scope};
use crate::store::{PAGE_RECORDS_MAX, PageRequest};
use crate::{Record, RecordId, Scope};

async fn fill(subject: &Subject<'_>, caller: &str, count: usize) -> BTreeSet<RecordId> {
    let mut ids = BTreeSet::new();
    for at in 0..count {
        let claim = claim_in(scope(caller), key(&format!("key-{at}")));
        ids.insert(subject.win(&claim).await.id());
    }
    ids
}

/// Reads page after page, each after the last record of the one before.
async fn pages(subject: &Subject<'_>, scope: Option<&Scope>, limit: usize) -> Vec<Vec<Record>> {
    let mut pages: Vec<Vec<Record>> = Vec::new();
    loop {
        let after = pages.last().and_then(|page| page.last()).map(Record::id);
        let page = subject.list(PageRequest { scope: scope.cloned(), after, limit }).await;
        assert!(page.len() <= limit, "a page keeps to its limit");
        assert!(pages.len() < 1_000, "pages come to an end");
        if page.is_empty() {
            return pages;
        }
        pages.push(page);
    }
}

fn ids(pages: &[Vec<Record>]) -> Vec<RecordId> {
    pages.iter().flatten().map(Record::id).collect()
}

/// A key that was never claimed reads as absent.
pub async fn absent_record_reads_as_absent(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    assert_eq!(subject.read(fenced("key").id()).await, None);
    assert!(pages(&subject, None, 10).await.is_empty());
    assert_eq!(subject.count(scope("caller"), 10).await, 0);
}

/// Pages show every record once, in the order of their identities, whatever their size.
pub async fn pages_show_every_record_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let mut all = BTreeSet::new();
    for caller in ["alice", "bob", "carol"] {
        all.extend(fill(&subject, caller, 20).await);
    }
    let all: Vec<_> = all.into_iter().collect();
    for limit in [1, 7, 20, 59, 60, 61, PAGE_RECORDS_MAX] {
        let pages = pages(&subject, None, limit).await;
        assert_eq!(ids(&pages), all, "pages of {limit}");
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == limit), "only the last page is short");
    }
}

/// Pages of a scope show its records, all of them, and no other's.
pub async fn pages_of_a_scope_show_no_other(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for caller in ["alice", "bob", "carol", "dave"] {
        let own: Vec<_> = fill(&subject, caller, 11).await.into_iter().collect();
        for limit in [1, 4, 11, 12] {
            let pages = pages(&subject, Some(&scope(caller)), limit).await;
            assert_eq!(ids(&pages), own);
            assert!(pages.iter().flatten().all(|record| record.scope == scope(caller)));
        }
    }
    assert!(pages(&subject, Some(&scope("nobody")), 10).await.is_empty());
    let operation = scope("alice").for_operation("POST /orders").expect("a valid operation");
    assert!(pages(&subject, Some(&operation), 10).await.is_empty());
}

/// A page starts after the identity that it names, whether or not that record is still there.
pub async fn page_starts_after_an_identity(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let all: Vec<_> = fill(&subject, "caller", 10).await.into_iter().collect();
    let record = subject.record(all[4]).await;
    subject.assert_applied(subject.release(record.lease(), GONE).await).await;
    let after = |id| PageRequest { scope: None, after: Some(id), limit: 3 };
    assert_eq!(ids(&[subject.list(after(all[4])).await]), all[5..8]);
    assert_eq!(ids(&[subject.list(after(all[3])).await]), all[5..8]);
    assert!(subject.list(after(all[9])).await.is_empty());
    assert_eq!(ids(&[subject.list(after(RecordId::from_bytes([0; 32]))).await]), all[..3]);
    assert!(subject.list(after(RecordId::from_bytes([0xff; 32]))).await.is_empty());
}

/// A page of a scope is right even after an identity of another scope, lower or higher.
pub async fn page_of_a_scope_starts_within_it(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let own: Vec<_> = fill(&subject, "caller", 3).await.into_iter().collect();
    let _ = fill(&subject, "other", 3).await;
    let after =
        |byte| PageRequest { scope: Some(scope("caller")), after: Some(RecordId::from_bytes([byte; 32])), limit: 9 };
    assert_eq!(ids(&[subject.list(after(0)).await]), own);
    assert!(subject.list(after(0xff)).await.is_empty());
}

/// A page of no records is empty.
pub async fn page_of_nothing_is_empty(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let _ = fill(&subject, "caller", 3).await;
    assert!(subject.list(PageRequest::default()).await.is_empty());
    assert!(subject.list(PageRequest { scope: Some(scope("caller")), ..PageRequest::default() }).await.is_empty());
}

/// A page is never longer than the longest page, whatever it asks for.
pub async fn page_is_never_too_long(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let all = fill(&subject, "caller", PAGE_RECORDS_MAX + 5).await;
    let first = subject.list(PageRequest { limit: usize::MAX, ..PageRequest::default() }).await;
    assert_eq!(first.len(), PAGE_RECORDS_MAX);
    let after = first.last().map(Record::id);
    let rest = subject.list(PageRequest { after, limit: usize::MAX, ..PageRequest::default() }).await;
    assert_eq!(rest.len(), 5);
    assert_eq!(ids(&[first, rest]), all.into_iter().collect::<Vec<_>>());
}

/// A page shows a record as it is read alone, in every phase.
pub async fn page_shows_what_is_read(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let _ = subject.in_phase(phase, &format!("{phase:?}")).await;
    }
    let page = subject.list(PageRequest { limit: 10, ..PageRequest::default() }).await;
    assert_eq!(page.len(), PHASES.len());
    for record in page {
        assert_eq!(subject.record(record.id()).await, record);
    }
}

/// Records are counted by scope, up to the limit.
pub async fn records_are_counted_by_scope(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let _ = fill(&subject, "alice", 70).await;
    let _ = fill(&subject, "bob", 3).await;
    for (limit, expected) in [(0, 0), (1, 1), (69, 69), (70, 70), (71, 70), (u64::MAX, 70)] {
        assert_eq!(subject.count(scope("alice"), limit).await, expected);
    }
    assert_eq!(subject.count(scope("bob"), u64::MAX).await, 3);
    assert_eq!(subject.count(scope("carol"), u64::MAX).await, 0);
}

/// Every stored record counts, in any phase, and none that was removed.
pub async fn records_count_until_they_go(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let running = subject.win(&fenced("running")).await;
    let completed = subject.win(&fenced("completed")).await;
    let freed = subject.win(&fenced("freed")).await;
    subject.assert_applied(subject.complete(completed.lease(), completion("answer")).await).await;
    let gone = subject.win(&fenced("gone")).await;
    assert_eq!(subject.count(scope("caller"), u64::MAX).await, 4);
    subject.assert_applied(subject.release(freed.lease(), FREE).await).await;
    assert_eq!(subject.count(scope("caller"), u64::MAX).await, 4);
    subject.assert_applied(subject.release(gone.lease(), GONE).await).await;
    assert_eq!(subject.count(scope("caller"), u64::MAX).await, 3);
    subject.advance(super::fixture::RETENTION + super::fixture::TOMBSTONE).await;
    assert_eq!(subject.sweep(10).await.removed, 2);
    assert_eq!(subject.count(scope("caller"), u64::MAX).await, 1);
    assert_eq!(subject.record(running.id()).await, running);
}

/// The clock moves exactly as it is moved, to the millisecond, and is the same for every call and handle.
pub async fn clock_is_one(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let elsewhere = harness.connect().await;
    let claim = fenced("key");
    let mut now = subject.now().await;
    for wait in [MS, MS, LEASE, MS * 999] {
        subject.advance(wait).await;
        now = now + wait;
        assert_eq!(subject.now().await, now);
        assert_eq!(elsewhere.read(claim.id()).await.expect("the other handle reads").now, now);
        assert_eq!(subject.store.list(PageRequest::default()).await.expect("the store lists").now, now);
        assert_eq!(elsewhere.claim(again(&claim)).await.expect("the other handle claims").now, now);
    }
}

/// No reader ever sees the time go back while it moves.
pub async fn clock_never_goes_back(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let moving = async {
        for _ in 0..50 {
            subject.advance(MS).await;
            tokio::task::yield_now().await;
        }
    };
    let watching = async {
        let mut latest = subject.now().await;
        for _ in 0..200 {
            let now = subject.now().await;
            assert!(now >= latest);
            latest = now;
        }
    };
    tokio::join!(moving, watching);
}
