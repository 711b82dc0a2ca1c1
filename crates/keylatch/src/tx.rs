//! `Atomic`: the claim, the handler's writes and the outcome in one database transaction.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

use keylatch_core::outbox::{Event, EventId, InvalidEvent, Publishes as _};
pub use keylatch_core::tx::*;

/// A handler's transaction. What it writes commits together with the record and the answer, or not at all.
///
/// The database defines what a handler can do with it: on SQLite `run`, on PostgreSQL everything that sqlx does with a
/// connection.
pub struct Tx<D: Database> {
    handle: D::Handle,
}

impl<D: Database> Tx<D> {
    /// A transaction made of the store's `handle`; for authors of entry points.
    pub const fn new(handle: D::Handle) -> Self {
        Self { handle }
    }

    /// Publishes an event if the transaction commits, on every database alike: it waits in this `Tx`, is written with the
    /// record after the handler's last statement, and is handed on by a [relay](crate::outbox). It is gone with writes
    /// that are rolled back, by a refusal, an error or a panic. A savepoint has no effect on it.
    ///
    /// Returns the id under which it will be published, however often.
    ///
    /// # Errors
    ///
    /// If the event is invalid, or the transaction has as many events as it may ([`EVENTS_MAX`](crate::outbox::EVENTS_MAX)
    /// and [`EVENTS_BYTES_MAX`](crate::outbox::EVENTS_BYTES_MAX)). The transaction can go on without it.
    pub fn publish(&mut self, event: Event) -> Result<EventId, InvalidEvent> {
        self.handle.events().publish(event)
    }
}

impl<D: Database> Deref for Tx<D> {
    type Target = <D::Handle as Deref>::Target;

    fn deref(&self) -> &Self::Target {
        &self.handle
    }
}

impl<D: Database> DerefMut for Tx<D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.handle
    }
}

impl<D: Database> fmt::Debug for Tx<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}

/// The slot for a transaction between the store and the handler that asks for it.
#[derive(Clone)]
pub(crate) struct TxSlot(Arc<dyn Any + Send + Sync>);

impl TxSlot {
    pub(crate) fn new<D: Database>(tx: Tx<D>) -> Self {
        Self(Arc::new(Mutex::new(Some(tx))))
    }

    /// Whether the transaction is one of `D`.
    #[cfg(feature = "axum")]
    pub(crate) fn is_of<D: Database>(&self) -> bool {
        self.0.is::<Mutex<Option<Tx<D>>>>()
    }

    /// The transaction, if it is one of `D`; only the first call gets it.
    pub(crate) fn take<D: Database>(&self) -> Option<Tx<D>> {
        self.0.downcast_ref::<Mutex<Option<Tx<D>>>>()?.lock().take()
    }
}
