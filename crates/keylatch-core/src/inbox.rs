//! The contract of an inbox: how far a consumer of a log has come, and the messages that it applies, in one
//! transaction.
//!
//! ```text
//!  take ─▶ owned ──apply, apply, …──▶ give_back ─▶ free ─▶ take …
//!            │                                              the epoch rises with every take
//!            └── the owner dies ──▶ take, by another: after_crash
//!
//!  apply:  BEGIN, lock the place     is it ours, and still where we believe?     otherwise nothing starts
//!          the ids of the messages   is one of them known, or held?
//!            the handlers' statements, part by part
//!          place and records         one statement
//!          COMMIT
//! ```
//!
//! - A **place** ([`Place`]) is a row for each consumer, topic and partition: who owns it, and the next offset to
//!   apply.
//! - A message's id is a **record** like any other ([`Claim`]). So an operation that arrives by HTTP and in a message,
//!   or at two offsets, has one effect. A message without an id has the place alone.
//! - A **dead letter** ([`DeadLetter`]) is a message that was given up. It is written in the same commit in which the
//!   place passes it.
//! - [`Tracker`] is the bookkeeping of a consumer that finishes messages out of order: the place follows the last
//!   offset below which everything is done.

mod batch;
mod dead_letter;
mod place;
mod progress;

use std::fmt::Debug;
use std::time::Duration;

use futures_util::future::BoxFuture;

pub use batch::{BATCH_MESSAGES_MAX, Batch, BatchEnd, Part, StartPart, Triage, Triaged, Why};
pub use dead_letter::{
    DeadLetter, DeadLetterId, DeadLettersRequest, ERROR_BYTES_MAX, MESSAGE_BYTES_MAX, Order, Reason, TRACE_BYTES_MAX,
    Trouble,
};
pub use place::{
    CONSUMER_BYTES_MAX, InvalidPlace, LastMessage, Ownership, Place, PlaceName, PlacesRequest, Step, TOPIC_BYTES_MAX,
    Tried, advance, begin_try, give_back, may_remove, move_to, take,
};
pub use progress::{Behind, Tracker};

use crate::Epoch;
#[cfg(doc)]
use crate::machine::Claim;
use crate::outbox::{Events, Outbox};
use crate::record::Owner;
use crate::store::{Applied, At, Cursor, Error};
use crate::tx::Transactional;

/// What operators do with places and dead letters. It names no database, so a tool for any store holds a `dyn Places`.
///
/// What [`Inbox`] says of calls that are sent again, futures that are dropped, and time holds here too.
pub trait Places: Debug + Send + Sync + 'static {
    /// Reads a place, without waiting for anyone.
    fn place(&self, place: PlaceName) -> BoxFuture<'_, Result<At<Option<Place>>, Error>>;

    /// A page of places, in the order of consumer, topic and partition.
    fn places(&self, page: PlacesRequest) -> BoxFuture<'_, Result<At<Listed<Place>>, Error>>;

    /// Moves the place to any offset, forward or back, for an operator. `seen` is the epoch of the place that the
    /// operator has seen, `None` if there was none. The epoch rises and the place has no owner afterwards: whoever has
    /// it loses it, and must take it again. The last message and the tries are forgotten.
    fn move_to(&self, place: PlaceName, seen: Option<Epoch>, next: i64) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Removes a place, for an operator: its consumer is no more, or its topic. `seen` is the epoch of the place that
    /// the operator has seen. Its dead letters stay. Whoever has the place loses it. If a consumer comes back for it, the
    /// consumer begins as if it had never been there: so stop all of them first.
    fn remove(&self, place: PlaceName, seen: Epoch) -> BoxFuture<'_, Result<Applied, Error>>;

    /// A page of dead letters, in the order of consumer, topic, partition and offset.
    fn dead_letters(&self, page: DeadLettersRequest) -> BoxFuture<'_, Result<At<Listed<DeadLetter>>, Error>>;

    /// Orders what becomes of a dead letter, for an operator; returns whether it is there.
    fn order(&self, letter: DeadLetterId, order: Order) -> BoxFuture<'_, Result<bool, Error>>;

    /// Removes dead letters of a consumer that nobody wants and that were given up longer than `age` ago, `limit` at
    /// most; returns how many. There may be more if it is `limit`.
    fn sweep_dead_letters(&self, consumer: String, age: Duration, limit: usize) -> BoxFuture<'_, Result<usize, Error>>;
}

