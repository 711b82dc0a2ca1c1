//! All the semantics, pure: values in, a decision or the next record out. No I/O, no clock, no async.
//!
//! ```text
//!              claim                     complete            expires_at, forget         free_at
//!   (absent) ─────────▶ Running ───────────────────▶ Completed ─────────────▶ Tombstone ─────────▶ (absent)
//!                        │   ▲                           ▲
//!          takeover_at   │   │ claim by the same request │ complete: resolved, or a late owner
//!                        ├──▶ Abandoned                  │
//!          lease_ends_at │                               │
//!                        └──▶ Unknown ───────────────────┘
//! ```
//!
//! A phase is not stored: it follows from the record's state and the time. [`decide`] says what a request
//! gets; [`claim`], [`renew`], [`complete`], [`release`], [`resolve`], [`forget`] and [`sweep`] say what a store writes.

mod writes;

use std::time::Duration;

use bytes::Bytes;

pub use self::writes::{Claim, Completion, End, Resolution, Terms};
use crate::record::{Epoch, Lease, Notes, Record, State};
use crate::{Fingerprint, Outcome, Timestamp};

// ---- What a request gets -------------------------------------------------------------------------------

/// The phase of a record at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No record, or an expired one: anyone may claim the key.
    Free,
    /// It is running.
    Running,
    /// A run's lease has ended without an outcome; the same request may take over.
    Abandoned,
    /// A run's lease has ended without an outcome, and nobody may take over until it is resolved.
    Unknown,
    /// The answer is stored.
    Completed,
    /// It took effect; the answer is no longer kept.
    Tombstone,
}

/// What a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<'r> {
    /// It may claim the key and run.
    Run,
    /// The stored outcome is its answer.
    Replay(&'r Outcome),
    /// The same request is running now, under a lease that ends then.
    Wait(Timestamp),
    /// Neither: the key belongs to another request. Nothing of that request may be shown.
    Mismatch,
    /// Neither: a run died half-way where it must not run again, and nobody has resolved it.
    Unknown,
    /// Neither: it took effect, and its answer is no longer kept.
    Expired,
}

/// Where `record` stands at `now`.
pub fn phase(record: Option<&Record>, now: Timestamp) -> Phase {
    let Some(record) = record else { return Phase::Free };
    if reached(record.free_at, now) {
        return Phase::Free;
    }
    match &record.state {
        State::Running { .. } if reached(record.takeover_at, now) => Phase::Abandoned,
        State::Running { lease_ends_at, .. } if record.takeover_at.is_none() && *lease_ends_at <= now => Phase::Unknown,
        State::Running { .. } => Phase::Running,
        State::Completed { outcome: Some(_), expires_at } if now < *expires_at => Phase::Completed,
        State::Completed { .. } => Phase::Tombstone,
    }
}

/// What a request with `fingerprint` gets at `now`, given the record of its scope and key.
///
/// The order of precedence: a free key runs; then another request's key is refused, whatever its phase;
/// then the phase decides.
pub fn decide(record: Option<&Record>, fingerprint: Fingerprint, now: Timestamp) -> Decision<'_> {
    let phase = phase(record, now);
    let Some(record) = record.filter(|_| phase != Phase::Free) else { return Decision::Run };
    if record.fingerprint != fingerprint {
        return Decision::Mismatch;
    }
    match (phase, &record.state) {
        (Phase::Completed, State::Completed { outcome: Some(outcome), .. }) => Decision::Replay(outcome),
        (Phase::Running, State::Running { lease_ends_at, .. }) => Decision::Wait(*lease_ends_at),
        (Phase::Abandoned, _) => Decision::Run,
        (Phase::Unknown, _) => Decision::Unknown,
        _ => Decision::Expired,
    }
}

// ---- What is written -----------------------------------------------------------------------------------

/// Who has the key after a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Claimed {
    /// The claimant, with this record.
    Won(Record),
    /// This record, as it was.
    Held(Record),
}

