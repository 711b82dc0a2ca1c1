//! The store: the real machine on one record, watched by the observer.

use std::time::Duration;

use keylatch::machine::{self, Change, Claimed, Completion, Resolution};
use keylatch::store::State as RecordState;
use keylatch::{Lease, Record};

use crate::config::{Bug, Config};
use crate::explore::Seen;
use crate::ghost::Violation;
use crate::state::{Call, Ending, OPERATOR, State, claim, end, fingerprint_of, is_same, maker, outcome_of, terms};

/// What the store answers to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The claim won this record.
    Won(Record),
    /// The key is held by this record.
    Held(Record),
    /// The write changed the record, or had changed it before.
    Applied,
    /// The lease is lost.
    Lost,
}

/// Carries out a call.
///
/// # Errors
///
/// If an invariant does not hold.
pub fn carry_out(state: &mut State, call: Call, config: &Config, seen: &mut Seen) -> Result<Reply, Violation> {
    match call {
        Call::Claim(request, owner) => carry_out_claim(state, request, owner, config, seen),
        Call::Renew(lease) => {
            let written = state.record.as_ref().and_then(|record| renewed(record, &lease, state, config));
            write(state, &lease, written.map_or(Change::None, Change::Write), |state| {
                state.ghost.renewed(state.now, config);
                Ok(())
            })
        }
        Call::Complete(lease, outcome) => {
            let same = state.record.as_ref().is_some_and(|record| record.fingerprint == fingerprint_of(0));
            let written = state.record.as_ref().and_then(|record| completed(record, &lease, outcome, state, config));
            let reply = write(state, &lease, written.map_or(Change::None, Change::Write), |state| {
                state.ghost.completed(same, outcome, state.now, config)
            })?;
            seen.lost_completions += usize::from(reply == Reply::Lost);
            Ok(reply)
        }
        Call::Release(lease, ending) => {
            let change =
                state.record.as_ref().map_or(Change::None, |record| released(record, &lease, ending, state, config));
            write(state, &lease, change, |state| {
                state.ghost.released(ending, state.now, config);
                Ok(())
            })
        }
        Call::Resolve(lease, happened) => {
            let same = state.record.as_ref().is_some_and(|record| record.fingerprint == fingerprint_of(0));
            let change =
                state.record.as_ref().map_or(Change::None, |record| resolved(record, &lease, happened, state, config));
            let reply = write(state, &lease, change, |state| {
                state.ghost.resolved(state.now)?;
                if happened {
                    return state.ghost.completed(same, OPERATOR, state.now, config);
                }
                state.ghost.released(Ending::Free, state.now, config);
                Ok(())
            })?;
            seen.resolved += usize::from(reply == Reply::Applied);
            Ok(reply)
        }
        Call::Forget(lease) => {
            let change = state.record.as_ref().map_or(Change::None, |record| forgotten(record, &lease, state, config));
            let reply = write(state, &lease, change, |state| state.ghost.forgotten())?;
            seen.forgotten += usize::from(reply == Reply::Applied);
            Ok(reply)
        }
        Call::Commit(request, owner, effect) => commit(state, request, owner, effect, config, seen),
    }
}

/// Sweeps the record.
///
/// # Errors
///
/// If an invariant does not hold.
pub fn sweep(state: &mut State, config: &Config, seen: &mut Seen) -> Result<(), Violation> {
    match swept(state, config) {
        Change::None => {}
        Change::Write(record) => {
            state.ghost.tombstoned(state.now, config)?;
            state.record = Some(record);
            seen.tombstoned += 1;
        }
        Change::Remove => {
            state.ghost.removed(state.now, config)?;
            state.record = None;
            seen.removed += 1;
        }
    }
    Ok(())
}

/// What a sweep would do now.
pub fn swept(state: &State, config: &Config) -> Change {
    let Some(record) = &state.record else { return Change::None };
    let running = matches!(record.state, RecordState::Running { .. });
    if running && config.has(Bug::SweepOfRunning) {
        return Change::Remove;
    }
    machine::sweep(record, state.now)
}

fn carry_out_claim(
    state: &mut State,
    request: u8,
    owner: u8,
    config: &Config,
    seen: &mut Seen,
) -> Result<Reply, Violation> {
    let mut asked = claim(request, owner, config);
    if let (true, Some(record)) = (config.has(Bug::FingerprintIgnored), &state.record) {
        asked.fingerprint = record.fingerprint;
    }
    let before = state.record.clone().filter(|_| !config.has(Bug::CommitWithoutClaim));
    match machine::claim(before.clone(), &asked, state.now) {
        Claimed::Held(record) => Ok(Reply::Held(record)),
        Claimed::Won(record) if before.as_ref() == Some(&record) => {
            seen.repeated_claims += 1;
            Ok(Reply::Won(record))
        }
        Claimed::Won(mut record) => {
            if let (true, Some(before)) = (config.has(Bug::EpochStays), before) {
                record.epoch = before.epoch;
            }
            state.ghost.claimed(request, owner, record.epoch, state.now, config)?;
            seen.takeovers += usize::from(record.attempt > 1);
            state.record = Some(record.clone());
            Ok(Reply::Won(record))
        }
    }
}

