//! What the user chooses: the guarantee, the times, and the limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is promised if a process dies half-way.
///
/// It has no default, because only the service knows what its effects are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Guarantee {
    /// Claim, the handler's writes and the outcome are one database transaction: **exactly once**. After a
    /// crash the transaction is gone, and a retry runs afresh.
    Atomic,
    /// A lease with an epoch. After a crash the lease ends, and a retry runs **again**, with a higher epoch
    /// and the results of the steps that were finished.
    Fenced,
    /// A lease, and a durable mark before the handler starts: **never twice**. After a crash the outcome is
    /// unknown, and stays so until someone resolves it.
    AtMostOnce,
}

/// How long a lease runs and an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a claim holds without a renewal. It is renewed after a third of this time.
    ///
    /// Default [`LEASE`]: longer than a pause of a healthy process (a garbage-collected neighbour, a slow
    /// disk), and short enough to wait for after a crash.
    pub lease: Duration,
    /// How long the answer is replayed. Default [`RETENTION`], as Stripe does.
    pub retention: Duration,
    /// How long the record still prevents another run after that, without its answer. Default [`TOMBSTONE`]: a client
    /// that retries after a long weekend is told that its request took effect, and the request does not run twice.
    pub tombstone: Duration,
}

/// The default of [`Policy::lease`].
pub const LEASE: Duration = Duration::from_secs(30);
/// The default of [`Policy::retention`].
pub const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// The default of [`Policy::tombstone`].
pub const TOMBSTONE: Duration = Duration::from_secs(72 * 60 * 60);
/// The default of [`Limits::cache_age_max`]: clients repeat a request mostly within seconds, and an answer that must no longer
/// be given can be waited for this long.
pub const CACHE_AGE: Duration = Duration::from_secs(60);
/// The shortest lease: with a shorter one, renewals would race with ordinary scheduling delays.
pub const LEASE_MS_MIN: u64 = 100;

impl Default for Policy {
    fn default() -> Self {
        Self { lease: LEASE, retention: RETENTION, tombstone: TOMBSTONE }
    }
}

/// A policy that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPolicy {
    /// The lease is under [`LEASE_MS_MIN`].
    #[error("the lease is shorter than {LEASE_MS_MIN} ms; it could not be renewed in time")]
    LeaseTooShort,
    /// A duration is longer than ten years.
    #[error("a duration is longer than ten years")]
    TooLong,
    /// The answer would be forgotten at once.
    #[error("the retention is zero; an answer must be kept for as long as a client may retry")]
    NoRetention,
}

impl Policy {
    /// How long a record that nobody completes is kept: as long as its answer and its tombstone would be.
    pub fn keep(&self) -> Duration {
        self.retention + self.tombstone
    }

    /// Checks that it can be kept.
    ///
    /// # Errors
    ///
    /// If the lease is too short, the retention zero, or anything longer than ten years.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        if self.lease < Duration::from_millis(LEASE_MS_MIN) {
            return Err(InvalidPolicy::LeaseTooShort);
        }
        if self.retention.is_zero() {
            return Err(InvalidPolicy::NoRetention);
        }
        if [self.lease, self.retention, self.tombstone].iter().any(|span| *span > LONGEST) {
            return Err(InvalidPolicy::TooLong);
        }
        Ok(())
    }
}

/// The limits of one engine. Everything has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Current runs in total. Default 10,000: each holds a request body.
    pub running_max: usize,
    /// Current runs of one caller, over all its scopes in this engine. Default 1,000: one caller cannot take all
    /// places.
    pub running_per_caller_max: usize,
    /// Requests that wait for a run of the same key, in total. Default 10,000.
    pub waiters_max: usize,
    /// Requests of one caller that wait for a run of the same key, over all its scopes in this engine. Default 1,000:
    /// one caller cannot take all places.
    pub waiters_per_caller_max: usize,
    /// The longest that a request may wait for a run of the same key, whatever it asks for. Default 30 s, which is
    /// shorter than the idle time-out of common proxies.
    pub wait_max: Duration,
    /// Live records in one scope. Default 1,000,000. They are not counted at every claim, so a few more may pass. On
    /// Redis it applies only if the store counts (`Options::with_counts`).
    pub records_per_scope_max: u64,
    /// Bytes of final outcomes that this process caches, to replay without asking the store. Default 32 MiB; 0 for
    /// none.
    pub cache_bytes_max: u64,
    /// How long this process replays a cached outcome before it asks the store again. Default [`CACHE_AGE`]. An operator
    /// may have taken the answer away in the meantime ([`Store::forget`](crate::store::Store::forget)): after this long,
    /// no process gives it.
    pub cache_age_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            running_max: 10_000,
            running_per_caller_max: 1_000,
            waiters_max: 10_000,
            waiters_per_caller_max: 1_000,
            wait_max: Duration::from_secs(30),
            records_per_scope_max: 1_000_000,
            cache_bytes_max: 32 << 20,
            cache_age_max: CACHE_AGE,
        }
    }
}
