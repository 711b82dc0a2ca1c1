//! A store and the machine never differ: every record, request and instant is tried on both.

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, MS, NEVER_HAPPENED, RETENTION, Subject, TOMBSTONE, again, at_most_once, completion, fenced,
    reused, with_other_owner, with_stale_epoch,
};
use crate::machine::{self, Change, Claim, Claimed, Decision, End, Resolution, Terms};
use crate::store::{Applied, Swept};
use crate::{Guarantee, Lease, Record, Timestamp};

const RETRY: std::time::Duration = LEASE.saturating_mul(3);

/// The history that led to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    Absent,
    Fenced,
    Noted,
    AtMostOnce,
    Completed,
    CompletedAtMostOnce,
    Forgotten,
    Retried,
    Unknown,
    Freed,
    Gone,
}

const HISTORIES: [History; 11] = {
    use History::*;
    [Absent, Fenced, Noted, AtMostOnce, Completed, CompletedAtMostOnce, Forgotten, Retried, Unknown, Freed, Gone]
};

/// Every instant at which something changes for any of these records, 1 ms before it, and 1 ms after.
fn instants(start: Timestamp) -> Vec<Timestamp> {
    let free = LEASE + RETENTION + TOMBSTONE;
    let mut instants = vec![start];
    for span in [LEASE, RETRY, RETENTION, TOMBSTONE, RETENTION + TOMBSTONE, free] {
        instants.extend([start + (span - MS), start + span, start + span + MS]);
    }
    instants.sort();
    instants.dedup();
    instants
}

async fn lived(subject: &Subject<'_>, history: History, key: &str) -> (Claim, Option<Lease>) {
    let claim = match history {
        History::AtMostOnce | History::CompletedAtMostOnce => at_most_once(key),
        _ => fenced(key),
    };
    if history == History::Absent {
        return (claim, None);
    }
    let lease = subject.win(&claim).await.lease();
    let applied = match history {
        History::Absent | History::Fenced | History::AtMostOnce => return (claim, Some(lease)),
        History::Noted => subject.note(lease, "charge", "paid").await,
        History::Completed | History::CompletedAtMostOnce => subject.complete(lease, completion("answer")).await,
        History::Forgotten => {
            subject.assert_applied(subject.complete(lease, completion("answer")).await).await;
            subject.forget(lease).await
        }
        History::Retried => subject.release(lease, End::Retry(RETRY)).await,
        History::Unknown => subject.release(lease, End::Unknown).await,
        History::Freed => subject.release(lease, FREE).await,
        History::Gone => subject.release(lease, GONE).await,
    };
    subject.assert_applied(applied).await;
    (claim, Some(lease))
}

/// A claim wins if and only if the machine says that the request runs, and writes what the machine writes.
pub async fn claim_wins_if_and_only_if_the_machine_says_run(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let start = subject.now().await;
    let (mut won, mut held) = (0, 0);
    let mut trials = Vec::new();
    for (at, instant) in instants(start).into_iter().enumerate() {
        for history in HISTORIES {
            for same in [true, false] {
                let (claim, _) = lived(&subject, history, &format!("{history:?}-{at}-{same}")).await;
                trials.push((instant, history, if same { again(&claim) } else { reused(&claim) }));
            }
        }
    }
    for (instant, history, claim) in trials {
        subject.advance(subject.now().await.until(instant)).await;
        let before = subject.read(claim.id()).await;
        let runs = matches!(machine::decide(before.as_ref(), claim.fingerprint, instant), Decision::Run);
        let expected = machine::claim(before.clone(), &claim, instant);
        let claimed = subject.claim(&claim).await;
        assert_eq!(matches!(claimed, Claimed::Won(_)), runs, "{history:?} at {instant}, from {start}");
        assert_eq!(claimed, expected, "{history:?} at {instant}, from {start}");
        let after = match &claimed {
            Claimed::Won(record) => Some(record.clone()),
            Claimed::Held(_) => before,
        };
        assert_eq!(subject.read(claim.id()).await, after);
        if runs { won += 1 } else { held += 1 }
    }
    assert!(won > 100 && held > 100, "both answers are tried: {won} won, {held} held");
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Renew,
    RenewForGood,
    Note,
    Complete,
    Free,
    Remove,
    Retry,
    Unknown,
    Resolve,
    NeverHappened,
    Forget,
}

const WRITES: [Write; 11] = {
    use Write::*;
    [Renew, RenewForGood, Note, Complete, Free, Remove, Retry, Unknown, Resolve, NeverHappened, Forget]
};

