//! Read access for operators, and the store's clock as a reader sees it.

use std::collections::BTreeSet;

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, MS, PHASES, Subject, again, all_pages, claim_in, completion, fenced, key, scope,
};
use crate::store::{Cursor, ErrorKind, PAGE_RECORDS_MAX, PageRequest};
use crate::{Record, RecordId, Scope};

async fn fill(subject: &Subject<'_>, caller: &str, count: usize) -> BTreeSet<RecordId> {
    let mut ids = BTreeSet::new();
    for at in 0..count {
        let claim = claim_in(scope(caller), key(&format!("key-{at}")));
        ids.insert(subject.win(&claim).await.id());
    }
    ids
}

/// The identities of all records of a scope, or of all, read in pages of at most `limit`; each is there once.
async fn ids(subject: &Subject<'_>, scope: Option<&Scope>, limit: usize) -> BTreeSet<RecordId> {
    let records = subject.list(scope.cloned(), limit).await.expect("the store lists");
    let ids: BTreeSet<_> = records.iter().map(Record::id).collect();
    assert_eq!(ids.len(), records.len(), "each record is on one page");
    ids
}

/// A key that was never claimed reads as absent.
pub async fn absent_record_reads_as_absent(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    assert_eq!(subject.read(fenced("key").id()).await, None);
    assert!(subject.list_all().await.is_empty());
    subject.assert_counted(scope("caller"), 10, 0).await;
}

/// Pages show every record once, whatever their size.
pub async fn pages_show_every_record_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let mut all = BTreeSet::new();
    for caller in ["alice", "bob", "carol"] {
        all.extend(fill(&subject, caller, 20).await);
    }
    for limit in [1, 7, 20, 59, 60, 61, PAGE_RECORDS_MAX] {
        assert_eq!(ids(&subject, None, limit).await, all, "pages of {limit}");
    }
}

/// Pages of a scope show its records, all of them, and no other's.
pub async fn pages_of_a_scope_show_no_other(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for caller in ["alice", "bob", "carol", "dave"] {
        let own = fill(&subject, caller, 11).await;
        for limit in [1, 4, 11, 12] {
            assert_eq!(ids(&subject, Some(&scope(caller)), limit).await, own);
        }
    }
    assert!(ids(&subject, Some(&scope("nobody")), 10).await.is_empty());
    let operation = scope("alice").for_operation("POST /orders").expect("a valid operation");
    assert!(ids(&subject, Some(&operation), 10).await.is_empty());
}

/// Pages go on where they ended, whether or not the last record is still there.
pub async fn pages_go_on_after_a_record_that_is_gone(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let all = fill(&subject, "caller", 10).await;
    let (mut shown, mut after) = (BTreeSet::new(), None);
    loop {
        let page = PageRequest { scope: None, after, limit: 3 };
        let page = subject.store.list(page).await.expect("the store lists").value;
        for record in page.records {
            assert!(shown.insert(record.id()));
            subject.assert_applied(subject.release(record.lease(), GONE).await).await;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(shown, all);
}

/// A cursor of another list, or of no list at all, is refused or leads to some page. That shows no other scope.
pub async fn strange_cursor_shows_no_other_scope(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let mut all = fill(&subject, "other", 3).await;
    all.extend(fill(&subject, "caller", 3).await);
    let mut cursors: Vec<_> =
        [&[][..], &[0; 32], &[0xff; 32], b"?"].map(|bytes| Cursor::new(bytes).expect("it is short")).into();
    let mut after = None;
    for _ in 0..all.len() {
        let page = PageRequest { scope: None, after, limit: 1 };
        after = subject.store.list(page).await.expect("the store lists").value.next;
        cursors.extend(after.clone());
    }
    for cursor in cursors {
        let page = PageRequest { scope: Some(scope("caller")), after: Some(cursor.clone()), limit: 9 };
        match subject.store.list(page).await {
            Ok(page) => assert!(page.value.records.iter().all(|record| record.scope == scope("caller"))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Refused, "{cursor}: {error}"),
        }
    }
}

/// A page of no records is empty.
pub async fn page_of_nothing_is_empty(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let _ = fill(&subject, "caller", 3).await;
    for scope in [None, Some(scope("caller"))] {
        let page = PageRequest { scope, ..PageRequest::default() };
        assert!(subject.store.list(page).await.expect("the store lists").value.records.is_empty());
    }
}

/// A page is never longer than the longest page, whatever it asks for.
pub async fn page_is_never_too_long(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let all = fill(&subject, "caller", PAGE_RECORDS_MAX + 5).await;
    let read = async |after| {
        let page = PageRequest { scope: None, after, limit: usize::MAX };
        subject.store.list(page).await.map(|page| page.value)
    };
    let listed = all_pages(PAGE_RECORDS_MAX, read).await.expect("the store lists");
    assert_eq!(listed.iter().map(Record::id).collect::<BTreeSet<_>>(), all);
}

/// A page shows a record as it is read alone, in every phase.
pub async fn page_shows_what_is_read(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    for phase in PHASES {
        let _ = subject.in_phase(phase, &format!("{phase:?}")).await;
    }
    let listed = subject.list_all().await;
    assert_eq!(listed.len(), PHASES.len());
    for record in listed {
        assert_eq!(subject.record(record.id()).await, record);
    }
}

/// Records are counted by scope, up to the limit.
pub async fn records_are_counted_by_scope(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let _ = fill(&subject, "alice", 70).await;
    let _ = fill(&subject, "bob", 3).await;
    for limit in [0, 1, 69, 70, 71, u64::MAX] {
        subject.assert_counted(scope("alice"), limit, 70).await;
    }
    subject.assert_counted(scope("bob"), u64::MAX, 3).await;
    subject.assert_counted(scope("carol"), u64::MAX, 0).await;
}

/// Every stored record counts, in any phase, and none that was removed.
pub async fn records_count_until_they_go(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let running = subject.win(&fenced("running")).await;
    let completed = subject.win(&fenced("completed")).await;
    let freed = subject.win(&fenced("freed")).await;
    subject.assert_applied(subject.complete(completed.lease(), completion("answer")).await).await;
    let gone = subject.win(&fenced("gone")).await;
    subject.assert_counted(scope("caller"), u64::MAX, 4).await;
    subject.assert_applied(subject.release(freed.lease(), FREE).await).await;
    subject.assert_counted(scope("caller"), u64::MAX, 4).await;
    subject.assert_applied(subject.release(gone.lease(), GONE).await).await;
    subject.assert_counted(scope("caller"), u64::MAX, 3).await;
    subject.advance(super::fixture::RETENTION + super::fixture::TOMBSTONE).await;
    assert_eq!(subject.sweep(10).await.removed, 2);
    subject.assert_counted(scope("caller"), u64::MAX, 1).await;
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
