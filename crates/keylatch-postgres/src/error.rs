//! Errors, and what they mean for the caller.

use std::sync::Arc;
use std::{fmt, io};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use keylatch_core::store::{Error, ErrorKind};

/// Why a store could not be opened, or its schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The schema's name has a character that is not a lower-case letter, a digit or `_`, or begins with a digit or
    /// `pg_`, or is longer than 63.
    #[error("{0:?} is not a valid schema name; use up to 63 lower-case letters, digits and _")]
    SchemaName(String),
    /// The server could not be reached, or refused.
    #[error("cannot use the PostgreSQL server: {0}; check its address, user and password, and that it runs")]
    Server(#[source] sqlx::Error),
    /// TLS with the server failed, or its certificate could not be verified.
    #[error(
        "the PostgreSQL server could not be verified: {0}; check sslmode, sslrootcert (the authority that signed its \
         certificate) and the host name in its address"
    )]
    Tls(#[source] sqlx::Error),
    /// A pooler is in front of the server and gives each transaction another connection.
    #[error("a pooler is in front of the PostgreSQL server: {0}; see Options::with_transaction_pooling")]
    Pooler(#[source] sqlx::Error),
    /// The role may not read the schema, or may not create a part of it.
    #[error("{0}; call keylatch::postgres::grant for this role, or migrate with one that may create in the database")]
    NotGranted(#[source] sqlx::Error),
    /// The server is a standby: its data may be old, and nothing can be written there.
    #[error("the PostgreSQL server is a standby; give the address of the primary")]
    Standby,
    /// [`Replay::Synced`](super::Replay::Synced) was requested, and this is missing for it.
    #[error("replays cannot wait for standbys: {0}")]
    NotSynchronous(&'static str),
    /// The schema is older than this version needs, or does not exist, and this role may not change it.
    #[error(
        "the schema {schema:?} has version {found} (0 means none), and this process needs version {needed}; call \
         keylatch::postgres::migrate, and then grant, with a role that may create in it"
    )]
    NotMigrated {
        /// The schema.
        schema: String,
        /// The version that it has.
        found: i32,
        /// The version that this build needs.
        needed: i32,
    },
    /// A later version of Keylatch has changed the schema, so that this one may not use it.
    #[error(
        "the schema {schema:?} has version {found}, which only processes that know version {min_reader} or later may \
         use, and this process knows version {known}; upgrade this process, or give it another schema"
    )]
    NewerSchema {
        /// The schema.
        schema: String,
        /// The version that it has.
        found: i32,
        /// The lowest version that a process must know to use it.
        min_reader: i32,
        /// The latest version that this build knows.
        known: i32,
    },
}

const STANDBY: &str = "; the server is a standby: the address must lead to the primary";

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Tls(_) => Self::Tls(error),
            // The error of rustls for a certificate.
            sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::InvalidData => Self::Tls(error),
            sqlx::Error::Database(cause) if cause.code().as_deref() == Some("42501") => Self::NotGranted(error),
            sqlx::Error::Database(cause) if cause.code().is_some_and(|code| POOLER.contains(&&*code)) => {
                Self::Pooler(error)
            }
            _ => Self::Server(error),
        }
    }
}

/// The errors of PgBouncer for a parameter that it does not know, and of a server for a prepared statement that does
/// not exist, or exists already, because it was prepared on another connection.
const POOLER: [&str; 3] = ["08P01", "26000", "42P05"];

/// A failure of one of the store's statements. It can be told to everyone in a batch.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    /// The SQLSTATE, if the server sent one.
    pub(super) code: Option<Arc<str>>,
    /// Whether the connection is gone, or leads to a standby, so that the same statement may be tried on another.
    pub(super) disconnected: bool,
    /// Whether there was no reply in time, so that the connection may lead nowhere.
    pub(super) unanswered: bool,
    what: Arc<str>,
}

