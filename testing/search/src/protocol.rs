//! What the processes do: the engine's protocol, step by step.

use keylatch::machine::{self, Decision};
use keylatch::{Epoch, Guarantee, Record};

use crate::action::{Action, Fate, Verdict};
use crate::config::{Bug, Config};
use crate::explore::Seen;
use crate::ghost::Violation;
use crate::state::{Attempt, Call, Ending, State, Step, fingerprint_of, lease, lease_of, maker, number};
use crate::store::{self, Reply};

/// Tries of a claim whose reply was lost.
const CLAIM_TRIES: u8 = 2;

/// The state after `action`.
///
/// # Errors
///
/// If an invariant does not hold.
pub fn after(state: &State, action: Action, config: &Config, seen: &mut Seen) -> Result<State, Violation> {
    let mut state = state.clone();
    match action {
        Action::Tick => state.now = state.now + std::time::Duration::from_millis(1),
        Action::Sweep => store::sweep(&mut state, config, seen)?,
        Action::Arrive => {
            let call = state.late.take().expect("a call is late");
            seen.late_calls += 1;
            store::carry_out(&mut state, call, config, seen)?;
        }
        Action::ResolveCompleted | Action::ResolveNeverHappened => {
            let lease = lease_of(state.record.as_ref().expect("an unknown record is there"));
            let call = Call::Resolve(lease, action == Action::ResolveCompleted);
            store::carry_out(&mut state, call, config, seen)?;
        }
        Action::ResolveCompletedLate => {
            state.losses -= 1;
            state.late =
                Some(Call::Resolve(lease_of(state.record.as_ref().expect("an unknown record is there")), true));
        }
        Action::Forget => {
            let lease = lease_of(state.record.as_ref().expect("a completed record is there"));
            store::carry_out(&mut state, Call::Forget(lease), config, seen)?;
        }
        Action::Send(process, request) => begin(&mut state, process, request, config),
        Action::Crash(process) => {
            state.crashes -= 1;
            state.processes[process] = None;
        }
        Action::CrashInCall(process) => {
            state.crashes -= 1;
            state.late = Some(call(&at_work(&state, process)));
            state.processes[process] = None;
        }
        Action::Call(process, fate) => make_call(&mut state, process, fate, config, seen)?,
        Action::GiveUp(process) => state.processes[process] = None,
        Action::Start(process) => start(&mut state, process, config, seen)?,
        Action::Effect(process) => {
            let mut attempt = at_work(&state, process);
            attempt.effect = state.ghost.takes_effect(&attempt, state.now, config)?;
            if !attempt.effect {
                seen.fenced_effects += 1;
                attempt.step = Step::Read;
            }
            state.processes[process] = Some(attempt);
        }
        Action::Renew(process) => {
            let call = Call::Renew(lease(&at_work(&state, process)));
            store::carry_out(&mut state, call, config, seen)?;
        }
        Action::RenewLate(process) => {
            state.losses -= 1;
            state.late = Some(Call::Renew(lease(&at_work(&state, process))));
        }
        Action::End(process, verdict) => end(&mut state, process, verdict, config)?,
    }
    Ok(state)
}

fn at_work(state: &State, process: usize) -> Attempt {
    state.processes[process].expect("the process is at work")
}

/// A request arrives.
fn begin(state: &mut State, process: usize, request: u8, config: &Config) {
    state.sends[usize::from(request)] -= 1;
    state.owners += 1;
    let step = match config.guarantee {
        Guarantee::Atomic => Step::TxRead,
        Guarantee::Fenced | Guarantee::AtMostOnce if config.has(Bug::StartBeforeClaim) => Step::Start,
        Guarantee::Fenced | Guarantee::AtMostOnce => Step::Claim,
    };
    state.processes[process] = Some(Attempt {
        request,
        owner: state.owners,
        since: state.now,
        tries: CLAIM_TRIES,
        epoch: Epoch::FIRST,
        first: true,
        effect: false,
        step,
    });
}

/// The lease is held. Nothing starts under a lease that may have ended since it was requested.
fn start(state: &mut State, process: usize, config: &Config, seen: &mut Seen) -> Result<(), Violation> {
    let mut attempt = at_work(state, process);
    if attempt.since.until(state.now) >= config.policy.lease {
        attempt.step = Step::Read;
    } else {
        state.ghost.starts(&attempt, config)?;
        seen.starts += 1;
        attempt.step = Step::Run;
    }
    state.processes[process] = Some(attempt);
    Ok(())
}

/// The handler has ended.
fn end(state: &mut State, process: usize, verdict: Verdict, config: &Config) -> Result<(), Violation> {
    let attempt = at_work(state, process);
    let step = match (attempt.step, verdict) {
        // The transaction is gone, and no part of it was ever in the store.
        (Step::TxRun, Verdict::Not(_)) => {
            state.processes[process] = None;
            return Ok(());
        }
        (Step::TxRun, verdict) => Step::TxCommit(verdict == Verdict::Keep),
        (_, Verdict::Not(ending)) => Step::Release(ending),
        (_, Verdict::Keep | Verdict::KeepOutcomeOnly) => {
            if config.has(Bug::AnswerBeforeRecord) {
                state.ghost.answers(attempt.request, attempt.owner)?;
            }
            Step::Complete
        }
    };
    state.processes[process] = Some(Attempt { step, ..attempt });
    Ok(())
}

