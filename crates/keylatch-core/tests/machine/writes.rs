//! What writes with a lease make of a record.

use std::time::Duration;

use bytes::Bytes;
use keylatch_core::machine::{
    Change, Completion, Decision, End, Resolution, complete, decide, forget, release, renew, resolve,
};
use keylatch_core::store::{Notes, Owner, State};
use keylatch_core::{Epoch, Lease, Record, Timestamp};

use crate::records::Rec::{self, Absent, Completed, Freed, Leased, Once, Released, Retried, Tombstone};
use crate::records::When::{
    self, AtExpiry, AtFree, AtLeaseEnd, AtOnce, BeforeExpiry, BeforeFree, BeforeLeaseEnd, YearsLater,
};
use crate::records::{
    KEEP, POLICY, RECORDS, START, TERMS, answer, assert_one_row_each, instant, instants, notes, record, second_answer,
};

/// The lease of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Owner,
    /// The owner's token with an earlier epoch.
    StaleEpoch,
    /// The record's epoch with another owner's token.
    OtherOwner,
}

/// What a write makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Makes {
    /// Nothing: the lease is lost.
    Lost,
    /// Nothing: it was applied before.
    Same,
    /// A running record with the write's terms and its step.
    Renewed,
    /// A record completed with the second outcome.
    Completed,
    /// A record completed with the first outcome.
    First,
    /// A free key that keeps its epoch.
    Freed,
    /// A record that is kept for its retry.
    Waiting,
    /// A record that holds the key until it is resolved.
    Unknown,
    /// A tombstone: the answer ends now, or has ended.
    Forgotten,
}

/// What a write with a lease makes of each record. It does not depend on the instant: only epoch, owner and state
/// count.
#[rustfmt::skip]
const WRITES: &[(Rec, By, [Makes; 6])] = &[
    //                            renew           complete          the first outcome  release: free, retry, unknown
    (Leased,    By::Owner,      [Makes::Renewed, Makes::Completed, Makes::First,      Makes::Freed, Makes::Waiting, Makes::Unknown]),
    (Leased,    By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Leased,    By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Once,      By::Owner,      [Makes::Renewed, Makes::Completed, Makes::First,      Makes::Freed, Makes::Waiting, Makes::Unknown]),
    (Once,      By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Once,      By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Retried,   By::Owner,      [Makes::Renewed, Makes::Completed, Makes::First,      Makes::Freed, Makes::Waiting, Makes::Unknown]),
    (Retried,   By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Retried,   By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Released,  By::Owner,      [Makes::Renewed, Makes::Completed, Makes::First,      Makes::Freed, Makes::Waiting, Makes::Unknown]),
    (Released,  By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Released,  By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Completed, By::Owner,      [Makes::Lost,    Makes::Lost,      Makes::Same,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Completed, By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Completed, By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Tombstone, By::Owner,      [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Tombstone, By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Tombstone, By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost, Makes::Lost,    Makes::Lost]),
    (Freed,     By::Owner,      [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost,  Makes::Lost,    Makes::Lost]),
    (Freed,     By::StaleEpoch, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost,  Makes::Lost,    Makes::Lost]),
    (Freed,     By::OtherOwner, [Makes::Lost,    Makes::Lost,      Makes::Lost,       Makes::Lost,  Makes::Lost,    Makes::Lost]),
];

#[test]
fn every_write_has_one_row() {
    let records = RECORDS.iter().map(|(rec, _)| *rec).filter(|rec| *rec != Absent);
    let all = records.flat_map(|rec| [(rec, By::Owner), (rec, By::StaleEpoch), (rec, By::OtherOwner)]);
    assert_one_row_each(all, WRITES.iter().map(|row| (row.0, row.1)));
}

