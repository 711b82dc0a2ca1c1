//! What can be done to a record, and what it would do.

use keylatch::machine::{Phase, phase};
use keylatch::{Epoch, Record, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Error, Now};
use crate::view::{RecordView, instant};

/// What can be done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Let go of the key of an unknown run, so that a retry runs.
    Release,
    /// Write the answer of an unknown run.
    Resolve,
    /// Take a recorded answer away, and leave its tombstone.
    Forget,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Release, Self::Resolve, Self::Forget];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Resolve => "resolve",
            Self::Forget => "forget",
        }
    }
}

/// What an action would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Plan {
    /// The action.
    pub action: Action,
    /// Whether it can be done now.
    pub possible: bool,
    /// What it does, or why it cannot be done.
    pub says: String,
    /// Whether the request may take effect a second time.
    pub second_run: bool,
}

impl Plan {
    /// What `action` would do to `record` at `now`.
    pub(super) fn new(action: Action, record: &Record, now: Timestamp) -> Self {
        let phase = phase(Some(record), now);
        let possible = match action {
            Action::Release | Action::Resolve => phase == Phase::Unknown,
            // A tombstone, too: it can be sent again if a cache was not told the first time.
            Action::Forget => matches!(phase, Phase::Completed | Phase::Tombstone),
        };
        let says = match (possible, action) {
            (true, Action::Release) => {
                "The key is let go, and the next request with it runs. The outcome of the earlier run is not known: if it \
                 took effect, it takes effect a second time. Make sure first that it did not."
                    .to_owned()
            }
            (true, Action::Resolve) => {
                "This answer becomes the answer of the request, for good: every retry gets it, and it never runs again."
                    .to_owned()
            }
            (true, Action::Forget) if phase == Phase::Tombstone => {
                "Its answer is no longer given already. Sent again, it removes what is not yet swept, and what a cache in \
                 front of the store still has."
                    .to_owned()
            }
            (true, Action::Forget) => {
                let until = record.free_at.map(|at| format!(" until {}", instant(at))).unwrap_or_default();
                format!(
                    "The answer is removed for good, and its tombstone stays{until}: a retry gets 410 and never runs again. \
                     Other processes may still give it from memory, for a minute unless they are set otherwise."
                )
            }
            (false, _) => why_not(action, phase).to_owned(),
        };
        Self { action, possible, says, second_run: possible && action == Action::Release }
    }

    /// [`new`](Self::new), if `record` is in the epoch that the operator has seen, and `action` can be done to it.
    pub(super) fn check(action: Action, record: &Record, seen: u64, now: Timestamp) -> Result<Self, Error> {
        let there = || Now::Record(Box::new(RecordView::new(record, now)));
        if record.epoch != Epoch::from_u64(seen) {
            return Err(Error::Stale(there()));
        }
        let plan = Self::new(action, record, now);
        match phase(Some(record), now) {
            _ if plan.possible => Ok(plan),
            Phase::Running => Err(Error::Alive(there())),
            phase => Err(Error::NotPossible { why: why_not(action, phase).to_owned(), now: there() }),
        }
    }
}

/// Why `action` cannot be done to a record in `phase`.
const fn why_not(action: Action, phase: Phase) -> &'static str {
    match (action, phase) {
        (_, Phase::Running) => "the run has an owner that is alive: its lease has not ended. Wait for its end",
        (_, Phase::Free) => "the key is free: the next request with it runs",
        (Action::Forget, _) => "it has no recorded answer",
        (_, Phase::Abandoned) => {
            "a retry of the same request takes over by itself, with the next epoch: there is nothing to resolve"
        }
        (_, Phase::Completed) => "its answer is recorded: there is nothing to resolve",
        (_, Phase::Tombstone) => "it took effect, and its answer is no longer kept: there is nothing to resolve",
        (_, Phase::Unknown) => "its outcome is unknown",
    }
}