/// The write that a process is about to make.
fn call(attempt: &Attempt) -> Call {
    match attempt.step {
        Step::Claim => Call::Claim(attempt.request, attempt.owner),
        Step::Complete => Call::Complete(lease(attempt), attempt.owner),
        Step::Release(ending) => Call::Release(lease(attempt), ending),
        Step::TxCommit(effect) => Call::Commit(attempt.request, attempt.owner, effect),
        step => panic!("{step:?} writes nothing"),
    }
}

fn make_call(state: &mut State, process: usize, fate: Fate, config: &Config, seen: &mut Seen) -> Result<(), Violation> {
    let attempt = at_work(state, process);
    let next = match attempt.step {
        Step::Read => {
            let record = state.record.clone();
            conclude(state, &attempt, record.as_ref(), config, seen)?;
            None
        }
        Step::Withdraw => withdraw(state, attempt, config),
        Step::TxRead => match machine::decide(state.record.as_ref(), fingerprint_of(attempt.request), state.now) {
            Decision::Run => {
                seen.starts += 1;
                Some(Attempt { step: Step::TxRun, ..attempt })
            }
            _ => {
                let record = state.record.clone();
                conclude(state, &attempt, record.as_ref(), config, seen)?;
                None
            }
        },
        Step::TxSettle => {
            let record = state.record.clone();
            if record.is_some() {
                conclude(state, &attempt, record.as_ref(), config, seen)?;
            }
            None
        }
        _ => {
            let call = call(&attempt);
            let reply = match fate {
                Fate::Answered => Some(store::carry_out(state, call, config, seen)?),
                Fate::ReplyLost => {
                    store::carry_out(state, call, config, seen)?;
                    None
                }
                Fate::NotDelivered => None,
                Fate::Delayed => {
                    state.late = Some(call);
                    None
                }
            };
            match reply {
                Some(reply) => answered(state, attempt, reply, config, seen)?,
                None => {
                    state.losses -= 1;
                    unanswered(attempt, config)
                }
            }
        }
    };
    state.processes[process] = next;
    Ok(())
}

/// What a process does after its call was answered.
fn answered(
    state: &State,
    attempt: Attempt,
    reply: Reply,
    config: &Config,
    seen: &mut Seen,
) -> Result<Option<Attempt>, Violation> {
    match (attempt.step, reply) {
        (Step::Claim, Reply::Won(record)) => {
            let first = record.attempt == 1;
            Ok(Some(Attempt { epoch: record.epoch, first, step: Step::Start, ..attempt }))
        }
        (_, Reply::Held(record)) => {
            conclude(state, &attempt, Some(&record), config, seen)?;
            Ok(None)
        }
        (Step::Complete, Reply::Applied) => {
            state.ghost.answers(attempt.request, attempt.owner)?;
            let releases = config.has(Bug::ReleaseAfterComplete);
            Ok(releases.then_some(Attempt { step: Step::Release(Ending::Free), ..attempt }))
        }
        (Step::Complete, Reply::Lost) => Ok(Some(Attempt { step: Step::Read, ..attempt })),
        (Step::TxCommit(_), Reply::Won(_)) => {
            state.ghost.answers(attempt.request, attempt.owner)?;
            Ok(None)
        }
        (_, _) => Ok(None),
    }
}

/// What a process does after its call was not answered.
fn unanswered(attempt: Attempt, config: &Config) -> Option<Attempt> {
    match attempt.step {
        Step::Claim if config.has(Bug::LostReplyIsFailure) => None,
        Step::Complete if config.has(Bug::LostReplyIsFailure) => {
            Some(Attempt { step: Step::Release(Ending::Retry), ..attempt })
        }
        Step::Claim if attempt.tries > 1 => Some(Attempt { tries: attempt.tries - 1, ..attempt }),
        Step::Claim => Some(Attempt { step: Step::Withdraw, ..attempt }),
        Step::TxCommit(_) => Some(Attempt { step: Step::TxSettle, ..attempt }),
        _ => Some(attempt),
    }
}

/// A claim that may have been granted is withdrawn. This attempt must not erase what an earlier attempt has done.
fn withdraw(state: &State, attempt: Attempt, config: &Config) -> Option<Attempt> {
    let record = state.record.as_ref().filter(|record| number(record.owner) == attempt.owner)?;
    let ending = if record.attempt == 1 || config.has(Bug::WithdrawForgets) { Ending::Free } else { Ending::Retry };
    Some(Attempt { epoch: record.epoch, step: Step::Release(ending), ..attempt })
}

/// The request gets what the record decides.
fn conclude(
    state: &State,
    attempt: &Attempt,
    record: Option<&Record>,
    config: &Config,
    seen: &mut Seen,
) -> Result<(), Violation> {
    let decision = machine::decide(record, fingerprint_of(attempt.request), state.now);
    state.ghost.decides(attempt.request, &decision, state.now, config)?;
    match decision {
        Decision::Replay(outcome) => {
            seen.replays += 1;
            state.ghost.answers(attempt.request, maker(outcome))
        }
        Decision::Mismatch => {
            seen.mismatches += 1;
            Ok(())
        }
        Decision::Expired => {
            seen.expired += 1;
            Ok(())
        }
        Decision::Unknown => {
            seen.unknown += 1;
            let faultless = config.crashes == 0 && !config.pauses;
            let said = state.ghost.said_unknown();
            if faultless && !said {
                return Err(Violation { invariant: "I10", what: "an outcome is unknown although nothing has failed" });
            }
            Ok(())
        }
        Decision::Wait(_) | Decision::Run => Ok(()),
    }
}
