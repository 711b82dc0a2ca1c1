//! The options of a store.

use std::time::Duration;

use super::error::ConnectError;
use super::server::Needs;
#[cfg(feature = "conformance")]
use keylatch_core::Clock;

/// The options of a [`Store`](super::Store).
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) check_every: Duration,
    pub(super) eviction_allowed: bool,
    /// For copies in a cache: losing them does no harm, so there is nothing to warn about.
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
/// that the client is still waiting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The default of [`Options::with_response_timeout`]: longer than a server pauses when it forks to save, and shorter
/// than a client waits.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The default of [`Options::with_check_every`]: soon enough to notice a changed eviction policy before the memory is
/// full, and little compared with the other calls.
pub const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The default of [`Options::with_compression`]: Redis keeps everything in memory, and a kilobyte of text shrinks to a
/// fraction in a few microseconds. Below that, the key and the rest of the record take more than the answer.
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

    /// Refuses a prefix with braces.
    pub(super) fn check(&self) -> Result<(), ConnectError> {
        if self.prefix.contains(['{', '}']) { Err(ConnectError::Prefix) } else { Ok(()) }
    }

    /// The prefix of all keys of this store; [`PREFIX`] by default. Stores with different prefixes can share a server
    /// without sharing records. An ACL user needs `~prefix:*`. Braces are refused when the store connects.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// How long to try to connect, once for all waiting callers; [`CONNECT_TIMEOUT`] by default. Then they fail as
    /// unavailable.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// How long to wait for a reply; [`RESPONSE_TIMEOUT`] by default. Then it is not known whether the call took
    /// effect, and the connection is closed.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// How often to check the eviction policy and the clock of a server in use; [`CHECK_EVERY`] by default. If a server
    /// now evicts, it is no longer used, as if that had been so at the start: calls fail as unavailable and say why. A
    /// clock that is far from this machine's leads to a warning in the log.
    #[must_use]
    pub fn with_check_every(self, check_every: Duration) -> Self {
        Self { check_every, ..self }
    }

    /// Accepts a server that removes keys when its memory is full.
    ///
    /// Each evicted key may make a request run twice. Use it for caches, or if that does no harm.
    #[must_use]
    pub fn allow_eviction(self) -> Self {
        Self { eviction_allowed: true, ..self }
    }

    /// Acknowledges a write only when that many replicas have received it, and waits at most `timeout` for them. If
    /// there are fewer, it is not known whether the write will last, and the call fails with an error that says so.
    ///
    /// It makes the loss of an acknowledged write in a failover rarer, but does not rule it out: a replica that has not
    /// received the write can still be chosen. All callers on the connection wait, too.
    #[must_use]
    pub fn with_min_replicas(self, replicas: u32, timeout: Duration) -> Self {
        Self { wait: (replicas > 0).then_some(Wait { replicas, timeout }), ..self }
    }

    /// Trusts certificates that are signed by this one, in PEM, instead of those of the machine's authorities. For
    /// `rediss://` addresses.
    #[must_use]
    pub fn with_root_certificate(self, pem: impl Into<Vec<u8>>) -> Self {
        Self { root_certificate: Some(pem.into()), ..self }
    }

    /// Outcomes of at least this many bytes are compressed (zstd); [`COMPRESS_FROM_BYTES`] by default, `None` for
    /// never. Both forms can always be read.
    #[must_use]
    pub fn with_compression(self, from_bytes: Option<usize>) -> Self {
        Self { compress_from_bytes: from_bytes, ..self }
    }

    /// Counts the records of each scope, so that
    /// [`Limits::records_per_scope_max`](keylatch_core::Limits::records_per_scope_max) holds. Without this, which is
    /// the default, that limit is not enforced on Redis: [`count`](keylatch_core::store::Inspect::count) says at least 0, and
    /// the log says so once.
    ///
    /// It costs a sorted set for each scope: one command for the claims of a scope that arrive together, one for their
    /// completions, and about 100 bytes for each record. All processes that share the records should use the same
    /// setting: records that are written without it do not count.
    #[must_use]
    pub fn with_counts(self) -> Self {
        Self { counts_records: true, ..self }
    }

    /// A clock instead of the server's; for the conformance suite, which needs a clock that stands still.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }
}
