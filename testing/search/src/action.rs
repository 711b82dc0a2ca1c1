//! What can happen next.

use std::fmt;

use keylatch::Guarantee;
use keylatch::machine::{self, Change, Phase};

use crate::config::{Config, Resource};
use crate::state::{Attempt, Ending, State, Step};
use crate::store;

/// One thing that happens. Processes are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A millisecond passes.
    Tick,
    /// A sweep runs.
    Sweep,
    /// The late call arrives.
    Arrive,
    /// An operator resolves the unknown run as completed, with this outcome.
    ResolveCompleted,
    /// An operator resolves the unknown run as never started.
    ResolveNeverHappened,
    /// An operator resolves the unknown run as completed, and the call is late.
    ResolveCompletedLate,
    /// An operator takes the answer away.
    Forget,
    /// A client sends this request to this process.
    Send(usize, u8),
    /// This process dies.
    Crash(usize),
    /// This process dies while its call is in flight.
    CrashInCall(usize),
    /// This process calls the store, and the call has this fate.
    Call(usize, Fate),
    /// This process stops trying to write an end.
    GiveUp(usize),
    /// This process starts its handler, if its lease is fresh.
    Start(usize),
    /// The handler of this process calls its resource.
    Effect(usize),
    /// This process renews its lease.
    Renew(usize),
    /// This process sends a renewal that arrives late.
    RenewLate(usize),
    /// The handler of this process ends.
    End(usize, Verdict),
}

/// The fate of a call to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered.
    Answered,
    /// It is carried out, and its reply is lost.
    ReplyLost,
    /// It is lost.
    NotDelivered,
    /// It arrives later; its caller is told that it is lost.
    Delayed,
}

/// How a handler ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// With an outcome.
    Keep,
    /// With an outcome, and its writes are rolled back.
    KeepOutcomeOnly,
    /// Without an outcome.
    Not(Ending),
}

/// Everything that can happen next.
pub fn actions(state: &State, config: &Config) -> Vec<Action> {
    let mut actions = Vec::with_capacity(24);
    if may_tick(state, config) {
        actions.push(Action::Tick);
    }
    if store::swept(state, config) != Change::None {
        actions.push(Action::Sweep);
    }
    if state.late.is_some() {
        actions.push(Action::Arrive);
    }
    if config.resolves && machine::phase(state.record.as_ref(), state.now) == Phase::Unknown {
        actions.push(Action::ResolveCompleted);
        if config.late && state.late.is_none() && state.losses > 0 {
            actions.push(Action::ResolveCompletedLate);
        }
        if may_resolve_as_never_happened(state) {
            actions.push(Action::ResolveNeverHappened);
        }
    }
    if config.forgets && machine::phase(state.record.as_ref(), state.now) == Phase::Completed {
        actions.push(Action::Forget);
    }
    for process in 0..state.processes.len() {
        match state.processes[process] {
            None => {
                // Two idle processes are interchangeable.
                if process == 0 || state.processes[0].is_some() {
                    let requests = (0..3_u8).filter(|request| state.sends[usize::from(*request)] > 0);
                    actions.extend(requests.map(|request| Action::Send(process, request)));
                }
            }
            Some(attempt) => act(process, &attempt, state, config, &mut actions),
        }
    }
    actions
}

fn act(process: usize, attempt: &Attempt, state: &State, config: &Config, actions: &mut Vec<Action>) {
    let may_be_late = config.late && state.late.is_none();
    if state.crashes > 0 {
        actions.push(Action::Crash(process));
    }
    match attempt.step {
        Step::Start => actions.push(Action::Start(process)),
        Step::Run => run(process, attempt, state, config, actions),
        Step::Read | Step::Withdraw | Step::TxRead | Step::TxSettle => {
            actions.push(Action::Call(process, Fate::Answered));
        }
        Step::TxRun => {
            let verdicts = [Verdict::Keep, Verdict::KeepOutcomeOnly, Verdict::Not(Ending::Free)];
            actions.extend(verdicts.map(|verdict| Action::End(process, verdict)));
        }
        Step::Claim | Step::Complete | Step::Release(_) | Step::TxCommit(_) => {
            actions.push(Action::Call(process, Fate::Answered));
            if state.losses > 0 {
                actions.push(Action::Call(process, Fate::ReplyLost));
                actions.push(Action::Call(process, Fate::NotDelivered));
                if may_be_late {
                    actions.push(Action::Call(process, Fate::Delayed));
                }
            }
            if state.crashes > 0 && may_be_late {
                actions.push(Action::CrashInCall(process));
            }
            let ends = matches!(attempt.step, Step::Complete | Step::Release(_));
            if ends && attempt.since.until(state.now) >= config.policy.lease {
                actions.push(Action::GiveUp(process));
            }
        }
    }
}