/// What is known of a statement that failed without a reply of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// It has no lasting effect: it reads, or its transaction was not committed.
    Harmless,
    /// It may have been executed.
    Perhaps,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, what: impl Into<Arc<str>>) -> Self {
        Self { kind, code: None, disconnected: false, unanswered: false, what: what.into() }
    }

    /// A statement that took too long.
    pub(super) fn timed_out(sent: Sent) -> Self {
        Self { unanswered: true, ..Self::new(sent.unanswered(), "the server took too long to execute a statement") }
    }

    /// A connection that broke before a statement without an effect was done.
    pub(super) fn disconnected(what: impl Into<Arc<str>>) -> Self {
        Self { disconnected: true, ..Self::new(ErrorKind::Unavailable, what) }
    }

    /// All connections lead to a standby, even a new one.
    pub(super) fn standby() -> Self {
        Self::new(ErrorKind::Unavailable, format!("PostgreSQL refused{STANDBY}"))
    }

    /// What `error` means for a statement, which may or may not have had an effect.
    pub(super) fn of(error: &sqlx::Error, sent: Sent) -> Self {
        use sqlx::Error as E;
        let (kind, disconnected) = match error {
            E::Database(database) => {
                let error = database.downcast_ref::<PgDatabaseError>();
                // After a fatal error the connection is closed; a commit may have been executed before.
                let fatal = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
                return Self::of_server(Some(error.code()), error.message(), fatal, sent);
            }
            E::PoolTimedOut | E::PoolClosed | E::BeginFailed => (ErrorKind::Unavailable, false),
            E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed => (sent.unanswered(), true),
            E::Decode(_) | E::ColumnDecode { .. } | E::ColumnIndexOutOfBounds { .. } | E::ColumnNotFound(_) => {
                (ErrorKind::Corrupt, false)
            }
            _ => (ErrorKind::Refused, false),
        };
        Self { disconnected, ..Self::new(kind, error.to_string()) }
    }

    /// What an error of the server means. See <https://www.postgresql.org/docs/current/errcodes-appendix.html>. Not
    /// every client passes its code on; without a code the error counts as one that may pass.
    pub(super) fn of_server(code: Option<&str>, message: &str, fatal: bool, sent: Sent) -> Self {
        let Some(code) = code else {
            return Self::new(ErrorKind::Unavailable, format!("PostgreSQL: {message}"));
        };
        let (class, _) = code.split_at_checked(2).unwrap_or((code, ""));
        let kind = match (class, code) {
            _ if fatal => sent.unanswered(),
            // A connection that broke between here and the server, as PgBouncer reports it.
            ("08", _) => sent.unanswered(),
            // A standby; rolled back because of another transaction; out of space or connections; stopped; a lock not
            // granted in time; the schema changed under a prepared statement.
            (_, "25006" | "0A000" | "55P03") | ("40" | "53" | "57" | "58", _) => ErrorKind::Unavailable,
            ("XX", "XX001" | "XX002") => ErrorKind::Corrupt,
            ("XX", _) => ErrorKind::Unavailable,
            _ => ErrorKind::Refused,
        };
        let advice = match (class, code) {
            (_, "25006") => STANDBY,
            (_, code) if POOLER.contains(&code) => "; behind a pooler, see Options::with_transaction_pooling",
            (_, "42501" | "3F000" | "42P01" | "42883") => {
                "; the role lacks a grant, or the schema does not exist: see keylatch::postgres::grant and migrate"
            }
            (_, "53300") => "; lower the number of connections, or raise max_connections",
            (_, "53100") => "; free space on the server's disk",
            _ => "",
        };
        let what = format!("PostgreSQL: {message} ({code}){advice}");
        Self {
            kind,
            code: Some(code.into()),
            disconnected: fatal || class == "08" || code == "25006",
            unanswered: false,
            what: what.into(),
        }
    }

    pub(super) fn with_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether a pooler may be the cause: it has sent the parts of one statement to two servers.
    pub(super) fn is_of_pooler(&self) -> bool {
        POOLER.iter().any(|code| self.has_code(code))
    }
}

impl Sent {
    const fn unanswered(self) -> ErrorKind {
        match self {
            Self::Harmless => ErrorKind::Unavailable,
            Self::Perhaps => ErrorKind::NotKnown,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::new(fault.kind, fault.what.to_string())
    }
}
