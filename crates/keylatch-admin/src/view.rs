//! What operators see of records.

use std::fmt;

use keylatch::machine::{self, phase};
use keylatch::store::State;
use keylatch::{Body, Guarantee, Outcome, Record, Scope, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An instant, as [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339) writes it: `2026-11-24T03:00:00.25Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = DateTime)]
pub struct Instant(jiff::Timestamp);

impl Instant {
    /// Now, on the clock of this process.
    pub(crate) fn now() -> Self {
        Self(jiff::Timestamp::now())
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An instant on the clock of a store. One that no calendar has becomes the last one that it has.
pub fn instant(at: Timestamp) -> Instant {
    let limit = if at.as_millis() < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    Instant(jiff::Timestamp::from_millisecond(at.as_millis()).unwrap_or(limit))
}

/// Where a record stands: see [`machine::Phase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Anyone may claim the key; the record only keeps the epoch.
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

impl Phase {
    /// All phases.
    pub const ALL: [Self; 6] =
        [Self::Free, Self::Running, Self::Abandoned, Self::Unknown, Self::Completed, Self::Tombstone];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Running => "running",
            Self::Abandoned => "abandoned",
            Self::Unknown => "unknown",
            Self::Completed => "completed",
            Self::Tombstone => "tombstone",
        }
    }
}

impl From<machine::Phase> for Phase {
    fn from(phase: machine::Phase) -> Self {
        match phase {
            machine::Phase::Free => Self::Free,
            machine::Phase::Running => Self::Running,
            machine::Phase::Abandoned => Self::Abandoned,
            machine::Phase::Unknown => Self::Unknown,
            machine::Phase::Completed => Self::Completed,
            machine::Phase::Tombstone => Self::Tombstone,
        }
    }
}

/// The guarantee of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuaranteeName {
    /// Claim, writes and outcome are one transaction: exactly once.
    Atomic,
    /// A retry runs again after a crash.
    Fenced,
    /// Never twice; the outcome may be unknown.
    AtMostOnce,
}

impl From<Guarantee> for GuaranteeName {
    fn from(guarantee: Guarantee) -> Self {
        match guarantee {
            Guarantee::Atomic => Self::Atomic,
            Guarantee::Fenced => Self::Fenced,
            Guarantee::AtMostOnce => Self::AtMostOnce,
        }
    }
}

/// The name space of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeName {
    /// Who calls.
    pub caller: String,
    /// What is called, such as `POST /api/orders`; empty for any operation.
    #[serde(default)]
    pub operation: String,
}

impl From<&Scope> for ScopeName {
    fn from(scope: &Scope) -> Self {
        Self { caller: scope.caller().to_owned(), operation: scope.operation().to_owned() }
    }
}

/// A record, without the content of its answer and of its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RecordView {
    /// The identity of the record: 64 hexadecimal digits.
    pub id: String,
    /// The name space of its key.
    pub scope: ScopeName,
    /// The key.
    pub key: String,
    /// Where it stands, on the store's clock.
    pub phase: Phase,
    /// The guarantee when the run started.
    pub guarantee: GuaranteeName,
    /// The fencing number. An action needs the one that its operator has seen.
    pub epoch: u64,
    /// The attempt number of the run, from 1.
    pub attempt: u32,
    /// When the first run of this request was claimed.
    pub created_at: Instant,
    /// The end of the lease of a run.
    pub lease_ends_at: Option<Instant>,
    /// From when the same request may take over; `null` for never.
    pub takeover_at: Option<Instant>,
    /// When the answer is no longer kept.
    pub expires_at: Option<Instant>,
    /// From when anyone may claim the key anew; `null` for never.
    pub free_at: Option<Instant>,
    /// The names of the finished steps of a run, in the order in which they finished.
    pub steps: Vec<String>,
    /// Whether the run follows one that died.
    pub after_crash: bool,
    /// Whether the latest attempt has given its key back by itself, without an outcome.
    pub released: bool,
    /// The answer, if it is kept.
    pub outcome: Option<OutcomeView>,
}

/// What is shown of an answer to everyone: its status and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct OutcomeView {
    /// The status.
    pub status: u16,
    /// The size of the body; `null` if the body was too large to keep, or a stream.
    pub body_bytes: Option<u64>,
}

impl From<&Outcome> for OutcomeView {
    fn from(outcome: &Outcome) -> Self {
        let body_bytes = match &outcome.body {
            Body::Kept(bytes) => Some(bytes.len() as u64),
            Body::NotRetained { .. } => None,
        };
        Self { status: outcome.status.as_u16(), body_bytes }
    }
}

impl RecordView {
    /// What is seen of `record` at `now`.
    pub fn new(record: &Record, now: Timestamp) -> Self {
        let (mut lease_ends_at, mut expires_at, mut kept) = (None, None, None);
        let (mut steps, mut after_crash, mut released) = (Vec::new(), false, false);
        match &record.state {
            State::Running { lease_ends_at: end, notes } => {
                lease_ends_at = Some(instant(*end));
                steps = notes.steps.iter().map(|(name, _)| name.clone()).collect();
                (after_crash, released) = (notes.after_crash, notes.released);
            }
            State::Completed { outcome, expires_at: end } => {
                expires_at = Some(instant(*end));
                kept = outcome.as_deref().filter(|_| phase(Some(record), now) == machine::Phase::Completed);
            }
        }
        Self {
            id: record.id().to_string(),
            scope: (&record.scope).into(),
            key: record.key.as_str().to_owned(),
            phase: phase(Some(record), now).into(),
            guarantee: record.guarantee.into(),
            epoch: record.epoch.as_u64(),
            attempt: record.attempt,
            created_at: instant(record.created_at),
            lease_ends_at,
            takeover_at: record.takeover_at.map(instant),
            expires_at,
            free_at: record.free_at.map(instant),
            steps,
            after_crash,
            released,
            outcome: kept.map(Into::into),
        }
    }
}
