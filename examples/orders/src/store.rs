//! Where orders are kept. The handlers are written once, for [`Orders`]; each database is one file below this one.

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod sqlite;

use keylatch::inbox::Inbox;
use keylatch::outbox::Failed;
use keylatch::tx::Database;
use keylatch::{Key, Tx};
use uuid::Uuid;

use crate::inventory::{OrderCreated, Product, UserTotal};
use crate::order::Order;
use crate::problem::Problem;

/// A database that keeps orders together with Keylatch's records.
///
/// Writes go through a [`Tx`] and commit together with the record and the answer; reads do not use it.
pub(crate) trait Orders: Database {
    /// The database for reads.
    type Reader: Clone + Send + Sync + 'static;

    /// The store with the events of orders, and with the places of the consumer that counts them.
    type Store: Inbox<Database = Self> + Clone;

    /// Writes `order`, which `caller` placed under `key`, and returns it.
    ///
    /// # Errors
    ///
    /// [`Problem::Taken`] if the caller has an order under the key: the second fence, in case the record is gone.
    fn insert(
        tx: &mut Tx<Self>,
        caller: String,
        key: Key,
        order: Order,
    ) -> impl Future<Output = Result<Order, Problem>> + Send;

    /// Writes `order`, which `caller` placed under `key`, and its event, in a transaction without a record; or finds the
    /// order, if an earlier attempt has written it. This is for records that are elsewhere.
    ///
    /// # Errors
    ///
    /// [`Problem::Taken`] if there is an order of other items under the key: then its record is gone.
    #[cfg(any(feature = "cassandra", feature = "redis"))]
    fn insert_once(
        store: &Self::Store,
        caller: String,
        key: Key,
        order: Order,
    ) -> impl Future<Output = Result<Order, Problem>> + Send;

    /// The order with this identity.
    fn find(reader: &Self::Reader, order_id: Uuid) -> impl Future<Output = Result<Option<Order>, Problem>> + Send;

    /// The first `limit` orders of a user after `after`, in the order in which they were taken.
    fn page(
        reader: &Self::Reader,
        user_id: String,
        after: Option<Uuid>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Order>, Problem>> + Send;

    /// Adds an order to the inventory and to what its user has ordered.
    fn count(tx: &mut Tx<Self>, order: OrderCreated) -> impl Future<Output = Result<(), Failed>> + Send;

    /// The first `limit` products of the inventory after `after`.
    fn products(
        reader: &Self::Reader,
        after: Option<String>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Product>, Problem>> + Send;

    /// What a user has ordered, if anything.
    fn user_total(
        reader: &Self::Reader,
        user_id: String,
    ) -> impl Future<Output = Result<Option<UserTotal>, Problem>> + Send;

    /// Whether the database answers.
    fn ready(reader: &Self::Reader) -> impl Future<Output = Result<(), Problem>> + Send;
}
