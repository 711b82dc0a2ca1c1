//! What may happen in a search.

use std::time::Duration;

use keylatch::{Guarantee, Policy};

/// What may happen in a search, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Names the search in its report.
    pub name: &'static str,
    /// What the processes promise.
    pub guarantee: Guarantee,
    /// What the handlers call.
    pub resource: Resource,
    /// How long things last; 1 ms is one tick of the model's clock.
    pub policy: Policy,
    /// How often each request is sent: the first two are the same request, the third is another one.
    pub sends: [u8; 3],
    /// How often a process dies.
    pub crashes: u8,
    /// How often a call to the store is lost, before it or after it.
    pub losses: u8,
    /// Whether a lost call may arrive late, after its sender has given up or died. One is on its way at a time.
    pub late: bool,
    /// Whether time passes while a process is at work, for one attempt up to [`Config::attempt_age_max`].
    pub pauses: bool,
    /// Whether an operator resolves unknown outcomes.
    pub resolves: bool,
    /// What is wrong, to see whether it is found.
    pub bug: Option<Bug>,
}

/// What a handler calls, and how it tells that it was called before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// It keeps the derived key of each effect, and does not repeat one.
    DerivedKey,
    /// It has one row for the key, and refuses a write whose epoch is lower than the row's.
    Epoch,
    /// It does what it is told, each time.
    Plain,
}

/// A fault in store or protocol, which the search must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The store completes a record without looking at epoch and owner.
    NoEpochInComplete,
    /// The store lets a second outcome take the place of the first.
    OutcomeReplaced,
    /// The store takes any fingerprint for the record's.
    FingerprintIgnored,
    /// The store sweeps a record that is running.
    SweepOfRunning,
    /// A lease is taken over also where nothing may run twice.
    TakeoverInAtMostOnce,
    /// A process takes a lost reply for a failure: a claim that was not granted, a completion that was not written.
    LostReplyIsFailure,
    /// A process frees the key once it has completed, and the store does it.
    ReleaseAfterComplete,
    /// A process answers before the outcome is in the store.
    AnswerBeforeRecord,
    /// A process starts its handler before its claim is in the store.
    StartBeforeClaim,
    /// A claim that may have been granted is withdrawn as if nobody had run before it.
    WithdrawForgets,
    /// A takeover keeps the epoch.
    EpochStays,
    /// A transaction commits without claiming the key in it: it was free when the process looked.
    CommitWithoutClaim,
    /// A completion that finds another outcome under its own epoch is told that it was written.
    ForeignOutcomeIsOurs,
    /// A key that is freed leaves no record, and so no epoch.
    FreeForgetsEpoch,
    /// The store writes a resolution although the owner has renewed its lease.
    ResolutionIgnoresLease,
}

impl Config {
    /// This search, with a bug.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }

    /// Whether this is what is wrong.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// How long a key without an answer is kept for its request.
    pub fn keep(&self) -> Duration {
        self.policy.retention + self.policy.tombstone
    }

    /// How old an attempt may get: a process that is paused for longer than its key is kept is outside of what is
    /// promised.
    pub fn attempt_age_max(&self) -> Duration {
        self.policy.lease + self.keep() - Duration::from_millis(1)
    }
}

/// A policy in ticks: the lease, the answer, the tombstone.
pub const fn policy(lease: u64, retention: u64, tombstone: u64) -> Policy {
    Policy {
        lease: Duration::from_millis(lease),
        retention: Duration::from_millis(retention),
        tombstone: Duration::from_millis(tombstone),
    }
}
