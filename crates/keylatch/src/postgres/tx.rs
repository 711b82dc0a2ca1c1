//! A handler's transaction on PostgreSQL.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::postgres::PgConnection;

use super::Store;
use super::link::Link;
use crate::Policy;
use crate::machine::Claim;
use crate::store::{At, Error};
use crate::tx::{Database, Start, Transacted, Transactional, Tx};

/// Marks a handler's transaction as one on PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Database for Postgres {
    type Handle = Loaned;
}

/// The transaction is a connection of sqlx: `sqlx::query(…).execute(&mut *tx)`. So is what it gives to code that takes
/// a `&mut PgConnection`; a `begin` on it is a savepoint.
///
/// It has the key, so nobody else runs this request meanwhile. The handler may await anything else too, within
/// [the bounds](super::Options::with_handler_pause_max); a connection of the pool is its own as long as it runs.
///
/// It must come back when the handler ends: one that was moved to another task, or leaked, is rolled back, and the answer
/// is a 500.
impl Deref for Tx<Postgres> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.handle.link().conn()
    }
}

impl DerefMut for Tx<Postgres> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.handle.link.as_mut().expect(LENT).conn_mut()
    }
}

/// What a [`Tx<Postgres>`](Tx) is made of: the connection, and the place to which it goes back.
#[derive(Debug)]
pub struct Loaned {
    link: Option<Link>,
    home: Home,
}

const LENT: &str = "the connection is here until it is dropped";

impl Loaned {
    fn link(&self) -> &Link {
        self.link.as_ref().expect(LENT)
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.home.give_back(link);
        }
    }
}

/// Where a connection goes back to.
#[derive(Debug, Clone)]
pub(super) struct Home(Arc<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    Empty,
    Returned(Link),
    /// Nobody waits any more: what comes now is rolled back.
    Closed,
}

impl Home {
    /// Lends `link`, which has a transaction open.
    pub(super) fn lend(link: Link) -> (Self, Tx<Postgres>) {
        let home = Self(Arc::new(Mutex::new(Place::Empty)));
        let tx = Tx::from_handle(Loaned { link: Some(link), home: home.clone() });
        (home, tx)
    }

    /// What was lent, if it is back. From now on it is too late.
    pub(super) fn close(&self) -> Option<Link> {
        match std::mem::replace(&mut *self.0.lock(), Place::Closed) {
            Place::Returned(link) => Some(link),
            Place::Empty | Place::Closed => None,
        }
    }

    fn give_back(&self, link: Link) {
        let mut place = self.0.lock();
        if matches!(*place, Place::Empty) {
            *place = Place::Returned(link);
        }
        // Otherwise it is dropped with its transaction open, and so closed.
    }
}

impl Transactional for Store {
    type Database = Postgres;

    fn transact(
        &self,
        claim: Claim,
        policy: Policy,
        start: Start<Postgres>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>> {
        Box::pin(async move { Ok(self.shared.attempt(&self.looks, claim, policy, start).await?) })
    }
}
