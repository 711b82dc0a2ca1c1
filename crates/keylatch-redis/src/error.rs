//! Errors, and what they mean for the caller.

use redis::{RedisError, ServerErrorKind};

use keylatch_core::store::{Error, ErrorKind};

/// Why a store could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not that of a Redis server, or the certificate is not valid.
    #[error("the address is not valid ({0}); it looks like redis://[user:password@]host:port, or rediss:// for TLS")]
    Address(#[source] RedisError),
    /// No connection, or the server or its login refused it.
    #[error("cannot connect to Redis: {0}")]
    Unreachable(#[source] RedisError),
    /// The server evicts keys when its memory is full, and with them the records of what has run.
    #[error(
        "the server's maxmemory-policy is {policy}: it may evict the records of requests that have run, which would \
         then run again; set it to noeviction, or allow it with Options::allow_eviction"
    )]
    Eviction {
        /// The policy that it has.
        policy: String,
    },
    /// The server is a replica, which takes no writes.
    #[error("the server is a replica; give the address of its primary, or of the Sentinels that know it")]
    Replica,
    /// The server is older than the commands that are needed.
    #[error("the server is Redis {version}; 7.0 or later is needed, or any Valkey")]
    Version {
        /// The version that it has.
        version: String,
    },
    /// The prefix has braces, which decide where a Cluster keeps a key.
    #[error(
        "the prefix has braces, and a Cluster would then put a record and the keys that belong to it on different \
         nodes; remove them"
    )]
    Prefix,
    /// Its answer was not that of a Redis server.
    #[error("cannot read the server's settings: {0}")]
    Settings(&'static str),
}

/// A failed call, by what the server may have done.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was never sent.
    Unreachable(ConnectError),
    /// The server refused.
    Refused(RedisError),
    /// It was sent, and no reply came.
    Unanswered(RedisError),
    /// It was written, but fewer replicas have it than required.
    TooFewReplicas(i64),
    /// It answered with something that no script returns.
    Nonsense,
}

impl Failed {
    /// Classifies the failure of a call that was passed to a connection.
    pub(super) fn of(error: RedisError) -> Self {
        match error.kind() {
            redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => Self::Refused(error),
            redis::ErrorKind::ClusterConnectionNotFound
            | redis::ErrorKind::InvalidClientConfig
            | redis::ErrorKind::MasterNameNotFoundBySentinel
            | redis::ErrorKind::EmptySentinelList
            | redis::ErrorKind::AuthenticationFailed => Self::Unreachable(ConnectError::Unreachable(error)),
            _ if error.is_connection_refusal() => Self::Unreachable(ConnectError::Unreachable(error)),
            _ => Self::Unanswered(error),
        }
    }

    /// The same, if it was certainly passed to a live connection: then it may have been sent.
    pub(super) fn after_sending(self) -> Self {
        match self {
            Self::Unreachable(ConnectError::Unreachable(error)) => Self::Unanswered(error),
            failed => failed,
        }
    }

    /// Whether the connection cannot be used again: it is broken, too slow, or leads to a server that takes no writes.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Unanswered(_) => true,
            Self::Refused(error) => matches!(
                error.kind(),
                redis::ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            ),
            Self::Unreachable(_) | Self::TooFewReplicas(_) | Self::Nonsense => false,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(error) => Self::new(ErrorKind::Unavailable, error),
            Failed::Refused(error) => Self::new(kind_of(&error), format!("Redis: {error}; {}", advice(&error))),
            Failed::Unanswered(error) => Self::new(ErrorKind::NotKnown, format!("Redis did not reply: {error}")),
            Failed::TooFewReplicas(replicas) => {
                Self::new(ErrorKind::NotKnown, format!("only {replicas} replicas of Redis acknowledged the write"))
            }
            Failed::Nonsense => Self::new(ErrorKind::NotKnown, "Redis sent a reply that no script of Keylatch returns"),
        }
    }
}

fn kind_of(error: &RedisError) -> ErrorKind {
    match error.code() {
        // One of the store's keys has something that the store did not write.
        Some("WRONGTYPE") => ErrorKind::Corrupt,
        Some("NOPERM" | "CROSSSLOT") => ErrorKind::Refused,
        // A script that stopped half-way, as it never should.
        Some("ERR") | None => ErrorKind::NotKnown,
        // The server refused before it did anything.
        Some(_) => ErrorKind::Unavailable,
    }
}

/// Whether a server gives this error to every command that writes, even if the command would have written nothing.
pub(super) fn is_of_writes(error: &RedisError) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}

/// What the operator can do.
fn advice(error: &RedisError) -> &'static str {
    match error.code() {
        Some("OOM") => "its memory is full: raise maxmemory, or shorten the retention",
        Some("MISCONF") => "it cannot save to disk: free disk space, or see its log",
        Some("NOPERM") => "its user may not do this: the manual lists the rights that it needs",
        Some("NOREPLICAS") => "fewer replicas are connected than its min-replicas-to-write",
        Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "READONLY" | "TRYAGAIN" | "MOVED" | "ASK") => {
            "it is starting or failing over; this passes"
        }
        Some("WRONGTYPE") => "something other than Keylatch has written to one of its keys",
        _ => "see its log",
    }
}