/// One transaction: the claim, the effect and the outcome.
fn commit(
    state: &mut State,
    request: u8,
    owner: u8,
    effect: bool,
    config: &Config,
    seen: &mut Seen,
) -> Result<Reply, Violation> {
    let record = match carry_out_claim(state, request, owner, config, seen)? {
        Reply::Won(record) => record,
        other => return Ok(other),
    };
    if effect {
        state.ghost.commits_effect(request, owner, state.now, config)?;
    }
    let lease = crate::state::lease_of(&record);
    let completion = Completion::new(outcome_of(owner), &config.policy);
    let completed = machine::complete(&record, &lease, &completion, state.now).expect("the lease is its own");
    state.ghost.completed(is_same(request), owner, state.now, config)?;
    state.record = Some(completed.clone());
    Ok(Reply::Won(completed))
}

fn forgotten(record: &Record, lease: &Lease, state: &State, config: &Config) -> Change {
    match machine::forget(record, lease, state.now) {
        Change::Write(_) if config.has(Bug::ForgetLeavesNothing) => Change::Remove,
        Change::Write(record) if config.has(Bug::ForgetFrees) => {
            Change::Write(Record { free_at: Some(state.now), ..record })
        }
        change => change,
    }
}

/// Applies a change under a lease. It must be a change by the record's owner.
fn write(
    state: &mut State,
    lease: &Lease,
    change: Change,
    observe: impl FnOnce(&mut State) -> Result<(), Violation>,
) -> Result<Reply, Violation> {
    let after = match change {
        Change::None => return Ok(Reply::Lost),
        Change::Write(record) => Some(record),
        Change::Remove => None,
    };
    if after == state.record {
        return Ok(Reply::Applied);
    }
    let before = state.record.as_ref().expect("a change changes a record");
    if (before.epoch, before.owner) != (lease.epoch, lease.owner) {
        return Err(Violation { invariant: "I5", what: "a write of another epoch or owner changes the record" });
    }
    observe(state)?;
    state.record = after;
    Ok(Reply::Applied)
}

fn renewed(record: &Record, lease: &Lease, state: &State, config: &Config) -> Option<Record> {
    machine::renew(record, lease, terms(config), None, state.now)
}

fn completed(record: &Record, lease: &Lease, outcome: u8, state: &State, config: &Config) -> Option<Record> {
    let completion = Completion::new(outcome_of(outcome), &config.policy);
    let lease = if config.has(Bug::NoEpochInComplete) { crate::state::lease_of(record) } else { *lease };
    if let RecordState::Completed { outcome: Some(kept), .. } = &record.state {
        let ours = (record.epoch, record.owner) == (lease.epoch, lease.owner);
        if ours && config.has(Bug::ForeignOutcomeIsOurs) {
            return Some(record.clone());
        }
        if ours && config.has(Bug::OutcomeReplaced) && maker(kept) != outcome {
            let expires_at = state.now + config.policy.retention;
            let state = RecordState::Completed { outcome: Some(outcome_of(outcome).into()), expires_at };
            return Some(Record { state, ..record.clone() });
        }
    }
    machine::complete(record, &lease, &completion, state.now)
}

fn released(record: &Record, lease: &Lease, ending: Ending, state: &State, config: &Config) -> Change {
    let completed = matches!(record.state, RecordState::Completed { .. });
    let ours = (record.epoch, record.owner) == (lease.epoch, lease.owner);
    if completed && ours && config.has(Bug::ReleaseAfterComplete) {
        return Change::Remove;
    }
    match ending {
        Ending::Free if config.has(Bug::FreeForgetsEpoch) => {
            machine::release(record, lease, machine::End::Free(Duration::ZERO), state.now)
        }
        _ => machine::release(record, lease, end(ending, config), state.now),
    }
}

fn resolved(record: &Record, lease: &Lease, happened: bool, state: &State, config: &Config) -> Change {
    let completion = Completion::new(outcome_of(OPERATOR), &config.policy);
    match happened {
        true if config.has(Bug::ResolutionIgnoresLease) => {
            machine::complete(record, lease, &completion, state.now).map_or(Change::None, Change::Write)
        }
        true => machine::resolve(record, lease, &Resolution::Completed(completion), state.now),
        false => machine::resolve(record, lease, &Resolution::NeverHappened(config.keep()), state.now),
    }
}
