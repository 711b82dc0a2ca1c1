//! A handler's transaction on PostgreSQL.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::postgres::PgConnection;

use super::Store;
use super::link::Link;
use keylatch_core::Record;
use keylatch_core::machine::Claim;
use keylatch_core::outbox::{Events, Publishes};
use keylatch_core::store::{At, Error};
use keylatch_core::tx::{Database, Seen, Start, Transacted, Transactional};

/// Marks a handler's transaction as one on PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Database for Postgres {
    type Handle = Loaned;
}

/// What a `keylatch::Tx<Postgres>` wraps: the connection, and the place to which it returns.
///
/// The transaction is a sqlx connection: `sqlx::query(…).execute(&mut *tx)`. It works with any code that takes a
/// `&mut PgConnection`; a `begin` on it is a savepoint.
///
/// It holds the key, so nobody else runs this request meanwhile. The handler may also await anything else, within
/// [the limit](super::Options::with_handler_pause_max); it holds a connection of the pool while it runs.
///
/// It must be returned when the handler ends: if it was moved to another task or leaked, it is rolled back, and the
/// answer is a 500.
#[derive(Debug)]
pub struct Loaned {
    link: Option<Link>,
    events: Events,
    home: Home,
}

const LENT: &str = "the connection is here until it is dropped";

impl Deref for Loaned {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.link.as_ref().expect(LENT).conn()
    }
}

impl DerefMut for Loaned {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.link.as_mut().expect(LENT).conn_mut()
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.home.give_back(link, std::mem::take(&mut self.events));
        }
    }
}

impl Publishes for Loaned {
    fn events(&mut self) -> &mut Events {
        &mut self.events
    }
}

/// The place to which a connection returns.
#[derive(Debug, Clone)]
pub(super) struct Home(Arc<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    Empty,
    Returned(Link, Events),
    /// Nobody waits any more: a connection that returns now is rolled back.
    Closed,
}

impl Home {
    /// Lends `link`, which has an open transaction with these events so far.
    pub(super) fn lend(link: Link, events: Events) -> (Self, Loaned) {
        let home = Self(Arc::new(Mutex::new(Place::Empty)));
        let loaned = Loaned { link: Some(link), events, home: home.clone() };
        (home, loaned)
    }

    /// The lent connection and the events of its transaction, if it has returned. After this it is too late.
    pub(super) fn close(&self) -> Option<(Link, Events)> {
        match std::mem::replace(&mut *self.0.lock(), Place::Closed) {
            Place::Returned(link, events) => Some((link, events)),
            Place::Empty | Place::Closed => None,
        }
    }

    fn give_back(&self, link: Link, events: Events) {
        let mut place = self.0.lock();
        if matches!(*place, Place::Empty) {
            *place = Place::Returned(link, events);
        }
        // Otherwise it is dropped with its transaction open, and so closed.
    }
}

impl Transactional for Store {
    type Database = Postgres;

    fn look(&self, claim: &Claim) -> BoxFuture<'_, Result<At<Seen>, Error>> {
        let claim = claim.clone();
        Box::pin(async move { Ok(self.shared.look(&self.looks, &claim).await?) })
    }

    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        start: Start<Postgres>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>> {
        Box::pin(async move { Ok(self.shared.attempt(claim, seen, start).await?) })
    }
}
