//! What a sweep does with a record.

use keylatch_core::Record;
use keylatch_core::machine::{self, Change, Phase, due_at, sweep};
use keylatch_core::store::State;

use crate::records::Rec::{self, Absent, Completed, Freed, Leased, Once, Released, Retried, Tombstone};
use crate::records::When::{
    self, AtExpiry, AtFree, AtLeaseEnd, AtOnce, BeforeExpiry, BeforeFree, BeforeLeaseEnd, YearsLater,
};
use crate::records::{assert_one_row_each, instant, instants, record};

/// What a sweep does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweeps {
    Stays,
    Tombstone,
    Removed,
}

#[rustfmt::skip]
const SWEEPS: &[(Rec, When, Sweeps)] = &[
    (Leased,    AtOnce,         Sweeps::Stays),
    (Leased,    BeforeLeaseEnd, Sweeps::Stays),
    (Leased,    AtLeaseEnd,     Sweeps::Stays),
    (Leased,    BeforeFree,     Sweeps::Stays),
    (Leased,    AtFree,         Sweeps::Removed),
    (Leased,    YearsLater,     Sweeps::Removed),
    (Once,      AtOnce,         Sweeps::Stays),
    (Once,      BeforeLeaseEnd, Sweeps::Stays),
    (Once,      AtLeaseEnd,     Sweeps::Stays),
    (Once,      YearsLater,     Sweeps::Stays),
    (Retried,   AtOnce,         Sweeps::Stays),
    (Retried,   BeforeFree,     Sweeps::Stays),
    (Retried,   AtFree,         Sweeps::Removed),
    (Retried,   YearsLater,     Sweeps::Removed),
    (Released,  AtOnce,         Sweeps::Stays),
    (Released,  YearsLater,     Sweeps::Stays),
    (Completed, AtOnce,         Sweeps::Stays),
    (Completed, BeforeExpiry,   Sweeps::Stays),
    (Completed, AtExpiry,       Sweeps::Tombstone),
    (Completed, BeforeFree,     Sweeps::Tombstone),
    (Completed, AtFree,         Sweeps::Removed),
    (Completed, YearsLater,     Sweeps::Removed),
    (Tombstone, AtExpiry,       Sweeps::Stays),
    (Tombstone, BeforeFree,     Sweeps::Stays),
    (Tombstone, AtFree,         Sweeps::Removed),
    (Tombstone, YearsLater,     Sweeps::Removed),
    (Freed,     AtOnce,         Sweeps::Stays),
    (Freed,     BeforeExpiry,   Sweeps::Stays),
    (Freed,     AtExpiry,       Sweeps::Removed),
    (Freed,     YearsLater,     Sweeps::Removed),
];

#[test]
fn every_sweep_has_one_row() {
    assert_one_row_each(instants().filter(|(rec, _)| *rec != Absent), SWEEPS.iter().map(|row| (row.0, row.1)));
}

#[test]
fn each_sweep_does_what_the_table_says() {
    for &(rec, when, sweeps) in SWEEPS {
        let (record, now) = (record(rec).expect("there is one"), instant(rec, when));
        let expected = match (sweeps, &record.state) {
            (Sweeps::Stays, _) => Change::None,
            (Sweeps::Removed, _) => Change::Remove,
            (Sweeps::Tombstone, State::Completed { expires_at, .. }) => Change::Write(Record {
                state: State::Completed { outcome: None, expires_at: *expires_at },
                ..record.clone()
            }),
            (Sweeps::Tombstone, State::Running { .. }) => panic!("a running record has no answer to remove"),
        };
        assert_eq!(sweep(&record, now), expected, "{rec:?} {when:?}");
        let due = due_at(&record).is_some_and(|due| due <= now);
        assert_eq!(due, sweeps != Sweeps::Stays, "an index on what is due finds it: {rec:?} {when:?}");
    }
}

/// I12: a sweep removes only records that anyone may claim, and only answers that are no longer replayed.
#[test]
fn i12_sweep_takes_only_what_is_over() {
    for &(rec, when, sweeps) in SWEEPS {
        let phase = machine::phase(record(rec).as_ref(), instant(rec, when));
        match sweeps {
            Sweeps::Removed => assert_eq!(phase, Phase::Free, "{rec:?} {when:?}"),
            Sweeps::Tombstone => assert_eq!(phase, Phase::Tombstone, "{rec:?} {when:?}"),
            // A freed key keeps its epoch.
            Sweeps::Stays => assert_eq!(phase == Phase::Free, rec == Freed, "{rec:?} {when:?}"),
        }
    }
}
