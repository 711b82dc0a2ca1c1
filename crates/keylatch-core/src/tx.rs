//! The contract of `Atomic`: the claim, the handler's writes and the outcome in one database transaction.
//!
//! The store does one transaction and returns its result. The engine looks first, tries again, and finds out what
//! became of a commit whose reply was lost. [`Verdict::ending`] alone defines what a [`Verdict`] means for the commit.

use std::fmt;
use std::ops::DerefMut;
use std::panic::Location;
use std::pin::Pin;

use futures_util::future::BoxFuture;

use crate::machine::{self, Claim, Claimed, Completion};
use crate::outbox::{Event, EventId, Events, InvalidEvent, Publishes};
use crate::store::{At, Error, Store};
use crate::{Outcome, Policy, Record, Timestamp};

/// A store whose records live in the same database as the caller's tables.
///
/// The conformance suite for `Atomic` (feature `conformance`) is this contract in executable form.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no transaction to share with a handler, so it cannot give `Atomic`",
    label = "this store cannot be `Atomic`",
    note = "use a store in the database of the handler's own tables (SQLite, PostgreSQL), or choose `fenced` or `at_most_once`"
)]
pub trait Transactional: Store {
    /// The database that handlers write to.
    type Database: Database;

    /// Reads the record that `claim` asks for, and returns whether a transaction holds its key.
    ///
    /// If the key is not [busy](Seen::busy), every transaction that held it when the call began has ended, and the
    /// record is what they left. So a look after a commit whose reply was lost tells whether it took place.
    fn look(&self, claim: &Claim) -> BoxFuture<'_, Result<At<Seen>, Error>>;

    /// Does one attempt at `claim` in one transaction.
    ///
    /// `seen` is the result of a [look](Self::look), and the claim wins over it. The store calls `start` with the
    /// handler's end of the transaction, and drives the work that it returns. Before it commits anything, it makes sure
    /// that the key is still available: otherwise it drops the work, or does not start it, and returns
    /// [`Transacted::Held`]. The work's [`Ending`] says what is committed.
    ///
    /// If the handler's end has not been returned when the work ends, nothing is committed; nor is it if the handler
    /// has ended or broken the transaction: see [`Misuse`]. A panic of the work reaches the caller, and affects nobody
    /// else.
    ///
    /// The future yields `Committed` only after the commit is durable. It may be dropped at any point: then the attempt
    /// is committed as a whole or not at all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotKnown`](crate::store::ErrorKind::NotKnown) if the commit may have taken place; any other kind if it
    /// has not.
    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        start: Start<Self::Database>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>>;
}

/// A database that can lend a handler a transaction: a marker type such as `keylatch::sqlite::Sqlite`.
pub trait Database: Sized + Send + Sync + 'static {
    /// The handler's end of a transaction; `keylatch::Tx` wraps it. The store keeps the other end, and can take the
    /// transaction back. The type that it dereferences to has what a handler can do with its transaction. Events that
    /// the handler publishes wait in it.
    type Handle: DerefMut<Target: Sized> + Publishes + Send + Sync + 'static;
}

/// Starts the work of one attempt, given the handler's end of its transaction.
pub type Start<D> = Box<dyn FnOnce(<D as Database>::Handle) -> Work + Send>;

/// The work of one attempt: the handler, up to its end.
pub type Work = Pin<Box<dyn Future<Output = Ending> + Send>>;

/// The result of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The committed record, if any.
    pub record: Option<Record>,
    /// Whether an open transaction holds the key, for whatever request.
    pub busy: bool,
}

/// What is to become of a run's record and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Record this outcome.
    Keep(Outcome),
    /// Record this outcome; in `Atomic`, roll back the handler's writes. For a refusal.
    KeepOutcomeOnly(Outcome),
    /// It did not happen: nothing is recorded, and the key is free for any request.
    Free,
    /// It failed: the same request may run again at once.
    Retry,
    /// It is not known whether it happened.
    Unknown,
}

impl Verdict {
    /// What a transaction does at its end. A transaction always knows its result, so if nothing is recorded, the key is
    /// free.
    pub fn ending(self, policy: &Policy) -> Ending {
        match self {
            Self::Keep(outcome) => Ending::Commit(Completion::new(outcome, policy)),
            Self::KeepOutcomeOnly(outcome) => Ending::RecordOnly(Completion::new(outcome, policy)),
            Self::Free | Self::Retry | Self::Unknown => Ending::RollBack,
        }
    }
}

