//! Shared by the cases: requests, and a subject to send them to.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Harness;
use crate::machine::{self, Claim, Claimed, Completion, End, Phase, Resolution, Terms};
use crate::store::{Applied, Count, Cursor, Error, Page, PageRequest, Store, Swept};
use crate::{Epoch, Timestamp};
use crate::{Fingerprint, Guarantee, Key, Lease, Notes, Outcome, Owner, Policy, Record, RecordId, Scope, State};

pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const RETENTION: Duration = Duration::from_secs(60 * 60);
pub(super) const TOMBSTONE: Duration = Duration::from_secs(3 * 60 * 60);
pub(super) const POLICY: Policy = Policy { lease: LEASE, retention: RETENTION, tombstone: TOMBSTONE };
/// An end that frees the key, and keeps its epoch as long as a tombstone.
pub(super) const FREE: End = End::Free(TOMBSTONE);
/// An end that frees the key and leaves no record.
pub(super) const GONE: End = End::Free(Duration::ZERO);
/// A resolution that frees the key, and keeps its epoch as long as a tombstone.
pub(super) const NEVER_HAPPENED: Resolution = Resolution::NeverHappened(TOMBSTONE);
pub(super) const MS: Duration = Duration::from_millis(1);
/// Longer than anything is kept.
pub(super) const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

pub(super) fn scope(caller: &str) -> Scope {
    Scope::new(caller).expect("a valid scope")
}

pub(super) fn key(key: &str) -> Key {
    Key::new(key).expect("a valid key")
}

/// The claim of some request.
pub(super) fn claim_of(guarantee: Guarantee, key_text: &str) -> Claim {
    let request = Fingerprint::of([b"POST /orders".as_slice(), key_text.as_bytes()]);
    Claim::new(scope("caller"), key(key_text), request, guarantee, &POLICY)
}

/// A claim of `key` in `scope`.
pub(super) fn claim_in(scope: Scope, key: Key) -> Claim {
    let request = Fingerprint::of([b"POST /orders".as_slice()]);
    Claim::new(scope, key, request, Guarantee::Fenced, &POLICY)
}

pub(super) fn fenced(key_text: &str) -> Claim {
    claim_of(Guarantee::Fenced, key_text)
}

pub(super) fn at_most_once(key_text: &str) -> Claim {
    claim_of(Guarantee::AtMostOnce, key_text)
}

/// The same request, sent by another owner: a retry of the client, or a second process.
pub(super) fn again(claim: &Claim) -> Claim {
    Claim { owner: Owner::random(), ..claim.clone() }
}

/// Another request that uses the same key.
pub(super) fn reused(claim: &Claim) -> Claim {
    Claim { fingerprint: Fingerprint::of([b"another request".as_slice()]), ..again(claim) }
}

pub(super) fn completion(body: &'static str) -> Completion {
    Completion::new(Outcome::bytes(body), &POLICY)
}

/// A lease on the same record from before the latest claim.
pub(super) fn with_stale_epoch(lease: Lease) -> Lease {
    Lease { epoch: Epoch::from_u64(lease.epoch.as_u64() - 1), ..lease }
}

pub(super) fn with_other_owner(lease: Lease) -> Lease {
    Lease { owner: Owner::random(), ..lease }
}

pub(super) fn notes(record: &Record) -> &Notes {
    match &record.state {
        State::Running { notes, .. } => notes,
        State::Completed { .. } => panic!("a completed record has no notes"),
    }
}

pub(super) fn outcome(record: &Record) -> Option<&Outcome> {
    match &record.state {
        State::Running { .. } => None,
        State::Completed { outcome, .. } => outcome.as_deref(),
    }
}

/// Reads page after page, each where the one before ended. A cursor goes through a text on its way, as an operator's does.
pub(super) async fn all_pages(
    limit: usize,
    read: impl AsyncFn(Option<Cursor>) -> Result<Page, Error>,
) -> Result<Vec<Record>, Error> {
    const PAGES_MAX: usize = 5_000;
    let (mut records, mut after) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = read(after).await?;
        assert!(page.records.len() <= limit, "a page keeps to its limit");
        records.extend(page.records);
        match page.next {
            None => return Ok(records),
            Some(next) => after = Some(next.to_string().parse().expect("a cursor can be read")),
        }
    }
    panic!("pages come to an end");
}

/// Every phase in which there is a record.
pub(super) const PHASES: [Phase; 5] =
    [Phase::Running, Phase::Abandoned, Phase::Unknown, Phase::Completed, Phase::Tombstone];

/// The store of a case, with each call unwrapped.
pub(super) struct Subject<'h> {
    pub(super) harness: &'h dyn Harness,
    pub(super) store: Arc<dyn Store>,
}

impl<'h> Subject<'h> {
    pub(super) fn new(harness: &'h dyn Harness) -> Self {
        Self { harness, store: harness.store() }
    }

    pub(super) async fn now(&self) -> Timestamp {
        self.store.read(fenced("nobody's").id()).await.expect("the store reads").now
    }