/// The result of a claim at `now`, given the current record.
pub fn claim(previous: Option<Record>, claim: &Claim, now: Timestamp) -> Claimed {
    if let Some(record) = &previous {
        let ours = record.owner == claim.owner && matches!(record.state, State::Running { .. });
        if ours {
            return Claimed::Won(record.clone());
        }
    }
    let (epoch, attempt, created_at, notes) = match (phase(previous.as_ref(), now), previous) {
        (Phase::Free, None) => (Epoch::FIRST, 1, now, Notes::default()),
        (Phase::Free, Some(record)) => (record.epoch.next(), 1, now, Notes::default()),
        (Phase::Abandoned, Some(record)) if record.fingerprint == claim.fingerprint => {
            let State::Running { notes, .. } = record.state else { unreachable!("an abandoned record is running") };
            let notes = Notes { after_crash: !notes.released, released: false, ..notes };
            (record.epoch.next(), record.attempt.saturating_add(1), record.created_at, notes)
        }
        (_, Some(record)) => return Claimed::Held(record),
        (_, None) => unreachable!("a key without a record is free"),
    };
    let Terms { lease, takeover, free } = claim.terms;
    Claimed::Won(Record {
        scope: claim.scope().clone(),
        key: claim.key().clone(),
        fingerprint: claim.fingerprint,
        guarantee: claim.guarantee,
        epoch,
        owner: claim.owner,
        attempt,
        created_at,
        takeover_at: takeover.map(|span| now + span),
        free_at: free.map(|span| now + span),
        state: State::Running { lease_ends_at: now + lease, notes },
    })
}

/// The record with its lease renewed and `step` noted, or `None` if the lease is not the record's.
pub fn renew(
    record: &Record,
    lease: &Lease,
    terms: Terms,
    step: Option<(&str, &Bytes)>,
    now: Timestamp,
) -> Option<Record> {
    let State::Running { notes, .. } = &record.state else { return None };
    if !owns(record, lease) {
        return None;
    }
    let mut notes = notes.clone();
    if let Some((name, result)) = step.filter(|(name, _)| notes.steps.iter().all(|(noted, _)| noted != name)) {
        notes.steps.push((name.to_owned(), result.clone()));
    }
    let Terms { lease, takeover, free } = terms;
    let state = State::Running { lease_ends_at: now + lease, notes };
    Some(next(record, takeover.map(|span| now + span), free.map(|span| now + span), state))
}

/// The record with its outcome, or `None` if the lease is not the record's, or another outcome was first.
///
/// A completion that is sent again after a lost reply finds its own outcome and changes nothing: a final outcome never
/// changes. It finds another one if an operator has resolved the run while its owner was paused; the owner must then
/// give that answer, and not its own.
pub fn complete(record: &Record, lease: &Lease, completion: &Completion, now: Timestamp) -> Option<Record> {
    if !owns(record, lease) {
        return None;
    }
    if let State::Completed { outcome, .. } = &record.state {
        return (outcome.as_ref() == Some(&completion.outcome)).then(|| record.clone());
    }
    let expires_at = now + completion.retention;
    let state = State::Completed { outcome: Some(completion.outcome.clone()), expires_at };
    Some(next(record, None, Some(expires_at + completion.tombstone), state))
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// It stays as it is.
    None,
    /// It becomes this one.
    Write(Record),
    /// It is removed.
    Remove,
}

/// What becomes of the record when its run ends without an outcome; [`Change::None`] if the lease is not the
/// record's, or its outcome is final.
pub fn release(record: &Record, lease: &Lease, end: End, now: Timestamp) -> Change {
    let State::Running { notes, .. } = &record.state else { return Change::None };
    if !owns(record, lease) {
        return Change::None;
    }
    let notes = Notes { released: true, ..notes.clone() };
    let (takeover_at, free_at) = match end {
        End::Free(Duration::ZERO) => return Change::Remove,
        End::Free(keep) => {
            let state = State::Completed { outcome: None, expires_at: now + keep };
            return Change::Write(next(record, None, Some(now), state));
        }
        End::Retry(keep) => (Some(now), Some(now + keep)),
        End::Unknown => (None, None),
    };
    let state = State::Running { lease_ends_at: now, notes };
    Change::Write(next(record, takeover_at, free_at, state))
}

