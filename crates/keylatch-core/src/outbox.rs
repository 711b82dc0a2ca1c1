//! The outbox: events that are published if and only if the transaction that wrote them has committed.
//!
//! ```text
//!  handler ── tx.publish(event) ──▶ waits in its transaction
//!  its end ── events and record ──▶ the store, in one commit
//!  relay   ── pending ──▶ publisher ──▶ acknowledged ── settle ──▶ deleted
//! ```
//!
//! [`Events`] wait in a handler's transaction. A store with an [`Outbox`] writes them with the record. A relay holds a
//! lease, hands what is [pending](Outbox::pending) to a [`Publisher`], and [settles](Outbox::settle) what it was told.

mod event;
mod publisher;

use futures_util::future::BoxFuture;

pub use event::{
    EVENT_BYTES_MAX, EVENTS_BYTES_MAX, EVENTS_MAX, Event, EventId, Events, HEADERS_MAX, InvalidEvent, Published,
    TOPIC_BYTES_MAX,
};
pub use publisher::{Publisher, Sent};

use crate::store::{Applied, At, Count, Error, Store};
use crate::{DecodeError, Lease, Timestamp};

/// A handler's end of a transaction, which events can wait in.
///
/// The store writes them when the work ends with [`Ending::Commit`](crate::tx::Ending::Commit), together with the record,
/// after the handler's last statement. With any other end they are gone, as the handler's writes are.
pub trait Publishes {
    /// The events that wait.
    fn events(&mut self) -> &mut Events;
}

/// A store with an outbox: a queue of events in the database of the handlers' tables.
///
/// # What the relay relies on
///
/// - **An event is pending if and only if its transaction has committed**, from the commit on.
/// - **The order of a key**: of two transactions that publish under one topic and one key, the events of the one that
///   commits first have the lower numbers. So nothing that commits later comes before what a reader has seen of that key.
/// - **Each read starts at the beginning.** A store has no cursor that a late commit could fall behind.
/// - **An event that cannot be read stops no other**: it is handed out as such.
/// - **An event is deleted only by [`settle`](Self::settle)** with the relay's lease, or by an operator.
///
/// The conformance suite for the outbox (feature `conformance`) is this contract in executable form.
pub trait Outbox: Store {
    /// Reads the first events, in the order of their numbers: `limit` at most, and so many that all before the last one
    /// have fewer than `bytes` bytes together. All are from one state of the database. What `skip` names is passed over.
    fn pending(&self, limit: usize, bytes: usize, skip: Skip) -> BoxFuture<'_, Result<Vec<Pending>, Error>>;

    /// Writes what became of events, if `lease` still holds its record; otherwise nothing changes. Sent again, it changes
    /// nothing more. Events that are not there any more are passed over.
    fn settle(&self, lease: Lease, settled: Vec<Settled>) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Waits until a transaction of this process has committed events since the last wait; it is told before the commit is
    /// acknowledged. Commits of other processes do not end the wait: a relay also looks at intervals.
    fn woken(&self) -> BoxFuture<'_, ()>;

    /// Ends that wait, in this process. Call it after you have committed events in a transaction of your own.
    fn wake(&self);

    /// Reads events that cannot be published until an operator acts, in the order of their numbers, `limit` at most.
    fn stuck(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Stuck>, Error>>;

    /// Lets a refused event, or one that was set aside, be tried again. If it held back its key, the events behind it
    /// follow it. Returns whether there was such an event.
    fn retry(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>>;

    /// Discards such an event. If it held back its key, the events behind it are published.
    fn discard(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>>;

    /// Counts the events, each kind no further than `limit`.
    fn backlog(&self, limit: u64) -> BoxFuture<'_, Result<At<Backlog>, Error>>;
}

/// Which event it is: its number and its id, or [what stands for it](EventId::decode). A number alone could be another
/// event's later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its number in the outbox.
    pub seq: u64,
    /// Its id.
    pub id: EventId,
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its number in the outbox.
    pub seq: u64,
    /// The event.
    pub event: Published,
    /// When it was written, on the store's clock.
    pub created_at: Timestamp,
    /// Whether a refused event of its key was there at the moment of the read. Then it must not be published.
    pub blocked: bool,
    /// Why its id or its headers could not be read, if they could not. Then the event is without its headers or has
    /// [a name](EventId::decode) instead of its id, and must not be published: it is refused.
    pub unreadable: Option<DecodeError>,
}

impl Pending {
    /// Which event it is.
    pub const fn place(&self) -> Place {
        Place { seq: self.seq, id: self.event.id }
    }
}

/// Events to pass over for now: those whose last try failed, so that others get their turn, and those that are on their
/// way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skip {
    /// All events of these topics.
    pub topics: Vec<String>,
    /// All events of these keys: see [`Event::key_hash`].
    pub keys: Vec<i64>,
    /// These events.
    pub seqs: Vec<u64>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which event.
    pub place: Place,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The publisher has it: it is deleted.
    Acknowledged,
    /// It can never be published as it is, and holds back its key until an operator acts. An event without a key holds
    /// back nothing.
    Refused(String),
    /// It waits behind a refused event of its key. If there is none any more, nothing changes.
    Held,
    /// It can never be published as it is, and is put aside for an operator. Its key goes on without it.
    SetAside(String),
}

/// An event that cannot be published until an operator acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its number in the outbox.
    pub seq: u64,
    /// The event; without its headers if these cannot be read.
    pub event: Published,
    /// When it was written, on the store's clock.
    pub created_at: Timestamp,
    /// When it was found that it cannot be published, on the store's clock.
    pub stuck_at: Timestamp,
    /// Why.
    pub why: Why,
}

impl Stuck {
    /// Which event it is.
    pub const fn place(&self) -> Place {
        Place { seq: self.seq, id: self.event.id }
    }
}

/// Why an event is stuck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The publisher refused it, for this reason, and it holds back its key.
    Refused(String),
    /// It waits behind a refused event of its key.
    Held,
    /// The publisher refused it, for this reason, and it was put aside.
    SetAside(String),
}

/// How much there is in an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Events that wait to be published.
    pub waiting: Count,
    /// Events that were refused and hold back their keys.
    pub refused: Count,
    /// Events behind those.
    pub held: Count,
    /// Events that were put aside.
    pub set_aside: Count,
    /// When the first event that waits was written, on the store's clock.
    pub oldest: Option<Timestamp>,
}
