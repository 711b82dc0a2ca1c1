//! What the writes say.

use std::sync::Arc;
use std::time::Duration;

use crate::record::{Name, Owner};
use crate::{Fingerprint, Guarantee, Key, Outcome, Policy, RecordId, Scope};
/// The claim of a request: who it is, and the terms of its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which record it asks for.
    pub name: Name,
    /// The request.
    pub fingerprint: Fingerprint,
    /// The guarantee of the run.
    pub guarantee: Guarantee,
    /// The token by which a store recognises a repeated claim that it has granted.
    pub owner: Owner,
    /// The terms of the lease.
    pub terms: Terms,
}

impl Claim {
    /// A claim with a new token.
    pub fn new(scope: Scope, key: Key, fingerprint: Fingerprint, guarantee: Guarantee, policy: &Policy) -> Self {
        let (name, terms) = (Name::new(scope, key), Terms::of(guarantee, policy));
        Self { name, fingerprint, guarantee, owner: Owner::random(), terms }
    }

    /// The name space of the key.
    pub fn scope(&self) -> &Scope {
        self.name.scope()
    }

    /// The key.
    pub fn key(&self) -> &Key {
        self.name.key()
    }

    /// The identity of the record that it asks for.
    pub fn id(&self) -> RecordId {
        self.name.id()
    }
}

/// The instants of a running record, as spans from the store's now: only the store knows what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Until the lease ends.
    pub lease: Duration,
    /// Until the same request may take over; `None` for never.
    pub takeover: Option<Duration>,
    /// Until anyone may claim the key anew; `None` for never.
    pub free: Option<Duration>,
}

impl Terms {
    /// The terms of `policy` under `guarantee`.
    pub fn of(guarantee: Guarantee, policy: &Policy) -> Self {
        let lease = policy.lease;
        match guarantee {
            Guarantee::AtMostOnce => Self { lease, takeover: None, free: None },
            Guarantee::Atomic | Guarantee::Fenced => {
                Self { lease, takeover: Some(lease), free: Some(lease + policy.keep()) }
            }
        }
    }

    /// The same in a store whose clock is [uncertain](crate::store::Store::clock_uncertainty) by so much: the owner counts on
    /// the terms without it, and in the store they all end that much later.
    #[must_use]
    pub fn with_clock_uncertainty(self, uncertainty: Duration) -> Self {
        let later = |span: Duration| span.saturating_add(uncertainty);
        Self { lease: later(self.lease), takeover: self.takeover.map(later), free: self.free.map(later) }
    }
}

/// The end of a run, and how long it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// The answer. Record, caller and caches share it.
    pub outcome: Arc<Outcome>,
    /// How long it is replayed.
    pub retention: Duration,
    /// How long its tombstone stays after that.
    pub tombstone: Duration,
}

impl Completion {
    /// `outcome`, with the times of `policy`.
    pub fn new(outcome: impl Into<Arc<Outcome>>, policy: &Policy) -> Self {
        Self { outcome: outcome.into(), retention: policy.retention, tombstone: policy.tombstone }
    }
}

/// How a run ends without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did not happen: the key is free, for any request. Only the epoch of the record is kept, for this long, so
    /// that the next claim has a higher one and a resource that fences does not refuse it. Zero removes the record at
    /// once; use it if nothing can have seen the epoch.
    Free(Duration),
    /// The same request may run again at once, with the next epoch and this attempt's notes. The record
    /// stays for this long for it to do so.
    Retry(Duration),
    /// It is not known whether it happened: the request does not run again until it is resolved.
    Unknown,
}

/// What became of a run with an unknown outcome, as found out by someone other than its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It took effect, and this is its outcome.
    Completed(Completion),
    /// It did not happen: the key is free, and the epoch is kept for this long, as in [`End::Free`].
    NeverHappened(Duration),
}