/// What becomes of the record when someone other than its owner resolves its run; [`Change::None`] if the lease is not
/// the record's, or its outcome is not unknown.
///
/// The owner may still be alive, and may have renewed its lease since the resolver looked. So a resolution has a
/// condition that the owner's own writes do not have: the lease has ended. A resolution that is sent again after a lost
/// reply finds its own outcome, or no run to resolve.
pub fn resolve(record: &Record, lease: &Lease, resolution: &Resolution, now: Timestamp) -> Change {
    let running = matches!(record.state, State::Running { .. });
    if running && phase(Some(record), now) != Phase::Unknown {
        return Change::None;
    }
    match resolution {
        Resolution::Completed(completion) => {
            complete(record, lease, completion, now).map_or(Change::None, Change::Write)
        }
        Resolution::NeverHappened(keep) => release(record, lease, End::Free(*keep), now),
    }
}

/// What becomes of the record when an operator takes its answer away: it is a tombstone from `now` on, whose own end stays,
/// so a retry is told that it took effect and does not run again. [`Change::None`] if the lease is not the record's, or
/// the record is not completed or no longer holds its key.
///
/// Sent again after a lost reply, it finds no answer and changes nothing. An answer that is past its retention and not
/// yet swept is taken away, too.
pub fn forget(record: &Record, lease: &Lease, now: Timestamp) -> Change {
    let State::Completed { outcome, expires_at } = &record.state else { return Change::None };
    if !owns(record, lease) || phase(Some(record), now) == Phase::Free {
        return Change::None;
    }
    if outcome.is_none() {
        return Change::Write(record.clone());
    }
    let state = State::Completed { outcome: None, expires_at: now.min(*expires_at) };
    Change::Write(next(record, record.takeover_at, record.free_at, state))
}

/// What becomes of the record when it is cleaned at `now`: after its retention it loses its answer, after its tombstone
/// it is removed. A running or an unexpired record stays, and so does a freed one while its epoch is kept.
pub fn sweep(record: &Record, now: Timestamp) -> Change {
    if reached(removable_at(record), now) {
        return Change::Remove;
    }
    match record.state {
        State::Completed { outcome: Some(_), expires_at } if expires_at <= now => {
            let state = State::Completed { outcome: None, expires_at };
            Change::Write(next(record, record.takeover_at, record.free_at, state))
        }
        _ => Change::None,
    }
}

/// From when [`sweep`] has something to do; `None` for never.
pub fn due_at(record: &Record) -> Option<Timestamp> {
    match record.state {
        State::Completed { outcome: Some(_), expires_at } => Some(expires_at),
        _ => removable_at(record),
    }
}

/// From when [`sweep`] removes the record; `None` for never.
fn removable_at(record: &Record) -> Option<Timestamp> {
    match record.state {
        State::Running { .. } => record.free_at,
        // The epoch of a freed record is kept until then; the tombstone of any other record ends later.
        State::Completed { expires_at, .. } => record.free_at.map(|free_at| free_at.max(expires_at)),
    }
}

/// The record as the same run's next write leaves it.
fn next(record: &Record, takeover_at: Option<Timestamp>, free_at: Option<Timestamp>, state: State) -> Record {
    let Record { scope, key, fingerprint, guarantee, epoch, owner, attempt, created_at, .. } = record;
    Record {
        scope: scope.clone(),
        key: key.clone(),
        fingerprint: *fingerprint,
        guarantee: *guarantee,
        epoch: *epoch,
        owner: *owner,
        attempt: *attempt,
        created_at: *created_at,
        takeover_at,
        free_at,
        state,
    }
}

fn owns(record: &Record, lease: &Lease) -> bool {
    record.epoch == lease.epoch && record.owner == lease.owner
}

/// Whether the instant is reached: when the clock shows it, not only after.
fn reached(instant: Option<Timestamp>, now: Timestamp) -> bool {
    instant.is_some_and(|instant| instant <= now)
}
