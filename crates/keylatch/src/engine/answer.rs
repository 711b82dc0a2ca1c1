//! What goes into the engine, and what comes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::surely;
use crate::tx::Misuse;
use crate::{Epoch, Fingerprint, Guarantee, Key, Outcome, Owner, Record, Scope, State, Timestamp, store};

/// A request for one effect.
#[derive(Debug, Clone)]
pub struct Request {
    /// The name space of the key.
    pub scope: Scope,
    /// The key.
    pub key: Key,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// How long to wait if the same request is running; at most [`Limits::wait_max`](crate::Limits::wait_max). Zero: do
    /// not wait.
    pub wait: Duration,
}

/// What a request gets. `T` is the value that its work returns beside the verdict.
#[derive(Debug, Clone)]
pub enum Answer<T = ()> {
    /// Its work ran here, and the store has carried out its verdict.
    Ran(Ran<T>),
    /// The outcome of an earlier run.
    Replayed(Final),
    /// Neither. The work did not start, or its outcome was not accepted.
    Refused(Refused),
}

/// A run whose verdict the store has carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran<T = ()> {
    /// The value that its work returned.
    pub value: T,
    /// When the recorded answer stops being kept, on the store's clock; `None` if none was recorded.
    pub expires_at: Option<Timestamp>,
}

/// The owner of a record that was made of a final outcome alone.
pub(crate) const OUTCOME_ALONE: Owner = Owner::from_bytes([0; 16]);

/// A final outcome. It never changes, so it can be kept anywhere.
#[derive(Debug, Clone)]
pub struct Final(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scope: Scope,
    key: Key,
    fingerprint: Fingerprint,
    outcome: Arc<Outcome>,
    expires_at: Timestamp,
    /// When the store was asked for it, or to write it.
    asked: Instant,
    /// The end of retention on this process's monotonic clock, never later than on the store's clock.
    valid_until: Instant,
}

impl Final {
    /// `outcome` as the answer to `request`, replayed until `expires_at`. The store's `now` was read no earlier than
    /// `asked`.
    pub(crate) fn new(
        request: &Request,
        outcome: &Arc<Outcome>,
        expires_at: Timestamp,
        now: Timestamp,
        asked: Instant,
    ) -> Self {
        let (scope, key, outcome) = (request.scope.clone(), request.key.clone(), outcome.clone());
        let fingerprint = request.fingerprint;
        let valid_until = surely(asked, now.until(expires_at));
        Self(Arc::new(Inner { scope, key, fingerprint, outcome, expires_at, asked, valid_until }))
    }

    /// The final outcome in `record`, if it is still kept at the store's `now`.
    pub(crate) fn of(record: Record, now: Timestamp, asked: Instant) -> Option<Self> {
        let State::Completed { outcome: Some(outcome), expires_at } = record.state else { return None };
        if expires_at <= now {
            return None;
        }
        let valid_until = surely(asked, now.until(expires_at));
        let Record { scope, key, fingerprint, .. } = record;
        Some(Self(Arc::new(Inner { scope, key, fingerprint, outcome, expires_at, asked, valid_until })))
    }

    /// The stored outcome.
    pub fn outcome(&self) -> &Outcome {
        &self.0.outcome
    }

    /// When the answer stops being replayed, on the store's clock.
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }

    /// What `request` gets from it.
    pub(crate) fn answer<T>(&self, request: &Request) -> Answer<T> {
        if self.0.fingerprint == request.fingerprint {
            Answer::Replayed(self.clone())
        } else {
            Answer::Refused(Refused::Mismatch)
        }
    }

    /// Whether it is the outcome of exactly this request.
    #[cfg(feature = "http")]
    pub(crate) fn is_of(&self, request: &Request) -> bool {
        let Inner { scope, key, fingerprint, .. } = &*self.0;
        *scope == request.scope && *key == request.key && *fingerprint == request.fingerprint
    }

    pub(crate) fn answers(&self, request: &Request, at: Instant) -> bool {
        at < self.0.valid_until && self.0.scope == request.scope && self.0.key == request.key
    }

    /// As a record, whose owner is [`OUTCOME_ALONE`]: it does not say who ran it, and when.
    pub(super) fn record(&self, guarantee: Guarantee) -> Record {
        let Inner { scope, key, fingerprint, outcome, expires_at, .. } = &*self.0;
        Record {
            scope: scope.clone(),
            key: key.clone(),
            fingerprint: *fingerprint,
            guarantee,
            epoch: Epoch::FIRST,
            owner: OUTCOME_ALONE,
            attempt: 1,
            created_at: *expires_at,
            takeover_at: None,
            free_at: None,
            state: State::Completed { outcome: Some(outcome.clone()), expires_at: *expires_at },
        }
    }

    /// Until when it may be replayed, by this process's clock.
    pub(super) fn valid_until(&self) -> Instant {
        self.0.valid_until
    }

    /// How much longer it is replayed.
    #[cfg(feature = "http")]
    pub(crate) fn left(&self, at: Instant) -> Duration {
        self.0.valid_until.saturating_duration_since(at)
    }

    /// How long ago the store was asked for it.
    pub(crate) fn age(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.0.asked)
    }

    /// About how many bytes it takes in memory.
    pub(crate) fn size(&self) -> u64 {
        const FIXED: usize = 256;
        let names = self.0.scope.caller().len() + self.0.scope.operation().len() + self.0.key.as_str().len();
        (FIXED + names + self.0.outcome.size()) as u64
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refused {
    /// The key belongs to another request.
    Mismatch,
    /// The same request is running now, and the wait, if any, is over.
    InProgress,
    /// A run died half-way in `AtMostOnce`, or ended as unknown, and nobody has resolved it.
    Unknown,
    /// It took effect, and its answer is no longer kept: its retention is over, or an operator has taken it away.
    Expired,
    /// A limit is reached.
    Quota(Quota),
}

/// The limit that was reached; see [`Limits`](crate::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quota {
    /// `running_max`.
    Running,
    /// `running_per_caller_max`.
    RunningPerCaller,
    /// `records_per_scope_max`.
    RecordsPerScope,
}

impl<T> From<Refused> for Answer<T> {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Why the engine could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The engine is shutting down and starts nothing new.
    #[error("this process is shutting down; send the request again")]
    ShuttingDown,
    /// The handler used its transaction in a way that cannot be committed. Nothing was.
    #[error(transparent)]
    Misused(#[from] Misuse),
}
