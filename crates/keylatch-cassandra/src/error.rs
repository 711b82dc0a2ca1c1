//! Errors, and what they mean for the caller.

use scylla::errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError};

use super::options::Survives;
use keylatch_core::store::{Error, ErrorKind};

/// Why a store could not be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The address is not that of a cluster and a keyspace.
    #[error(
        "the address is not valid: {0}; it looks like cassandra://[user:password@]host[:port],host[:port]/keyspace"
    )]
    Address(&'static str),
    /// No node could be reached, or the login was refused.
    #[error("cannot connect to Cassandra: {0}")]
    Unreachable(#[source] Box<NewSessionError>),
    /// The cluster has no node in the data centre that the caller named.
    #[error("the cluster has no node in the data centre {name}; take a name from the list of nodetool status")]
    NoDataCentre {
        /// Its name.
        name: String,
    },
    /// The address asks for TLS, and the program was built without it.
    #[error("the address asks for TLS; build the program with the feature cassandra-tls (of keylatch-cassandra: tls)")]
    WithoutTls,
    /// A certificate or a key for TLS cannot be used.
    #[error("cannot set up TLS to Cassandra: {0}")]
    Tls(String),
    /// A statement of the set-up failed.
    #[error("cannot set up Cassandra: {0}")]
    SetUp(#[source] Box<ExecutionError>),
    /// A statement could not be prepared.
    #[error("cannot prepare a statement on Cassandra: {0}; the role needs SELECT and MODIFY on the keyspace")]
    Prepare(#[source] Box<PrepareError>),
    /// There is no such keyspace.
    #[error(
        "there is no keyspace {keyspace}; create it, as in: CREATE KEYSPACE {keyspace} WITH replication = {{'class': \
         'NetworkTopologyStrategy', 'dc1': 3}}"
    )]
    NoKeyspace {
        /// Its name.
        keyspace: String,
    },
    /// The keyspace has not the tables.
    #[error("the keyspace {keyspace} has no tables of Keylatch; run `keylatch migrate` once, from one place")]
    NotMigrated {
        /// Its name.
        keyspace: String,
    },
    /// The tables are of a version that this one does not know.
    #[error("the tables are of version {found}, and this version of Keylatch knows {known}; upgrade this process")]
    Version {
        /// The version of the tables.
        found: i32,
        /// The version that is known.
        known: i32,
    },
    /// After the loss that the caller named, the keyspace would have no majority.
    #[error(
        "the keyspace {keyspace} has replication {replication}, of which no majority is left after the loss of {}: \
         {advice}; then run nodetool repair, or say what it must survive, with ?survives= in the address or \
         Options::with_survives",
         lost(*survives)
    )]
    Replication {
        /// Its name.
        keyspace: String,
        /// What it has.
        replication: String,
        /// What was asked for.
        survives: Survives,
        /// What to change.
        advice: String,
    },
    /// The keyspace's replication is of a kind that this store does not know.
    #[error(
        "the keyspace {keyspace} has replication {replication}, which cannot be judged; use \
         NetworkTopologyStrategy without transient replicas"
    )]
    UnknownReplication {
        /// Its name.
        keyspace: String,
        /// What it has.
        replication: String,
    },
    /// The nodes did not say what time it is.
    #[error("the nodes do not say what time it is: {0}")]
    Clock(#[source] Error),
}

fn lost(survives: Survives) -> &'static str {
    match survives {
        Survives::Nothing => "nothing",
        Survives::Node => "one node",
        Survives::DataCentre => "one data centre",
    }
}

/// A statement that failed, by what the cluster may have done.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was never sent, or refused before anything was done. It may work later.
    NotSent(String),
    /// It was refused, and always will be.
    Refused(String),
    /// It was sent, and may have taken effect, now or later.
    NotKnown(String),
    /// It was a read that a node gave up, of too many tombstones for one, or that took too long.
    GaveUp(String),
    /// The reply was not one that the statement has.
    Nonsense(&'static str),
}

impl Failed {
    /// Classifies a failure. What is not certain counts as not known: a transaction that a node gave up can still be
    /// finished by another.
    pub(super) fn of(error: &ExecutionError) -> Self {
        use ExecutionError as E;
        let text = error.to_string();
        match error {
            E::BadQuery(_) => Self::Refused(text),
            E::EmptyPlan | E::PrepareError(_) | E::ConnectionPoolError(_) => Self::NotSent(text),
            E::LastAttemptError(RequestAttemptError::UnableToAllocStreamId) => Self::NotSent(text),
            E::LastAttemptError(RequestAttemptError::DbError(error, _)) => match error {
                DbError::Overloaded | DbError::IsBootstrapping => Self::NotSent(text),
                DbError::SyntaxError | DbError::Invalid | DbError::Unauthorized | DbError::ConfigError => {
                    Self::Refused(text)
                }
                _ => Self::NotKnown(text),
            },
            _ => Self::NotKnown(text),
        }
    }

    /// Of a statement that writes nothing: it has no effect to be unsure of.
    pub(super) fn of_read(error: &ExecutionError) -> Self {
        match (Self::of(error), error) {
            (
                Self::NotKnown(text),
                ExecutionError::RequestTimeout(_)
                | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                    DbError::ReadFailure { .. } | DbError::ReadTimeout { .. },
                    _,
                )),
            ) => Self::GaveUp(text),
            (Self::NotKnown(text), _) => Self::NotSent(text),
            (failed, _) => failed,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::NotSent(text) | Failed::GaveUp(text) => {
                Self::new(ErrorKind::Unavailable, format!("Cassandra: {text}"))
            }
            Failed::Refused(text) => Self::new(ErrorKind::Refused, format!("Cassandra refused: {text}")),
            Failed::NotKnown(text) => Self::new(ErrorKind::NotKnown, format!("Cassandra: {text}")),
            Failed::Nonsense(text) => Self::new(ErrorKind::NotKnown, format!("Cassandra sent a strange reply: {text}")),
        }
    }
}
