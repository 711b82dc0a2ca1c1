//! The records and the instants of the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keylatch_core::machine::{Claim, Terms};
use keylatch_core::store::{Notes, Owner, State};
use keylatch_core::{Epoch, Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope, Timestamp};

use Rec::{Absent, Completed, Freed, Leased, Once, Released, Retried, Tombstone};
use When::{AtExpiry, AtFree, AtLeaseEnd, AtOnce, BeforeExpiry, BeforeFree, BeforeLeaseEnd, YearsLater};

/// What was last written to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rec {
    Absent,
    /// A claim in `Atomic` or `Fenced`, with a step noted.
    Leased,
    /// A claim in `AtMostOnce`.
    Once,
    /// A release for a retry.
    Retried,
    /// A release as unknown.
    Released,
    /// A completion.
    Completed,
    /// A sweep of a completed record.
    Tombstone,
    /// A release of a run that did not happen.
    Freed,
}

/// An instant that matters, or 1 ms before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    AtOnce,
    BeforeLeaseEnd,
    AtLeaseEnd,
    BeforeExpiry,
    AtExpiry,
    BeforeFree,
    AtFree,
    YearsLater,
}

/// Which request a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Req {
    Same,
    Other,
}

/// Every record at every instant that matters for it.
pub(crate) const RECORDS: [(Rec, &[When]); 8] = [
    (Absent, &[AtOnce, YearsLater]),
    (Leased, &[AtOnce, BeforeLeaseEnd, AtLeaseEnd, BeforeFree, AtFree, YearsLater]),
    (Once, &[AtOnce, BeforeLeaseEnd, AtLeaseEnd, YearsLater]),
    (Retried, &[AtOnce, BeforeFree, AtFree, YearsLater]),
    (Released, &[AtOnce, YearsLater]),
    (Completed, &[AtOnce, BeforeExpiry, AtExpiry, BeforeFree, AtFree, YearsLater]),
    (Tombstone, &[AtExpiry, BeforeFree, AtFree, YearsLater]),
    (Freed, &[AtOnce, BeforeExpiry, AtExpiry, YearsLater]),
];

pub(crate) const START: Timestamp = Timestamp::from_millis(1_000_000);
pub(crate) const POLICY: Policy = Policy {
    lease: Duration::from_secs(30),
    retention: Duration::from_secs(3_600),
    tombstone: Duration::from_secs(7_200),
};
/// How long a released record is kept for its retry.
pub(crate) const KEEP: Duration = Duration::from_secs(77);
/// The terms of a renewal, which differ from those of every claim.
pub(crate) const TERMS: Terms = Terms {
    lease: Duration::from_secs(11),
    takeover: Some(Duration::from_secs(12)),
    free: Some(Duration::from_secs(13)),
};

pub(crate) fn owner() -> Owner {
    Owner::from_bytes([1; 16])
}

pub(crate) fn fingerprint(req: Req) -> Fingerprint {
    match req {
        Req::Same => Fingerprint::of([b"the request".as_slice()]),
        Req::Other => Fingerprint::of([b"another request".as_slice()]),
    }
}

pub(crate) fn answer() -> Outcome {
    Outcome::bytes("answer")
}

pub(crate) fn second_answer() -> Outcome {
    Outcome::bytes("second answer")
}

pub(crate) fn request() -> Claim {
    let (scope, key) = (Scope::new("caller").expect("valid"), Key::new("key").expect("valid"));
    Claim { owner: owner(), ..Claim::new(scope, key, fingerprint(Req::Same), Guarantee::Fenced, &POLICY) }
}

pub(crate) fn notes(record: &Record) -> Notes {
    match &record.state {
        State::Running { notes, .. } => notes.clone(),
        State::Completed { .. } => panic!("a completed record has no notes"),
    }
}

/// The record of a row, in its third epoch. It is written by hand: no function of the machine made it.
pub(crate) fn record(rec: Rec) -> Option<Record> {
    let notes = Notes { steps: vec![("charge".to_owned(), Bytes::from_static(b"paid"))], ..Notes::default() };
    let released = Notes { released: true, ..notes.clone() };
    let (lease_end, expiry) = (START + POLICY.lease, START + POLICY.retention);
    let (takeover_at, free_at, state) = match rec {
        Absent => return None,
        Leased => {
            let free = lease_end + POLICY.retention + POLICY.tombstone;
            (Some(lease_end), Some(free), State::Running { lease_ends_at: lease_end, notes })
        }
        Once => (None, None, State::Running { lease_ends_at: lease_end, notes }),
        Retried => (Some(START), Some(START + KEEP), State::Running { lease_ends_at: START, notes: released }),
        Released => (None, None, State::Running { lease_ends_at: START, notes: released }),
        Freed => (None, Some(START), State::Completed { outcome: None, expires_at: expiry }),
        Completed | Tombstone => {
            let outcome = (rec == Completed).then(answer);
            (
                None,
                Some(expiry + POLICY.tombstone),
                State::Completed { outcome: outcome.map(Arc::new), expires_at: expiry },
            )
        }
    };
    let Claim { name, fingerprint, guarantee, owner, .. } = request();
    let (scope, key) = (name.scope().clone(), name.key().clone());
    let (epoch, attempt, created_at) = (Epoch::from_u64(3), 3, Timestamp::from_millis(999_000));
    Some(Record { scope, key, fingerprint, guarantee, epoch, owner, attempt, created_at, takeover_at, free_at, state })
}

pub(crate) fn instant(rec: Rec, when: When) -> Timestamp {
    let ms = Duration::from_millis(1);
    let free = match rec {
        Leased => POLICY.lease + POLICY.retention + POLICY.tombstone,
        Retried => KEEP,
        _ => POLICY.retention + POLICY.tombstone,
    };
    START
        + match when {
            AtOnce => Duration::ZERO,
            BeforeLeaseEnd => POLICY.lease - ms,
            AtLeaseEnd => POLICY.lease,
            BeforeExpiry => POLICY.retention - ms,
            AtExpiry => POLICY.retention,
            BeforeFree => free - ms,
            AtFree => free,
            YearsLater => Duration::from_secs(100 * 365 * 24 * 60 * 60),
        }
}

pub(crate) fn instants() -> impl Iterator<Item = (Rec, When)> {
    RECORDS.iter().flat_map(|(rec, whens)| whens.iter().map(move |when| (*rec, *when)))
}

pub(crate) fn assert_one_row_each<T: Ord + std::fmt::Debug>(
    combinations: impl IntoIterator<Item = T>,
    rows: impl Iterator<Item = T>,
) {
    let mut counted = BTreeMap::new();
    for row in rows {
        *counted.entry(row).or_insert(0) += 1;
    }
    let combinations: BTreeSet<T> = combinations.into_iter().collect();
    assert!(combinations.len() > 10);
    for combination in &combinations {
        assert_eq!(counted.get(combination).copied().unwrap_or(0), 1, "rows for {combination:?}");
    }
    let unknown: Vec<_> = counted.keys().filter(|row| !combinations.contains(row)).collect();
    assert!(unknown.is_empty(), "rows for what does not exist: {unknown:?}");
}