/// What is committed at the end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The handler's writes and events, and the record with this completion.
    Commit(Completion),
    /// The record with this completion. The handler's writes and events are rolled back.
    RecordOnly(Completion),
    /// Nothing.
    RollBack,
}

/// How an attempt in a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Transacted {
    /// The record is committed, and with it the writes if the [`Ending`] says so.
    Committed(Record),
    /// Nothing is committed, as the [`Ending`] said.
    RolledBack,
    /// Another owner has the key: this is its record, if one was seen. Nothing of this attempt is committed.
    Held(Option<Record>),
    /// The handler used its transaction in a way that cannot be committed; nothing is.
    Misused(Misuse),
}

/// Who has the key after a claim in the caller's own transaction.
#[derive(Debug)]
#[must_use]
pub enum InOwn {
    /// The caller's transaction, until it ends.
    Entered(Entered),
    /// This record.
    Held(At<Record>),
    /// Another transaction at this moment, for whatever request: nothing final can be said about the key.
    Busy,
}

impl InOwn {
    /// The result of `claim` after a look; for authors of stores.
    pub fn of(claim: &Claim, At { value: Seen { record, busy }, now }: At<Seen>) -> Self {
        match Entered::new(claim, record, now) {
            Err(record) => Self::Held(At { value: record, now }),
            Ok(_) if busy => Self::Busy,
            Ok(entered) => Self::Entered(entered),
        }
    }
}

/// A claim that a transaction has won. Nothing is written yet.
#[derive(Debug, Clone)]
pub struct Entered {
    record: Record,
    previous: Option<Record>,
    events: Events,
}

impl Entered {
    /// The record of `claim` at `now`, which replaces `previous`.
    ///
    /// # Errors
    ///
    /// `previous`, if it holds the key.
    #[expect(clippy::result_large_err, reason = "it is the other outcome, and no failure")]
    pub fn new(claim: &Claim, previous: Option<Record>, now: Timestamp) -> Result<Self, Record> {
        match machine::claim(previous.clone(), claim, now) {
            Claimed::Won(record) => Ok(Self { record, previous, events: Events::default() }),
            Claimed::Held(record) => Err(record),
        }
    }

    /// The record of the claim; it is written when the transaction ends.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The record that it replaces.
    pub const fn previous(&self) -> Option<&Record> {
        self.previous.as_ref()
    }

    /// Publishes an event if the transaction commits: it waits here, and is written with the record.
    ///
    /// # Errors
    ///
    /// If the event is invalid, or the transaction has as many events as it may.
    pub fn publish(&mut self, event: Event) -> Result<EventId, InvalidEvent> {
        self.events.publish(event)
    }

    /// The events that wait.
    pub const fn events(&self) -> &Events {
        &self.events
    }

    /// The record with its completion, at `now`.
    pub fn completed(&self, completion: &Completion, now: Timestamp) -> Record {
        machine::complete(&self.record, &self.record.lease(), completion, now)
            .unwrap_or_else(|| unreachable!("a running record takes the completion of its own lease"))
    }
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
    /// It did not return the transaction.
    #[error("the handler did not return its transaction; do not move a `Tx` to another task")]
    NotReturned,
    /// A statement in it had failed, so the database would commit nothing of it, but the handler answered with success.
    #[error(
        "a statement of the handler's transaction failed, which rolls back the whole transaction, but the handler \
         answered with success; return the error, or put what may fail into a savepoint"
    )]
    Failed,
    /// It ended the transaction with its own statement.
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
    /// On SQLite: it held the file's only writer for longer than the store allows.
    #[error(
        "the closure held the file's only writer for too long, and its writes were rolled back; write less in one \
         transaction, do what is not SQL before its first use, or raise `sqlite::Options::with_closure_time_max`"
    )]
    TooLong,
    /// On SQLite: it changed the settings of its connection, which others use after it.
    #[error(
        "the closure changed its connection (configuration, limits or hooks), which all callers share; the change was \
         undone, and its writes were rolled back; leave the connection as it is, and use your own connection for such \
         work"
    )]
    Reconfigured,
}