fn run(process: usize, attempt: &Attempt, state: &State, config: &Config, actions: &mut Vec<Action>) {
    let mut end = |verdict| actions.push(Action::End(process, verdict));
    match config.guarantee {
        Guarantee::AtMostOnce => {
            end(Verdict::Keep);
            end(Verdict::Not(Ending::Free));
            end(Verdict::Not(Ending::Unknown));
        }
        Guarantee::Atomic | Guarantee::Fenced => {
            if attempt.effect {
                end(Verdict::Keep);
            } else if attempt.first {
                // Only the first attempt can know that nothing has happened yet.
                end(Verdict::Not(Ending::Free));
            }
            // An effect without a derived key or an epoch must not be repeated.
            if !(attempt.effect && config.resource == Resource::Plain) {
                end(Verdict::Not(Ending::Retry));
            }
            if !attempt.effect {
                actions.push(Action::Effect(process));
            }
        }
    }
    let lease = crate::state::lease(attempt);
    let renewed = state.record.as_ref().and_then(|record| {
        machine::renew(record, &lease, crate::state::terms(config), None, state.now).filter(|renewed| renewed != record)
    });
    if renewed.is_some() {
        actions.push(Action::Renew(process));
    }
    if config.late && state.late.is_none() && state.losses > 0 {
        actions.push(Action::RenewLate(process));
    }
}

fn may_tick(state: &State, config: &Config) -> bool {
    let mut attempts = state.processes.iter().flatten();
    match config.pauses {
        true => attempts.all(|attempt| attempt.since.until(state.now) < config.attempt_age_max()),
        false => attempts.next().is_none() && state.late.is_none(),
    }
}

/// Whether an honest operator can say that: the owner of the lease is gone, and never started.
fn may_resolve_as_never_happened(state: &State) -> bool {
    let Some(record) = &state.record else { return false };
    let holds = |attempt: &Attempt| crate::state::owner(attempt.owner) == record.owner;
    !state.ghost.has_started() && !state.processes.iter().flatten().any(holds)
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |request: &u8| ["the request", "the same request again", "another request"][usize::from(*request)];
        match self {
            Self::Tick => f.write_str("a millisecond passes"),
            Self::Sweep => f.write_str("a sweep comes"),
            Self::Arrive => f.write_str("the late call arrives"),
            Self::ResolveCompleted => f.write_str("an operator: it took effect"),
            Self::ResolveNeverHappened => f.write_str("an operator: it never started"),
            Self::ResolveCompletedLate => f.write_str("an operator: it took effect; the call is late"),
            Self::Forget => f.write_str("an operator takes the answer away"),
            Self::Send(process, request) => write!(f, "process {process} gets {}", name(request)),
            Self::Crash(process) => write!(f, "process {process} dies"),
            Self::CrashInCall(process) => write!(f, "process {process} dies, its call on its way"),
            Self::Call(process, Fate::Answered) => write!(f, "process {process} calls the store"),
            Self::Call(process, Fate::ReplyLost) => write!(f, "process {process} calls the store; the reply is lost"),
            Self::Call(process, Fate::NotDelivered) => write!(f, "process {process} calls the store; the call is lost"),
            Self::Call(process, Fate::Delayed) => write!(f, "process {process} calls the store; the call is late"),
            Self::GiveUp(process) => write!(f, "process {process} gives up"),
            Self::Start(process) => write!(f, "process {process} starts its handler, if its lease is fresh"),
            Self::Effect(process) => write!(f, "the handler of process {process} has its effect"),
            Self::Renew(process) => write!(f, "process {process} renews its lease"),
            Self::RenewLate(process) => write!(f, "process {process} renews its lease; the call is late"),
            Self::End(process, verdict) => write!(f, "the handler of process {process} ends: {verdict:?}"),
        }
    }
}
