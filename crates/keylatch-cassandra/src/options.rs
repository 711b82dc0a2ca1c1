//! The options of a store.

use std::time::Duration;

#[cfg(feature = "conformance")]
use keylatch_core::Clock;

/// The options of a [`Store`](super::Store).
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) prefix: String,
    pub(super) login: Option<Login>,
    pub(super) migrate: bool,
    pub(super) survives: Survives,
    pub(super) data_centre: Option<String>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::Tls>,
    pub(super) clock_uncertainty: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) call_max: Duration,
    pub(super) compress_from_bytes: Option<usize>,
    pub(super) synced: bool,
    pub(super) index_kept: Duration,
    #[cfg(feature = "conformance")]
    pub(super) clock: Option<Clock>,
}

/// Who the store is for the cluster.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Never shows the password.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What the cluster can lose while the store goes on. A write needs a majority of all replicas of its record, in all
/// data centres together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Survives {
    /// Nothing: for tests and for development on one node.
    Nothing,
    /// Any one node, or any one rack of replicas: three replicas at least.
    #[default]
    Node,
    /// Any one data centre: three data centres at least, none with half of the replicas.
    DataCentre,
}

/// The default of [`Options::with_clock_uncertainty`]: clocks that NTP keeps are within a few milliseconds; one that
/// has just lost its source is within a second for hours.
pub const CLOCK_UNCERTAINTY: Duration = Duration::from_secs(1);
/// The default of [`Options::with_connect_timeout`]: longer than a handshake takes over a bad network.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`Options::with_response_timeout`]: a little longer than Cassandra itself tries, so that its own
/// answer arrives.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_millis(2_500);
/// The default of [`Options::with_call_max`]: time for two transactions that time out and a third that succeeds, and
/// shorter than a client waits.
pub const CALL_MAX: Duration = Duration::from_secs(8);
/// The default of [`Options::with_compression`]: below a kilobyte there is little to gain.
pub const COMPRESS_FROM_BYTES: usize = 1_024;
/// The default of [`Options::with_index_kept`]: far longer than any claim takes between its entry and its transaction.
pub const INDEX_KEPT: Duration = Duration::from_secs(60 * 60);

impl Default for Options {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            login: None,
            migrate: false,
            survives: Survives::default(),
            data_centre: None,
            #[cfg(feature = "tls")]
            tls: None,
            clock_uncertainty: CLOCK_UNCERTAINTY,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            call_max: CALL_MAX,
            compress_from_bytes: Some(COMPRESS_FROM_BYTES),
            synced: false,
            index_kept: INDEX_KEPT,
            #[cfg(feature = "conformance")]
            clock: None,
        }
    }
}

impl Options {
    /// The prefix of all rows of this store; none by default. Stores with different prefixes can share a keyspace
    /// without sharing records.
    #[must_use]
    pub fn with_prefix(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// Who the store is for the cluster; takes the place of what the address says. The role needs `SELECT` and `MODIFY`
    /// on the keyspace, and `CREATE` to make the tables.
    #[must_use]
    pub fn with_login(self, user: &str, password: &str) -> Self {
        Self { login: Some(Login { user: user.to_owned(), password: password.to_owned() }), ..self }
    }

    /// Makes the tables when it connects, if they are missing. Cassandra does not order changes of a schema, so only
    /// one process may do this at a time; by default none does: run `keylatch migrate`, [`migrate`](super::migrate), or
    /// the file [`SCHEMA_CQL`](super::SCHEMA_CQL).
    #[must_use]
    pub fn with_migration(self) -> Self {
        Self { migrate: true, ..self }
    }

    /// What the cluster must be able to lose while the store goes on; [`Survives::Node`] by default. The store does not
    /// connect to a keyspace whose replication has no majority after that.
    #[must_use]
    pub fn with_survives(self, survives: Survives) -> Self {
        Self { survives, ..self }
    }

    /// Sends statements to the nodes of this data centre alone, by its name in Cassandra; to all nodes by default. The
    /// nodes bring the others in, so a majority of all replicas decides as before. Without this data centre, or while it
    /// is cut off from the others, every call fails.
    #[must_use]
    pub fn with_data_centre(self, name: &str) -> Self {
        Self { data_centre: Some(name.to_owned()), ..self }
    }

    /// Encrypts all connections; takes the place of what the address says. By default none is encrypted.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: super::Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// How far apart two readings of the store's time can be at one instant: the clocks of the nodes, and half a round
    /// trip to them. [`CLOCK_UNCERTAINTY`] by default. Every lease ends this much later in the store than its owner
    /// believes, so nobody takes over a run that is still held.
    #[must_use]
    pub fn with_clock_uncertainty(self, uncertainty: Duration) -> Self {
        Self { clock_uncertainty: uncertainty, ..self }
    }

    /// How long to try to connect to a node; [`CONNECT_TIMEOUT`] by default.
    #[must_use]
    pub fn with_connect_timeout(self, timeout: Duration) -> Self {
        Self { connect_timeout: timeout, ..self }
    }

    /// How long to wait for the reply to one statement; [`RESPONSE_TIMEOUT`] by default. Then it is not known whether
    /// it took effect, and a read settles that.
    #[must_use]
    pub fn with_response_timeout(self, timeout: Duration) -> Self {
        Self { response_timeout: timeout, ..self }
    }

    /// How long a call may take in all, with the statements that settle what an earlier one did; [`CALL_MAX`] by
    /// default. Then it fails as unavailable, or as not known, and can be sent again.
    #[must_use]
    pub fn with_call_max(self, call_max: Duration) -> Self {
        Self { call_max, ..self }
    }

    /// Compresses answers of at least this many bytes; [`COMPRESS_FROM_BYTES`] by default, `None` for never. Both kinds
    /// are always read.
    #[must_use]
    pub fn with_compression(self, from_bytes: Option<usize>) -> Self {
        Self { compress_from_bytes: from_bytes, ..self }
    }

    /// Says that every node syncs its commit log before it acknowledges (`commitlog_sync: batch` or `group`): then the
    /// store's durability is `Disk`. The setting cannot be read by a client, so it is `Replica` by default.
    #[must_use]
    pub fn with_synced_commit_log(self) -> Self {
        Self { synced: true, ..self }
    }

    /// How old an entry of an index must be before a reader that finds nothing under it removes it; [`INDEX_KEPT`] by
    /// default. It must be longer than the clocks of two nodes differ, and than a claim takes.
    #[must_use]
    pub fn with_index_kept(self, kept: Duration) -> Self {
        Self { index_kept: kept, ..self }
    }

    /// Takes the time from this clock, for the conformance suite. Nothing ends by itself then: sweeps remove
    /// everything.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }
}