async fn write(subject: &Subject<'_>, write: Write, lease: Lease) -> Applied {
    match write {
        Write::Renew => subject.renew(lease, fenced("any").terms).await,
        Write::RenewForGood => subject.renew(lease, at_most_once("any").terms).await,
        Write::Note => subject.note(lease, "mail", "sent").await,
        Write::Complete => subject.complete(lease, completion("written")).await,
        Write::Free => subject.release(lease, FREE).await,
        Write::Remove => subject.release(lease, GONE).await,
        Write::Retry => subject.release(lease, End::Retry(RETRY)).await,
        Write::Unknown => subject.release(lease, End::Unknown).await,
        Write::Resolve => subject.resolve(lease, Resolution::Completed(completion("written"))).await,
        Write::NeverHappened => subject.resolve(lease, NEVER_HAPPENED).await,
        Write::Forget => subject.forget(lease).await,
    }
}

fn expected(record: &Record, write: Write, lease: &Lease, now: Timestamp) -> Change {
    let renewed = |terms, step| machine::renew(record, lease, terms, step, now).map_or(Change::None, Change::Write);
    let fenced = Terms::of(Guarantee::Fenced, &super::fixture::POLICY);
    match write {
        Write::Renew => renewed(fenced, None),
        Write::RenewForGood => renewed(at_most_once("any").terms, None),
        Write::Note => renewed(fenced, Some(("mail", &"sent".into()))),
        Write::Complete => {
            machine::complete(record, lease, &completion("written"), now).map_or(Change::None, Change::Write)
        }
        Write::Free => machine::release(record, lease, FREE, now),
        Write::Remove => machine::release(record, lease, GONE, now),
        Write::Retry => machine::release(record, lease, End::Retry(RETRY), now),
        Write::Unknown => machine::release(record, lease, End::Unknown, now),
        Write::Resolve => machine::resolve(record, lease, &Resolution::Completed(completion("written")), now),
        Write::NeverHappened => machine::resolve(record, lease, &NEVER_HAPPENED, now),
        Write::Forget => machine::forget(record, lease, now),
    }
}

/// A write under a lease is applied if and only if the machine applies it, and writes what the machine writes.
pub async fn writes_are_those_of_the_machine(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let start = subject.now().await;
    let (mut applied, mut lost) = (0, 0);
    for (round, wait) in [MS, LEASE, RETENTION, RETENTION + TOMBSTONE + LEASE].into_iter().enumerate() {
        let mut trials = Vec::new();
        for history in HISTORIES.into_iter().skip(1) {
            for kind in WRITES {
                for (name, lease_of) in [
                    ("own", (|lease| lease) as fn(Lease) -> Lease),
                    ("stale", with_stale_epoch),
                    ("other", with_other_owner),
                ] {
                    let (_, lease) = lived(&subject, history, &format!("{history:?}-{round}-{kind:?}-{name}")).await;
                    trials.push((history, kind, name, lease_of(lease.expect("a record that was claimed"))));
                }
            }
        }
        subject.advance(wait).await;
        let now = subject.now().await;
        for (history, kind, name, lease) in trials {
            let before = subject.read(lease.id).await;
            let change = before.as_ref().map_or(Change::None, |record| expected(record, kind, &lease, now));
            let written = write(&subject, kind, lease).await;
            let context = format!("{history:?}, {kind:?} by the {name} lease, {:?} after the start", start.until(now));
            let after = match change {
                Change::None => before,
                Change::Write(ref record) => Some(record.clone()),
                Change::Remove => None,
            };
            assert_eq!(subject.read(lease.id).await, after, "{context}");
            match change {
                Change::None => assert_eq!(written, Applied::Lost, "{context}"),
                _ => assert_eq!(written, Applied::Applied(now), "{context}"),
            }
            if written == Applied::Lost { lost += 1 } else { applied += 1 }
        }
    }
    assert!(applied > 100 && lost > 100, "both answers are tried: {applied} applied, {lost} lost");
}

/// A sweep does to every record what the machine does, at every instant.
pub async fn sweep_is_that_of_the_machine(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let start = subject.now().await;
    let mut ids = Vec::new();
    for history in HISTORIES.into_iter().skip(1) {
        for at in 0..3 {
            ids.push(lived(&subject, history, &format!("{history:?}-{at}")).await.0.id());
        }
    }
    let mut touched = 0;
    for now in instants(start) {
        subject.advance(subject.now().await.until(now)).await;
        let mut after = Vec::new();
        let mut expected = Swept::default();
        for id in &ids {
            let before = subject.read(*id).await;
            after.push(match before.as_ref().map_or(Change::None, |record| machine::sweep(record, now)) {
                Change::None => before,
                Change::Write(record) => {
                    expected.tombstoned += 1;
                    Some(record)
                }
                Change::Remove => {
                    expected.removed += 1;
                    None
                }
            });
        }
        assert_eq!(subject.sweep(1_000).await, expected, "at {now}, from {start}");
        for (id, after) in ids.iter().zip(after) {
            assert_eq!(subject.read(*id).await, after, "at {now}, from {start}");
        }
        touched += expected.total();
    }
    assert!(touched > 15, "the sweeps have touched something: {touched}");
}