/// A store that keeps places beside its records and its outbox, in the database of the handlers' own tables.
///
/// # What a consumer relies on
///
/// - **Nothing is committed unless place, epoch, owner and next offset are the caller's.** They are checked under a
///   lock on the place, before any handler starts, and the lock is held until the commit. So an owner that has lost its
///   place starts nothing, and a takeover waits for the transaction that the previous owner has open. A store with many
///   writers bounds that wait by the time that it lets a handler's transaction pause.
/// - **Everything that a batch does is one commit**: the handlers' writes and events, the records of the message ids,
///   and the place.
/// - **Each call can be sent again** after an error, with the same arguments, and then has no further effect. There are
///   two exceptions, and both are safe: [`begin_try`](Self::begin_try) counts again, and an [`apply`](Self::apply) that
///   was committed returns [`BatchEnd::Lost`] with a place that has moved.
/// - **A future may be dropped at any point.** What it does happens as a whole or not at all.
/// - **Time is the store's**, as in [`Store`](crate::store::Store).
///
/// # What an implementor must never do
///
/// Move the place in another transaction than the effect. Start a handler before the place is locked and checked. Count
/// a try after its handler. Decide policy: which message is given up, and when, is the consumer's choice.
///
/// No method has a default body. The pure functions [`take`], [`advance`], [`move_to`], [`give_back`] and [`begin_try`]
/// say what becomes of a place; [`Triage`] says what becomes of the messages of a batch. The conformance suite (feature
/// `conformance`) is this contract in executable form.
pub trait Inbox: Places + Outbox + Transactional {
    /// How the processes of a consumer share its partitions.
    fn sharing(&self) -> Sharing;

    /// Makes `owner` the owner of the place, whoever had it. The epoch rises, and [`Place::after_crash`] says whether
    /// the previous owner has not given it back. A place that does not exist is created, without a next offset.
    ///
    /// It waits until no other transaction has the place locked. So, sent again with the same `owner` after an
    /// [`apply`](Self::apply) whose commit is [not known](crate::store::ErrorKind::NotKnown), it tells what became of
    /// it: the place has moved, or it never will by that batch. The epoch does not rise then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::store::ErrorKind::Unavailable) if a transaction has had the place for longer
    /// than the store lets a handler pause; try again.
    fn take(&self, place: PlaceName, owner: Owner) -> BoxFuture<'_, Result<At<Place>, Error>>;

    /// Applies the messages of a batch in one transaction, and moves the place past them. See [`Batch`] and
    /// [`BatchEnd`].
    ///
    /// A panic of a handler reaches the caller, and nothing is committed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotKnown`](crate::store::ErrorKind::NotKnown) if the commit may have taken place: then
    /// [`take`](Self::take) the place again, with the same owner, before anything else. Any other kind if it has not.
    /// An error is not a failed try of a message.
    fn apply(&self, batch: Batch<Self::Database>) -> BoxFuture<'_, Result<BatchEnd, Error>>;

    /// Moves the place without a message's transaction: where its first owner begins, past offsets that have no
    /// message, or after messages that were finished out of order.
    fn advance(&self, ownership: Ownership, step: Step) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Gives the place back: the next owner knows that no message was half-way.
    fn give_back(&self, ownership: Ownership) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Counts a try of the message at `offset`, before it starts, and returns the number of this try, from 1. The count
    /// is durable when this returns: so a message that kills the process is found by its tries. `None` if the place is
    /// lost.
    ///
    /// A place counts the tries of one message; to count for another offset starts at 1 again. An
    /// [`apply`](Self::apply) that fails by an error of the store needs no new try: the one that was begun continues.
    fn begin_try(&self, ownership: Ownership, offset: i64) -> BoxFuture<'_, Result<Option<u32>, Error>>;

    /// Gives up a message: writes a dead letter for it, and moves the place by `step`, in one commit. Without a step
    /// the place stays: for a message above the place, of a consumer that finishes out of order. If there is such a
    /// dead letter, it stays.
    ///
    /// The `events` are written in the same commit, if and only if the dead letter is: those for a topic of dead
    /// letters.
    fn bury(
        &self,
        ownership: Ownership,
        offset: i64,
        trouble: Trouble,
        step: Option<Step>,
        events: Events,
    ) -> BoxFuture<'_, Result<Applied, Error>>;
}

/// How the processes of a consumer that use one store share the partitions of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// As members of a group at the broker: for a database with many writers.
    Group,
    /// One process has all partitions, and others stand by: for a database with one writer, such as a file. Two of them may
    /// belong to one consumer and know nothing of each other; in a group, each would get a part of the messages.
    OneProcess,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// What is in it.
    pub items: Vec<T>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

impl<T> Listed<T> {
    /// A page of at most `limit`, which goes on after its last item if it is full; for authors of stores.
    pub fn new(items: Vec<T>, limit: usize, cursor: impl FnOnce(&T) -> Cursor) -> Self {
        let is_full = items.len() >= limit.min(crate::store::PAGE_RECORDS_MAX);
        let next = items.last().filter(|_| is_full).map(cursor);
        Self { items, next }
    }
}