    pub(super) async fn advance(&self, by: Duration) {
        self.harness.advance(by).await;
    }

    pub(super) async fn claim(&self, claim: &Claim) -> Claimed {
        self.store.claim(claim.clone()).await.expect("the store claims").value
    }

    /// Claims, and wins.
    pub(super) async fn win(&self, claim: &Claim) -> Record {
        match self.claim(claim).await {
            Claimed::Won(record) => record,
            Claimed::Held(record) => panic!("the claim should have won, and is held by {record:?}"),
        }
    }

    /// Claims, does not win, and leaves the record as it was.
    pub(super) async fn lose(&self, claim: &Claim) -> Record {
        let before = self.read(claim.id()).await;
        match self.claim(claim).await {
            Claimed::Held(record) => {
                assert_eq!(before.as_ref(), Some(&record), "a claim that is held hands back what is there");
                assert_eq!(before, self.read(claim.id()).await, "a claim that is held changes nothing");
                record
            }
            Claimed::Won(record) => panic!("the claim should have been held, and won {record:?}"),
        }
    }

    pub(super) async fn renew(&self, lease: Lease, terms: Terms) -> Applied {
        self.store.renew(lease, terms, None).await.expect("the store renews")
    }

    /// Renews on the usual terms, and notes a step.
    pub(super) async fn note(&self, lease: Lease, step: &str, result: impl Into<Bytes>) -> Applied {
        let terms = Terms::of(Guarantee::Fenced, &POLICY);
        self.store.renew(lease, terms, Some((step.to_owned(), result.into()))).await.expect("the store renews")
    }

    pub(super) async fn complete(&self, lease: Lease, completion: Completion) -> Applied {
        self.store.complete(lease, completion).await.expect("the store completes")
    }

    pub(super) async fn release(&self, lease: Lease, end: End) -> Applied {
        self.store.release(lease, end).await.expect("the store releases")
    }

    pub(super) async fn resolve(&self, lease: Lease, resolution: Resolution) -> Applied {
        self.store.resolve(lease, resolution).await.expect("the store resolves")
    }

    pub(super) async fn forget(&self, lease: Lease) -> Applied {
        self.store.forget(lease).await.expect("the store forgets")
    }

    pub(super) async fn sweep(&self, limit: usize) -> Swept {
        self.store.sweep(limit).await.expect("the store sweeps")
    }

    pub(super) async fn read(&self, id: RecordId) -> Option<Record> {
        self.store.read(id).await.expect("the store reads").value
    }

    /// The record, which must exist.
    pub(super) async fn record(&self, id: RecordId) -> Record {
        self.read(id).await.expect("there is a record")
    }

    /// Reads all records of a scope, or of all, in pages of at most `limit`.
    pub(super) async fn list(&self, scope: Option<Scope>, limit: usize) -> Result<Vec<Record>, Error> {
        let read = async |after| {
            let page = PageRequest { scope: scope.clone(), after, limit };
            self.store.list(page).await.map(|page| page.value)
        };
        all_pages(limit, read).await
    }

    /// The same, of all scopes.
    pub(super) async fn list_all(&self) -> Vec<Record> {
        self.list(None, 10).await.expect("the store lists")
    }

    /// Counts the records of a scope: as many as there are, or fewer if the store does not know them all.
    pub(super) async fn assert_counted(&self, scope: Scope, limit: u64, records: u64) {
        match self.store.count(scope, limit).await.expect("the store counts") {
            Count::Exactly(counted) => assert_eq!(counted, records),
            Count::AtLeast(counted) => assert!(counted <= records.min(limit), "{counted} of {records}, up to {limit}"),
        }
    }

    /// Asserts that a write succeeded, now.
    pub(super) async fn assert_applied(&self, applied: Applied) {
        assert_eq!(applied, Applied::Applied(self.now().await));
    }

    pub(super) async fn phase(&self, id: RecordId) -> Phase {
        let read = self.store.read(id).await.expect("the store reads");
        machine::phase(read.value.as_ref(), read.now)
    }

    /// Creates a record that is in `phase` now, and returns the claim that won it.
    pub(super) async fn in_phase(&self, phase: Phase, key_text: &str) -> (Claim, Record) {
        let claim = match phase {
            Phase::Unknown => at_most_once(key_text),
            _ => fenced(key_text),
        };
        let record = self.win(&claim).await;
        match phase {
            Phase::Free => self.advance(LEASE + RETENTION + TOMBSTONE).await,
            Phase::Running => {}
            Phase::Abandoned | Phase::Unknown => self.advance(LEASE).await,
            Phase::Completed => self.assert_applied(self.complete(record.lease(), completion("answer")).await).await,
            Phase::Tombstone => {
                self.assert_applied(self.complete(record.lease(), completion("answer")).await).await;
                self.advance(RETENTION).await;
            }
        }
        assert_eq!(self.phase(claim.id()).await, phase);
        let record = self.record(claim.id()).await;
        (claim, record)
    }
}
