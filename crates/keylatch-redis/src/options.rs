//! What can be chosen about a store.

use std::time::Duration;

use super::error::ConnectError;
use super::server::Needs;
#[cfg(feature = "conformance")]
use keylatch_core::Clock;

/// What can be chosen about a [`Store`](super::Store).
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) check_every: Duration,
    pub(super) eviction_allowed: bool,
    /// For copies: nothing is lost with them, so that nothing is to be warned of.
    pub(super) is_cache: bool,
    pub(super) wait: Option<Wait>,
    pub(super) root_certificate: Option<Vec<u8>>,
    pub(super) compress_from_bytes: Option<usize>,
    pub(super) counts_records: bool,
    #[cfg(feature = "conformance")]
    pub(super) clock: Option<Clock>,
}

/// How many replicas must have a write, and how long to wait for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) replicas: u32,
    pub(super) timeout: Duration,
}

/// The default of [`Options::with_prefix`].
pub const PREFIX: &str = "keylatch";
/// The default of [`Options::with_connect_timeout`]: longer than a handshake takes over a bad network, and short enough
/// that a client hears of it.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The default of [`Options::with_response_timeout`]: longer than a server stands still when it forks to save, and
/// shorter than a client waits.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The default of [`Options::with_check_every`]: soon enough to notice a server that was set to evict before its memory is
/// full, and nothing beside the calls of that time.
pub const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The default of [`Options::with_compression`]: all that Redis keeps, it keeps in memory, and a kilobyte of text shrinks
/// to a fraction in a few microseconds. Under that, the key and the rest of the record take more than the answer.
pub const COMPRESS_FROM_BYTES: usize = 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: PREFIX.to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            check_every: CHECK_EVERY,
            eviction_allowed: false,
            is_cache: false,
            wait: None,
            root_certificate: None,
            compress_from_bytes: Some(COMPRESS_FROM_BYTES),
            counts_records: false,
            #[cfg(feature = "conformance")]
            clock: None,
        }
    }
}

impl Options {
    pub(super) fn needs(&self) -> Needs {
        if self.is_cache { Needs::Nothing } else { Needs::Records { eviction_allowed: self.eviction_allowed } }
    }

    /// Refuses a prefix that cannot be kept to.
    pub(super) fn check(&self) -> Result<(), ConnectError> {
        if self.prefix.contains(['{', '}']) { Err(ConnectError::Prefix) } else { Ok(()) }
    }

    /// What all keys of this store begin with; [`PREFIX`] by default. Stores with different prefixes share a server
    /// and no records. An ACL user needs `~prefix:*`. Braces are refused when the store connects.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// How long to try to connect, once for all who wait for it; [`CONNECT_TIMEOUT`] by default. Then they fail as
    /// unavailable.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// How long to wait for a reply; [`RESPONSE_TIMEOUT`] by default. Then it is not known whether the call took
    /// place, and the connection is given up.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// How often a server in use is asked again for its eviction policy and its clock; [`CHECK_EVERY`] by default. A server
    /// that evicts by now is given up, as if it had been found so at the start: calls fail as unavailable and say why. A
    /// clock that is far from this machine's is warned of.
    #[must_use]
    pub fn with_check_every(self, check_every: Duration) -> Self {
        Self { check_every, ..self }
    }

    /// Accepts a server that removes keys when its memory is full.
    ///
    /// Each key that it removes can be a request that runs twice. For caches, and for uses where that does no harm.
    #[must_use]
    pub fn allow_eviction(self) -> Self {
        Self { eviction_allowed: true, ..self }
    }

    /// Acknowledges a write only when that many replicas have received it, and waits at most `timeout` for them. If they
    /// are fewer, whether the write will last is not known, and the call fails so.
    ///
    /// It makes the loss of an acknowledged write in a failover rarer, and does not rule it out: a replica that has not
    /// received the write can still be the one that is chosen. Everyone who shares the connection waits, too.
    #[must_use]
    pub fn with_min_replicas(self, replicas: u32, timeout: Duration) -> Self {
        Self { wait: (replicas > 0).then_some(Wait { replicas, timeout }), ..self }
    }

    /// Trusts the servers' certificates that this one, in PEM, has signed, instead of those of the machine's
    /// authorities. For `rediss://` addresses.
    #[must_use]
    pub fn with_root_certificate(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { root_certificate: Some(pem.into()), ..self }
    }

    /// From how many bytes on an outcome is compressed (zstd); [`COMPRESS_FROM_BYTES`] by default, `None` for never.
    /// What was stored either way can always be read.
    #[must_use]
    pub fn with_compression(self, from_bytes: Option<usize>) -> Self {
        Self { compress_from_bytes: from_bytes, ..self }
    }

    /// Counts the records of each scope, so that [`Limits::records_per_scope_max`](keylatch_core::Limits::records_per_scope_max)
    /// holds. Without this, which is the default, that limit is not enforced on Redis: [`count`](keylatch_core::store::Store::count)
    /// says 0, and the log says so once.
    ///
    /// It costs a sorted set for each scope: a command for the claims of a scope that come together and one for the
    /// completions, and about 100 bytes for each record. All processes that share the records should be set alike: what is
    /// written without it does not count.
    #[must_use]
    pub fn with_counts(self) -> Self {
        Self { counts_records: true, ..self }
    }

    /// A clock in place of the server's; for the conformance suite, which needs one that stands still.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }
}
