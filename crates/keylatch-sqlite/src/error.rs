//! What can go wrong, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ffi::{self, ErrorCode};

use super::lent::Undone;
use keylatch_core::store::{Error, ErrorKind};
use keylatch_core::tx::Misuse;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path names no file: it is empty, or `:memory:`.
    #[error("this path does not name a file, so its records would not last; give a file, or use the memory store")]
    NoFile,
    /// The directory of the file does not exist and could not be created.
    #[error("cannot create the directory {path}; create it, or choose a file in a directory that this user may write")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite could not open the file or set it up.
    #[error(
        "cannot open {path} as an SQLite database: {source}; check that it is one, that this user may write it and \
         its directory, and that the disk has space"
    )]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file's file system has no shared memory, which a write-ahead log needs.
    #[error("{path} cannot have a write-ahead log, its journal mode stays {journal:?}; put the file on a local disk")]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// The journal mode that it has.
        journal: String,
    },
    /// A later version of Keylatch has changed the tables, so that this one may not use them.
    #[error(
        "{path} has Keylatch's schema {found}, which only processes that know schema {min_reader} or later may use, \
         and this process knows schema {known}; upgrade this process, or give it another file"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The schema that it has.
        found: i64,
        /// The lowest schema that a version must know to use it.
        min_reader: i64,
        /// The latest schema that this version knows.
        known: i64,
    },
    /// A thread of the store could not be started.
    #[error("cannot start a thread for the store; raise this user's limit on threads")]
    Thread(#[source] io::Error),
}

impl OpenError {
    pub(super) fn database(path: &Path, source: rusqlite::Error) -> Self {
        Self::Database { path: path.to_owned(), source }
    }
}

/// Why a closure on the database did not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TxError {
    /// SQLite refused a statement of the closure, or the transaction around it.
    ///
    /// A statement that fails undoes itself and nothing else, as always in SQLite. One that begins or ends a
    /// transaction, attaches a database, sets a pragma or writes to Keylatch's own tables is refused with
    /// [`AuthorizationForStatementDenied`](ErrorCode::AuthorizationForStatementDenied), and a message that says why.
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    /// The transaction is over: its handler has ended, or awaited something else inside it, or the store is closed.
    #[error("the transaction is over; use a `Tx` only in the handler that was given it")]
    Over,
    /// It held the one writer of the file for longer than
    /// [`Options::with_closure_time_max`](super::Options::with_closure_time_max) allows, and its writes were rolled
    /// back.
    #[error("{}", Misuse::TooLong)]
    TooLong,
    /// It read for so long that the write-ahead log reached its limit, which is
    /// [`Options::with_log_pages_max`](super::Options::with_log_pages_max).
    #[error(
        "the query was interrupted: while it runs, the write-ahead log cannot restart, and the log had reached its \
         limit; read less at once, or raise `sqlite::Options::with_log_pages_max`"
    )]
    LogTooLong,
    /// It changed its connection by other means than statements, and its writes were rolled back.
    #[error("{}", Misuse::Reconfigured)]
    Reconfigured,
}

/// So that closures with their own errors only need to convert from SQLite's.
impl From<TxError> for rusqlite::Error {
    fn from(error: TxError) -> Self {
        let code = match error {
            TxError::Sql(error) => return error,
            TxError::Over => ffi::SQLITE_ABORT,
            TxError::TooLong | TxError::LogTooLong => ffi::SQLITE_INTERRUPT,
            TxError::Reconfigured => ffi::SQLITE_AUTH,
        };
        Self::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
    }
}

/// What goes wrong in one job of a batch.
#[derive(Debug)]
pub(super) enum Fault<E = Error> {
    /// This job failed alone: it wrote nothing, and the batch continues.
    Job(E),
    /// This job failed and ended the transaction that it shared with earlier jobs.
    Ended(E),
    /// SQLite cannot continue the batch.
    Batch(rusqlite::Error),
}

impl From<Fault> for Fault<Undone> {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Job(error) => Self::Job(error.into()),
            Fault::Ended(error) => Self::Ended(error.into()),
            Fault::Batch(error) => Self::Batch(error),
        }
    }
}

impl Fault {
    /// What an error of the store's own statement means. `alive` says whether the transaction is still open.
    pub(super) fn of(error: rusqlite::Error, alive: bool) -> Self {
        match code(&error) {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) if alive => {
                Self::Job(Error::new(ErrorKind::Corrupt, error))
            }
            Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) if alive => {
                Self::Job(Error::new(ErrorKind::Refused, error))
            }
            _ => Self::Batch(error),
        }
    }
}

/// A batch that was not committed. All its callers get this error.
#[derive(Debug, Clone)]
pub(super) struct BatchFailed {
    pub(super) kind: ErrorKind,
    code: ffi::Error,
    message: Option<String>,
}

impl BatchFailed {
    /// Before the commit: nothing was written.
    pub(super) fn before_commit(error: rusqlite::Error) -> Self {
        Self::of(ErrorKind::Unavailable, error)
    }

