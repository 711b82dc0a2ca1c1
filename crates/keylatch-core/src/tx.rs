//! `Atomic`: the claim, the handler's writes and the outcome in one database transaction.

use std::fmt;
use std::ops::DerefMut;
use std::panic::Location;
use std::pin::Pin;

use futures_util::future::BoxFuture;

use crate::machine::Claim;
use crate::store::{At, Error, Store};
use crate::{Outcome, Policy, Record};

/// A store whose records live in the same database as the caller's tables.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no transaction to share with a handler, so it cannot give `Atomic`",
    label = "this store cannot be `Atomic`",
    note = "use a store in the database of the handler's own tables (SQLite, PostgreSQL), or choose `fenced` or `at_most_once`"
)]
pub trait Transactional: Store {
    /// The database that handlers write to.
    type Database: Database;

    /// Does one attempt at `claim` in one transaction.
    ///
    /// Looks first: if a record decides what the claim gets, or another transaction is seen to have the key,
    /// `start` is not called. Otherwise calls it with the transaction's handle and drives the work that it
    /// returns. Before anything is written, the key is claimed in the same transaction; if it is held, the work
    /// is dropped. The end of the work decides:
    ///
    /// - [`Verdict::Keep`]: the writes and the record commit together;
    /// - [`Verdict::KeepUndone`]: the record commits, the writes do not;
    /// - [`Verdict::Free`], [`Verdict::Retry`]: neither; the key is free;
    /// - [`Verdict::Unknown`]: as `Free`, for a transaction always knows.
    ///
    /// The future yields `Committed` only after the commit is durable.
    fn transact(
        &self,
        claim: Claim,
        policy: Policy,
        start: Start<Self::Database>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>>;
}

/// A database that can lend a handler a transaction: a marker type such as `keylatch::sqlite::Sqlite`.
pub trait Database: Sized + Send + Sync + 'static {
    /// The handler's end of a transaction; `keylatch::Tx` is made of it. The store keeps the other end, and can take the
    /// transaction back. What it dereferences to is what a handler can do with its transaction.
    type Handle: DerefMut<Target: Sized> + Send + Sync + 'static;
}

/// Makes the work of one attempt, given its transaction.
pub type Start<D> = Box<dyn FnOnce(<D as Database>::Handle) -> Work + Send>;

/// The work of one attempt: the handler, up to its verdict.
pub type Work = Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// What a run wants to become of its record, and of what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Record this outcome.
    Keep(Outcome),
    /// Record this outcome; in `Atomic`, take the handler's writes back. For an answer that says no.
    KeepUndone(Outcome),
    /// It did not happen: nothing is recorded, and the key is free for any request.
    Free,
    /// It failed: the same request may run again at once.
    Retry,
    /// Whether it happened is not known.
    Unknown,
}

/// How an attempt in a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Transacted {
    /// The record is committed, and the writes with it where the verdict kept them.
    Committed(Record),
    /// Nothing is committed, as the verdict said.
    RolledBack,
    /// Another has the key; this is the record. Nothing of this attempt is committed.
    Held(Record),
    /// Another transaction has the key at this moment, for whatever request, and its record, if it comes to have one,
    /// cannot be seen yet. Nothing of this attempt is committed.
    Busy,
    /// The handler used its transaction in a way that cannot be committed; nothing is.
    Misused(Misuse),
}

/// A place in the source, if it is known.
struct Place(Option<&'static Location<'static>>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "{}:{}", place.file(), place.line()),
            None => f.write_str("a use of its `Tx`"),
        }
    }
}

/// A use of a transaction that cannot be committed. A mistake in the handler, and not a passing fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// It awaited something else after its first write.
    #[error(
        "the handler awaited something else after {}, inside its transaction, which would have blocked every other \
         writer; await everything else before the first use of `Tx`, or use `Fenced`",
        Place(*after)
    )]
    AwaitedInside {
        /// The use of its `Tx` after which it did.
        after: Option<&'static Location<'static>>,
    },
    /// It kept the transaction from coming back.
    #[error("the handler did not return its transaction; do not move a `Tx` to another task")]
    NotReturned,
    /// A statement in it had failed, so that the database would commit nothing of it; and the handler answered as if
    /// all were well.
    #[error(
        "a statement of the handler's transaction failed, which rolls back the whole transaction, but the handler \
         answered with success; return the error, or put what may fail into a savepoint"
    )]
    Failed,
    /// It ended the transaction by a statement of its own.
    #[error(
        "the handler ended its transaction itself, so its writes and its answer are not one unit; let the layer end it"
    )]
    Ended,
    /// On PostgreSQL: the record could not be written with the rights that the transaction had at its end.
    #[error(
        "the role of the handler's transaction has no right to write its record; if the handler sets another role \
         (`SET LOCAL ROLE`), it must `RESET ROLE` before it ends; otherwise see `keylatch::postgres::grant`"
    )]
    OtherRole,
    /// On SQLite: it held the one writer of the file for longer than the store allows.
    #[error(
        "the closure held the file's only writer for too long, and its writes were rolled back; write less in one \
         transaction, do what is not SQL before its first use, or raise `sqlite::Options::with_closure_time_max`"
    )]
    TooLong,
    /// On SQLite: it changed how its connection works, which others use after it.
    #[error(
        "the closure changed its connection (configuration, limits or hooks), which all callers share; the change was \
         undone, and its writes were rolled back; leave the connection as it is, and use your own connection for such \
         work"
    )]
    Reconfigured,
}
