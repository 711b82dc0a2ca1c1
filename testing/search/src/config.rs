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
    /// How often a call to the store is lost, or its reply.
    pub losses: u8,
    /// Whether a lost call may arrive late, after its sender has given up or died. Only one at a time.
    pub late: bool,
    /// Whether time passes while a process is working, for one attempt up to [`Config::attempt_age_max`].
    pub pauses: bool,
    /// Whether an operator resolves unknown outcomes.
    pub resolves: bool,
    /// Whether an operator takes answers away.
    pub forgets: bool,
    /// A planted bug, to see whether the search finds it.
    pub bug: Option<Bug>,
}

/// What a handler calls, and how that recognises a repeated call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// It keeps the derived key of each effect, and does not repeat an effect.
    DerivedKey,
    /// It has one row for the key, and refuses a write with an epoch below the row's.
    Epoch,
    /// It does as it is told, every time.
    Plain,
}

/// A bug in the store or the protocol that the search must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The store completes a record without looking at epoch and owner.
    NoEpochInComplete,
    /// The store lets a second outcome replace the first.
    OutcomeReplaced,
    /// The store accepts any fingerprint as the record's.
    FingerprintIgnored,
    /// The store sweeps a running record.
    SweepOfRunning,
    /// A lease can be taken over even where nothing may run twice.
    TakeoverInAtMostOnce,
    /// A process takes a lost reply for a failure: a claim that was not granted, a completion that was not written.
    LostReplyIsFailure,
    /// A process frees the key after completing it, and the store allows that.
    ReleaseAfterComplete,
    /// A process answers before the outcome is in the store.
    AnswerBeforeRecord,
    /// A process starts its handler before its claim is in the store.
    StartBeforeClaim,
    /// A claim that may have been granted is withdrawn as if there had been no earlier run.
    WithdrawForgets,
    /// A takeover keeps the epoch.
    EpochStays,
    /// A transaction commits without claiming the key inside it: the key was free when the process looked.
    CommitWithoutClaim,
    /// A completion that finds another outcome with its own epoch is told that it was written.
    ForeignOutcomeIsOurs,
    /// A freed key leaves no record, and so no epoch.
    FreeForgetsEpoch,
    /// The store writes a resolution although the owner has renewed its lease.
    ResolutionIgnoresLease,
    /// Forgetting an answer leaves no tombstone.
    ForgetLeavesNothing,
    /// The tombstone of a forgotten answer ends when it began.
    ForgetFrees,
}

impl Config {
    /// This search with a bug.
    #[must_use]
    pub const fn with(self, bug: Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }

    /// Whether this is the planted bug.
    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// How long a key without an answer is kept for its request.
    pub fn keep(&self) -> Duration {
        self.policy.retention + self.policy.tombstone
    }

    /// How old an attempt may become. A process that is paused for longer than its key is kept is outside of the
    /// promises.
    pub fn attempt_age_max(&self) -> Duration {
        self.policy.lease + self.keep() - Duration::from_millis(1)
    }
}

/// A policy in ticks: the lease, the retention, the tombstone.
pub const fn policy(lease: u64, retention: u64, tombstone: u64) -> Policy {
    Policy {
        lease: Duration::from_millis(lease),
        retention: Duration::from_millis(retention),
        tombstone: Duration::from_millis(tombstone),
    }
}