    /// By the commit itself.
    ///
    /// After an I/O error it is not known whether the disk has the commit: all processes continue without it, but after
    /// a crash it may be found in the log. Any other error means that it was not written completely.
    pub(super) fn by_commit(error: rusqlite::Error) -> Self {
        let kind = match code(&error) {
            Some(ErrorCode::SystemIoFailure) => ErrorKind::NotKnown,
            _ => ErrorKind::Unavailable,
        };
        Self::of(kind, error)
    }

    /// By a panic in the store itself, before the commit.
    pub(super) fn by_panic() -> Self {
        Self::plain(ErrorKind::Unavailable, "the store's thread panicked; its log says where")
    }

    /// By another job, which ended the transaction.
    pub(super) fn by_another() -> Self {
        let message = "a statement of another closure has ended the shared transaction";
        Self::of(ErrorKind::Unavailable, aborted(message))
    }

    /// The thread that could do it has ended.
    pub(super) fn ended() -> Self {
        Self::plain(ErrorKind::Unavailable, "the store's thread has ended")
    }

    /// The thread that had the job ended without a reply.
    pub(super) fn unanswered() -> Self {
        Self::plain(ErrorKind::NotKnown, "the store's thread has ended without a reply")
    }

    /// Whether one job may have failed all: by a constraint that is checked at the commit, or by a record that cannot be
    /// written.
    pub(super) fn is_of_one(&self) -> bool {
        use ErrorCode::{ConstraintViolation, DatabaseCorrupt, TooBig};
        matches!(self.code.code, ConstraintViolation | DatabaseCorrupt | TooBig)
    }

    /// The same, for the only job in the batch: what violates a constraint or a limit once does so again.
    pub(super) fn alone(self) -> Self {
        match self.code.code {
            ErrorCode::ConstraintViolation | ErrorCode::TooBig => Self { kind: ErrorKind::Refused, ..self },
            ErrorCode::DatabaseCorrupt => Self { kind: ErrorKind::Corrupt, ..self },
            _ => self,
        }
    }

    fn of(kind: ErrorKind, error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(code, message) => Self { kind, code, message },
            rusqlite::Error::SqlInputError { error: code, msg, .. } => Self { kind, code, message: Some(msg) },
            other => Self { kind, code: ffi::Error::new(ffi::SQLITE_ERROR), message: Some(other.to_string()) },
        }
    }

    fn plain(kind: ErrorKind, message: &str) -> Self {
        Self { kind, code: ffi::Error::new(ffi::SQLITE_INTERNAL), message: Some(message.to_owned()) }
    }

    /// What the operator can do.
    pub(super) const fn advice(&self) -> &'static str {
        match self.code.code {
            ErrorCode::DiskFull => "free space on its disk, or raise the limit on its size",
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                "another process has held its write lock for too long; find that process"
            }
            ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                "make the file and its directory writable again"
            }
            ErrorCode::SystemIoFailure => "check its disk",
            ErrorCode::SchemaChanged => "upgrade this process",
            ErrorCode::OutOfMemory => "give the process more memory",
            ErrorCode::OperationAborted => {
                "free space on its disk, and use no statement that ends the transaction, such as one with OR ROLLBACK"
            }
            ErrorCode::ConstraintViolation => "a deferred constraint is violated at the commit; check the writes",
            ErrorCode::TooBig => "keep only smaller answers (`IdempotencyLayer::with_answer_bytes_max`)",
            _ => "check the file",
        }
    }
}

impl From<&BatchFailed> for rusqlite::Error {
    fn from(failed: &BatchFailed) -> Self {
        Self::SqliteFailure(failed.code, failed.message.clone())
    }
}

impl From<BatchFailed> for Error {
    fn from(failed: BatchFailed) -> Self {
        let cause = rusqlite::Error::from(&failed);
        Self::new(failed.kind, format!("SQLite: {cause}; {}", failed.advice()))
    }
}

impl From<BatchFailed> for TxError {
    fn from(failed: BatchFailed) -> Self {
        Self::Sql((&failed).into())
    }
}

/// The error of a job during whose closure SQLite has ended the transaction.
pub(super) fn transaction_ended() -> BatchFailed {
    let message = "a statement that failed in the closure has ended the transaction";
    BatchFailed::of(ErrorKind::Unavailable, aborted(message))
}

/// The error of a job whose writes violate a deferred foreign key.
pub(super) fn constraint_owed() -> BatchFailed {
    let code = ffi::Error::new(ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
    BatchFailed { kind: ErrorKind::Refused, code, message: Some("FOREIGN KEY constraint failed".to_owned()) }
}

fn aborted(message: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK), Some(message.to_owned()))
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    match error {
        rusqlite::Error::SqliteFailure(code, _) | rusqlite::Error::SqlInputError { error: code, .. } => Some(code.code),
        _ => None,
    }
}
