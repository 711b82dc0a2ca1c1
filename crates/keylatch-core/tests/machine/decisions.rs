//! What a request gets: the decision, and the claim.

use keylatch_core::machine::{self, Claim, Claimed, Decision, Phase, Terms, claim, decide};
use keylatch_core::store::{Notes, Owner, State};
use keylatch_core::{Epoch, Guarantee, Record};

use crate::records::Rec::{self, Absent, Completed, Freed, Leased, Once, Released, Retried, Tombstone};
use crate::records::When::{
    self, AtExpiry, AtFree, AtLeaseEnd, AtOnce, BeforeExpiry, BeforeFree, BeforeLeaseEnd, YearsLater,
};
use crate::records::{
    POLICY, Req, START, answer, assert_one_row_each, fingerprint, instant, instants, notes, owner, record, request,
};

/// What [`decide`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Run,
    Replay,
    Wait,
    Mismatch,
    Unknown,
    Expired,
}

/// What a claim gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// The record, unchanged: another owner has it.
    Held,
    /// The record, unchanged: this claim has won it before.
    Ours,
    /// A new record.
    First,
    /// The next attempt at the same request: the next epoch, and the notes.
    Next,
    /// A new request in an old record: the next epoch, and no notes.
    Anew,
}

/// In order of precedence for each record: a free key runs; then another request's key is refused; then the phase
/// decides. The last two columns are a new claim, and the claim that won the record, sent again.
#[rustfmt::skip]
const DECISIONS: &[(Rec, When, Req, Phase, Says, Gets, Gets)] = &[
    (Absent,    AtOnce,         Req::Same,  Phase::Free,      Says::Run,      Gets::First, Gets::First),
    (Absent,    AtOnce,         Req::Other, Phase::Free,      Says::Run,      Gets::First, Gets::First),
    (Absent,    YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::First, Gets::First),
    (Absent,    YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::First, Gets::First),

    (Leased,    AtOnce,         Req::Same,  Phase::Running,   Says::Wait,     Gets::Held,  Gets::Ours),
    (Leased,    AtOnce,         Req::Other, Phase::Running,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Leased,    BeforeLeaseEnd, Req::Same,  Phase::Running,   Says::Wait,     Gets::Held,  Gets::Ours),
    (Leased,    BeforeLeaseEnd, Req::Other, Phase::Running,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Leased,    AtLeaseEnd,     Req::Same,  Phase::Abandoned, Says::Run,      Gets::Next,  Gets::Ours),
    (Leased,    AtLeaseEnd,     Req::Other, Phase::Abandoned, Says::Mismatch, Gets::Held,  Gets::Ours),
    (Leased,    BeforeFree,     Req::Same,  Phase::Abandoned, Says::Run,      Gets::Next,  Gets::Ours),
    (Leased,    BeforeFree,     Req::Other, Phase::Abandoned, Says::Mismatch, Gets::Held,  Gets::Ours),
    (Leased,    AtFree,         Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Leased,    AtFree,         Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Leased,    YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Leased,    YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),

    (Once,      AtOnce,         Req::Same,  Phase::Running,   Says::Wait,     Gets::Held,  Gets::Ours),
    (Once,      AtOnce,         Req::Other, Phase::Running,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Once,      BeforeLeaseEnd, Req::Same,  Phase::Running,   Says::Wait,     Gets::Held,  Gets::Ours),
    (Once,      BeforeLeaseEnd, Req::Other, Phase::Running,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Once,      AtLeaseEnd,     Req::Same,  Phase::Unknown,   Says::Unknown,  Gets::Held,  Gets::Ours),
    (Once,      AtLeaseEnd,     Req::Other, Phase::Unknown,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Once,      YearsLater,     Req::Same,  Phase::Unknown,   Says::Unknown,  Gets::Held,  Gets::Ours),
    (Once,      YearsLater,     Req::Other, Phase::Unknown,   Says::Mismatch, Gets::Held,  Gets::Ours),

    (Retried,   AtOnce,         Req::Same,  Phase::Abandoned, Says::Run,      Gets::Next,  Gets::Ours),
    (Retried,   AtOnce,         Req::Other, Phase::Abandoned, Says::Mismatch, Gets::Held,  Gets::Ours),
    (Retried,   BeforeFree,     Req::Same,  Phase::Abandoned, Says::Run,      Gets::Next,  Gets::Ours),
    (Retried,   BeforeFree,     Req::Other, Phase::Abandoned, Says::Mismatch, Gets::Held,  Gets::Ours),
    (Retried,   AtFree,         Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Retried,   AtFree,         Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Retried,   YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),
    (Retried,   YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Ours),

    (Released,  AtOnce,         Req::Same,  Phase::Unknown,   Says::Unknown,  Gets::Held,  Gets::Ours),
    (Released,  AtOnce,         Req::Other, Phase::Unknown,   Says::Mismatch, Gets::Held,  Gets::Ours),
    (Released,  YearsLater,     Req::Same,  Phase::Unknown,   Says::Unknown,  Gets::Held,  Gets::Ours),
    (Released,  YearsLater,     Req::Other, Phase::Unknown,   Says::Mismatch, Gets::Held,  Gets::Ours),

    (Completed, AtOnce,         Req::Same,  Phase::Completed, Says::Replay,   Gets::Held,  Gets::Held),
    (Completed, AtOnce,         Req::Other, Phase::Completed, Says::Mismatch, Gets::Held,  Gets::Held),
    (Completed, BeforeExpiry,   Req::Same,  Phase::Completed, Says::Replay,   Gets::Held,  Gets::Held),
    (Completed, BeforeExpiry,   Req::Other, Phase::Completed, Says::Mismatch, Gets::Held,  Gets::Held),
    (Completed, AtExpiry,       Req::Same,  Phase::Tombstone, Says::Expired,  Gets::Held,  Gets::Held),
    (Completed, AtExpiry,       Req::Other, Phase::Tombstone, Says::Mismatch, Gets::Held,  Gets::Held),
    (Completed, BeforeFree,     Req::Same,  Phase::Tombstone, Says::Expired,  Gets::Held,  Gets::Held),
    (Completed, BeforeFree,     Req::Other, Phase::Tombstone, Says::Mismatch, Gets::Held,  Gets::Held),
    (Completed, AtFree,         Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Completed, AtFree,         Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Completed, YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Completed, YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),

    (Tombstone, AtExpiry,       Req::Same,  Phase::Tombstone, Says::Expired,  Gets::Held,  Gets::Held),
    (Tombstone, AtExpiry,       Req::Other, Phase::Tombstone, Says::Mismatch, Gets::Held,  Gets::Held),
    (Tombstone, BeforeFree,     Req::Same,  Phase::Tombstone, Says::Expired,  Gets::Held,  Gets::Held),
    (Tombstone, BeforeFree,     Req::Other, Phase::Tombstone, Says::Mismatch, Gets::Held,  Gets::Held),
    (Tombstone, AtFree,         Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Tombstone, AtFree,         Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Tombstone, YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Tombstone, YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),

    (Freed,     AtOnce,         Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     AtOnce,         Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     BeforeExpiry,   Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     BeforeExpiry,   Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     AtExpiry,       Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     AtExpiry,       Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     YearsLater,     Req::Same,  Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
    (Freed,     YearsLater,     Req::Other, Phase::Free,      Says::Run,      Gets::Anew,  Gets::Anew),
];

#[test]
fn every_combination_has_one_decision() {
    let all: Vec<_> = instants().flat_map(|(rec, when)| [(rec, when, Req::Same), (rec, when, Req::Other)]).collect();
    assert_one_row_each(all, DECISIONS.iter().map(|row| (row.0, row.1, row.2)));
}

#[test]
fn each_request_gets_what_the_table_says() {
    for &(rec, when, req, phase, says, ..) in DECISIONS {
        let (record, now) = (record(rec), instant(rec, when));
        assert_eq!(machine::phase(record.as_ref(), now), phase, "{rec:?} {when:?}");
        let decision = match decide(record.as_ref(), fingerprint(req), now) {
            Decision::Run => Says::Run,
            Decision::Replay(replayed) => {
                assert_eq!(*replayed, answer());
                Says::Replay
            }
            Decision::Wait(until) => {
                assert_eq!(until, instant(rec, AtLeaseEnd));
                Says::Wait
            }
            Decision::Mismatch => Says::Mismatch,
            Decision::Unknown => Says::Unknown,
            Decision::Expired => Says::Expired,
        };
        assert_eq!(decision, says, "{rec:?} {when:?} {req:?}");
    }
}

#[test]
fn each_claim_gets_what_the_table_says() {
    for &(rec, when, req, _, _, by_another, by_its_owner) in DECISIONS {
        for (owner, gets) in [(Owner::from_bytes([9; 16]), by_another), (owner(), by_its_owner)] {
            let context = format!("{rec:?} {when:?} {req:?} {gets:?}");
            let (previous, now) = (record(rec), instant(rec, when));
            let asked = Claim { fingerprint: fingerprint(req), owner, ..request() };
            let claimed = claim(previous.clone(), &asked, now);
            let epoch = previous.as_ref().map_or(Epoch::FIRST, |record| record.epoch.next());
            let won = |epoch, attempt, created_at, notes| {
                Claimed::Won(Record {
                    fingerprint: asked.fingerprint,
                    owner,
                    epoch,
                    attempt,
                    created_at,
                    takeover_at: Some(now + POLICY.lease),
                    free_at: Some(now + POLICY.lease + POLICY.retention + POLICY.tombstone),
                    state: State::Running { lease_ends_at: now + POLICY.lease, notes },
                    ..record(Leased).expect("there is one")
                })
            };
            let expected = match gets {
                Gets::Held => Claimed::Held(previous.expect("there is one")),
                Gets::Ours => Claimed::Won(previous.expect("there is one")),
                Gets::First => won(Epoch::FIRST, 1, now, Notes::default()),
                Gets::Anew => won(epoch, 1, now, Notes::default()),
                Gets::Next => {
                    let record = previous.expect("there is one");
                    let notes = Notes { released: false, after_crash: rec == Leased, ..notes(&record) };
                    won(epoch, record.attempt + 1, record.created_at, notes)
                }
            };
            assert_eq!(claimed, expected, "{context}");
        }
    }
}

/// A store's claim wins if and only if a reader of the record is told to run.
#[test]
fn claim_and_decision_agree() {
    for &(rec, when, req, _, says, by_another, _) in DECISIONS {
        assert_eq!(says == Says::Run, by_another != Gets::Held, "{rec:?} {when:?} {req:?}");
    }
}

/// I7: while a key is not free, another request neither runs nor gets any part of its answer.
#[test]
fn i7_another_request_only_ever_gets_a_free_key() {
    for &(rec, when, _, phase, says, by_another, _) in DECISIONS.iter().filter(|row| row.2 == Req::Other) {
        match phase {
            Phase::Free => assert_eq!(says, Says::Run),
            _ => assert_eq!((says, by_another), (Says::Mismatch, Gets::Held), "{rec:?} {when:?}"),
        }
    }
}

#[test]
fn takeover_knows_whether_the_run_before_died() {
    let (leased, retried) = (record(Leased).expect("there is one"), record(Retried).expect("there is one"));
    for (record, when, after_crash) in [(leased, instant(Leased, AtLeaseEnd), true), (retried, START, false)] {
        let asked = Claim { owner: Owner::from_bytes([9; 16]), ..request() };
        let Claimed::Won(taken) = claim(Some(record), &asked, when) else { panic!("the same request takes over") };
        assert_eq!(notes(&taken).after_crash, after_crash);
        assert!(!notes(&taken).released);
    }
}

#[test]
fn each_guarantee_has_its_terms() {
    let lease = POLICY.lease;
    let free = Some(lease + POLICY.retention + POLICY.tombstone);
    let again = Terms { lease, takeover: Some(lease), free };
    assert_eq!(Terms::of(Guarantee::Atomic, &POLICY), again);
    assert_eq!(Terms::of(Guarantee::Fenced, &POLICY), again);
    assert_eq!(Terms::of(Guarantee::AtMostOnce, &POLICY), Terms { lease, takeover: None, free: None });
}