/// What a resolution with its own lease makes of each record, which depends on the instant. With another lease it
/// changes nothing.
#[rustfmt::skip]
const RESOLUTIONS: &[(Rec, When, [Makes; 3])] = &[
    //                           completed         with the first answer  never happened
    (Leased,    AtOnce,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Leased,    BeforeLeaseEnd, [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Leased,    AtLeaseEnd,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Leased,    BeforeFree,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Leased,    AtFree,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Leased,    YearsLater,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Once,      AtOnce,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Once,      BeforeLeaseEnd, [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Once,      AtLeaseEnd,     [Makes::Completed, Makes::First,          Makes::Freed]),
    (Once,      YearsLater,     [Makes::Completed, Makes::First,          Makes::Freed]),
    (Retried,   AtOnce,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Retried,   BeforeFree,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Retried,   AtFree,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Retried,   YearsLater,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Released,  AtOnce,         [Makes::Completed, Makes::First,          Makes::Freed]),
    (Released,  YearsLater,     [Makes::Completed, Makes::First,          Makes::Freed]),
    (Completed, AtOnce,         [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Completed, BeforeExpiry,   [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Completed, AtExpiry,       [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Completed, BeforeFree,     [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Completed, AtFree,         [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Completed, YearsLater,     [Makes::Lost,      Makes::Same,           Makes::Lost]),
    (Tombstone, AtExpiry,       [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Tombstone, BeforeFree,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Tombstone, AtFree,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Tombstone, YearsLater,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Freed,     AtOnce,         [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Freed,     BeforeExpiry,   [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Freed,     AtExpiry,       [Makes::Lost,      Makes::Lost,           Makes::Lost]),
    (Freed,     YearsLater,     [Makes::Lost,      Makes::Lost,           Makes::Lost]),
];

/// What forgetting makes of each record, with its own lease. With another lease it changes nothing.
#[rustfmt::skip]
const FORGETS: &[(Rec, When, Makes)] = &[
    (Leased,    AtOnce,         Makes::Lost),
    (Leased,    BeforeLeaseEnd, Makes::Lost),
    (Leased,    AtLeaseEnd,     Makes::Lost),
    (Leased,    BeforeFree,     Makes::Lost),
    (Leased,    AtFree,         Makes::Lost),
    (Leased,    YearsLater,     Makes::Lost),
    (Once,      AtOnce,         Makes::Lost),
    (Once,      BeforeLeaseEnd, Makes::Lost),
    (Once,      AtLeaseEnd,     Makes::Lost),
    (Once,      YearsLater,     Makes::Lost),
    (Retried,   AtOnce,         Makes::Lost),
    (Retried,   BeforeFree,     Makes::Lost),
    (Retried,   AtFree,         Makes::Lost),
    (Retried,   YearsLater,     Makes::Lost),
    (Released,  AtOnce,         Makes::Lost),
    (Released,  YearsLater,     Makes::Lost),
    (Completed, AtOnce,         Makes::Forgotten),
    (Completed, BeforeExpiry,   Makes::Forgotten),
    (Completed, AtExpiry,       Makes::Forgotten),
    (Completed, BeforeFree,     Makes::Forgotten),
    (Completed, AtFree,         Makes::Lost),
    (Completed, YearsLater,     Makes::Lost),
    (Tombstone, AtExpiry,       Makes::Same),
    (Tombstone, BeforeFree,     Makes::Same),
    (Tombstone, AtFree,         Makes::Lost),
    (Tombstone, YearsLater,     Makes::Lost),
    (Freed,     AtOnce,         Makes::Lost),
    (Freed,     BeforeExpiry,   Makes::Lost),
    (Freed,     AtExpiry,       Makes::Lost),
    (Freed,     YearsLater,     Makes::Lost),
];

#[test]
fn every_forgetting_has_one_row() {
    assert_one_row_each(instants().filter(|(rec, _)| *rec != Absent), FORGETS.iter().map(|row| (row.0, row.1)));
}

#[test]
fn each_forgetting_makes_what_the_table_says() {
    for &(rec, when, makes) in FORGETS {
        let (record, now) = (record(rec).expect("there is one"), instant(rec, when));
        let written = forget(&record, &record.lease(), now);
        assert_eq!(written, expected(&record, makes, now), "{rec:?} {when:?}: {makes:?}");
        let stale = Lease { epoch: Epoch::from_u64(record.epoch.as_u64() - 1), ..record.lease() };
        let other = Lease { owner: Owner::from_bytes([9; 16]), ..record.lease() };
        for lease in [stale, other] {
            assert_eq!(forget(&record, &lease, now), Change::None, "{rec:?} {when:?}");
        }
        let Change::Write(forgotten) = written else { continue };
        assert_eq!(forget(&forgotten, &record.lease(), now), Change::Write(forgotten.clone()), "sent again");
        assert_eq!(decide(Some(&forgotten), record.fingerprint, now), Decision::Expired);
    }
}

#[test]
fn every_resolution_has_one_row() {
    assert_one_row_each(instants().filter(|(rec, _)| *rec != Absent), RESOLUTIONS.iter().map(|row| (row.0, row.1)));
}

#[test]
fn each_resolution_makes_what_the_table_says() {
    for &(rec, when, made) in RESOLUTIONS {
        let (record, now) = (record(rec).expect("there is one"), instant(rec, when));
        let completed = |outcome| Resolution::Completed(Completion::new(outcome, &POLICY));
        let resolutions = [completed(second_answer()), completed(answer()), Resolution::NeverHappened(KEEP)];
        for (resolution, makes) in resolutions.iter().zip(made) {
            let written = resolve(&record, &record.lease(), resolution, now);
            assert_eq!(written, expected(&record, makes, now), "{rec:?} {when:?} {resolution:?}: {makes:?}");
            let stale = Lease { epoch: Epoch::from_u64(record.epoch.as_u64() - 1), ..record.lease() };
            let other = Lease { owner: Owner::from_bytes([9; 16]), ..record.lease() };
            for lease in [stale, other] {
                assert_eq!(resolve(&record, &lease, resolution, now), Change::None, "{rec:?} {when:?} {resolution:?}");
            }
        }
    }
}

#[test]
fn each_write_makes_what_the_table_says() {
    for &(rec, by, made) in WRITES {
        for when in instants().filter(|(other, _)| *other == rec).map(|(_, when)| when) {
            let (record, now) = (record(rec).expect("there is one"), instant(rec, when));
            let lease = match by {
                By::Owner => record.lease(),
                By::StaleEpoch => Lease { epoch: Epoch::from_u64(record.epoch.as_u64() - 1), ..record.lease() },
                By::OtherOwner => Lease { owner: Owner::from_bytes([9; 16]), ..record.lease() },
            };
            let step = Bytes::from_static(b"sent");
            let written = [
                applied(renew(&record, &lease, TERMS, Some(("mail", &step)), now)),
                applied(complete(&record, &lease, &Completion::new(second_answer(), &POLICY), now)),
                applied(complete(&record, &lease, &Completion::new(answer(), &POLICY), now)),
                release(&record, &lease, End::Free(KEEP), now),
                release(&record, &lease, End::Retry(KEEP), now),
                release(&record, &lease, End::Unknown, now),
            ];
            for (write, (written, makes)) in written.into_iter().zip(made).enumerate() {
                assert_eq!(written, expected(&record, makes, now), "{rec:?} {when:?} {by:?}, write {write}: {makes:?}");
            }
        }
    }
}

fn applied(written: Option<Record>) -> Change {
    written.map_or(Change::None, Change::Write)
}

/// Every field that a write changes.
fn expected(record: &Record, makes: Makes, now: Timestamp) -> Change {
    let released = |takeover_at, free_at| {
        let notes = Notes { released: true, ..notes(record) };
        Change::Write(Record {
            takeover_at,
            free_at,
            state: State::Running { lease_ends_at: now, notes },
            ..record.clone()
        })
    };
    match makes {
        Makes::Lost => Change::None,
        Makes::Same => Change::Write(record.clone()),
        Makes::Freed => Change::Write(Record {
            takeover_at: None,
            free_at: Some(now),
            state: State::Completed { outcome: None, expires_at: now + KEEP },
            ..record.clone()
        }),
        Makes::Forgotten => {
            let State::Completed { expires_at, .. } = record.state else { panic!("a run has no answer") };
            let state = State::Completed { outcome: None, expires_at: now.min(expires_at) };
            Change::Write(Record { state, ..record.clone() })
        }
        Makes::Waiting => released(Some(now), Some(now + KEEP)),
        Makes::Unknown => released(None, None),
        Makes::Renewed => {
            let mut notes = notes(record);
            notes.steps.push(("mail".to_owned(), Bytes::from_static(b"sent")));
            Change::Write(Record {
                takeover_at: TERMS.takeover.map(|span| now + span),
                free_at: TERMS.free.map(|span| now + span),
                state: State::Running { lease_ends_at: now + TERMS.lease, notes },
                ..record.clone()
            })
        }
        Makes::Completed | Makes::First => {
            let outcome = if makes == Makes::First { answer() } else { second_answer() };
            let expires_at = now + POLICY.retention;
            Change::Write(Record {
                takeover_at: None,
                free_at: Some(expires_at + POLICY.tombstone),
                state: State::Completed { outcome: Some(outcome.into()), expires_at },
                ..record.clone()
            })
        }
    }
}

#[test]
fn step_is_noted_once() {
    let record = record(Leased).expect("there is one");
    let again = Bytes::from_static(b"paid twice");
    let renewed =
        renew(&record, &record.lease(), TERMS, Some(("charge", &again)), START).expect("the lease is its own");
    assert_eq!(notes(&renewed).steps, notes(&record).steps);
}

/// If nobody can have seen the epoch, a freed key leaves no record.
#[test]
fn epoch_that_need_not_be_kept_is_not() {
    for rec in [Leased, Once, Retried, Released] {
        let record = record(rec).expect("there is one");
        assert_eq!(release(&record, &record.lease(), End::Free(Duration::ZERO), START), Change::Remove, "{rec:?}");
    }
    let record = record(Released).expect("there is one");
    let resolution = Resolution::NeverHappened(Duration::ZERO);
    assert_eq!(resolve(&record, &record.lease(), &resolution, START), Change::Remove);
}
