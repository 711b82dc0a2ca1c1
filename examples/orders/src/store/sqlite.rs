//! Orders in SQLite, in the file that has Keylatch's records.

use std::path::Path;

use jiff::Timestamp;
use keylatch::outbox::Failed;
use keylatch::sqlite::{OpenError, Sqlite, Store, TxError};
use keylatch::{Key, Tx};
use rusqlite::types::Type;
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::Orders;
#[cfg(any(feature = "cassandra", feature = "redis"))]
use crate::inventory;
use crate::inventory::{OrderCreated, Product, UserTotal};
use crate::money::Money;
use crate::order::{Order, Status};
use crate::problem::Problem;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotOpen {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot make the tables: {0}")]
    Schema(#[from] TxError),
}

/// Opens the database, with a table of orders in it.
pub(crate) async fn open(path: &Path) -> Result<Store, CannotOpen> {
    let store = Store::open(path).await?;
    store.execute(|db| db.execute_batch(include_str!("sqlite/schema.sql"))).await?;
    store.execute(|db| db.execute_batch(include_str!("sqlite/inventory_schema.sql"))).await?;
    Ok(store)
}

impl Orders for Sqlite {
    type Reader = Store;
    type Store = Store;

    async fn insert(tx: &mut Tx<Self>, caller: String, key: Key, order: Order) -> Result<Order, Problem> {
        let inserted = tx.run(move |db| insert(db, &caller, &key, order)).await;
        let taken = |there: Order| Problem::Taken(there.order_id);
        inserted.map_err(|error| Problem::unavailable(&error))?.map_err(taken)
    }

    #[cfg(any(feature = "cassandra", feature = "redis"))]
    async fn insert_once(store: &Store, caller: String, key: Key, order: Order) -> Result<Order, Problem> {
        let asked = order.clone();
        let event = inventory::created(&order);
        let inserted = store.execute_and_publish(move |db, events| {
            let inserted = insert(db, &caller, &key, order)?;
            if inserted.is_ok()
                && let Err(error) = events.publish(event)
            {
                return Err(rusqlite::Error::UserFunctionError(error.into()));
            }
            Ok(inserted)
        });
        let inserted = inserted.await;
        if let Err(TxError::Sql(rusqlite::Error::UserFunctionError(error))) = &inserted
            && let Some(error) = error.downcast_ref()
        {
            return Err(inventory::too_large(*error));
        }
        match inserted.map_err(|error| Problem::unavailable(&error))? {
            Err(there) if there.is_of_the_same(&asked) => Ok(there),
            inserted => inserted.map_err(|there| Problem::Taken(there.order_id)),
        }
    }

    async fn find(reader: &Store, order_id: Uuid) -> Result<Option<Order>, Problem> {
        let found = reader.query(move |db| {
            let mut statement = db.prepare_cached(include_str!("sqlite/find.sql"))?;
            statement.query_map([order_id.to_string()], order)?.next().transpose()
        });
        found.await.map_err(|error| Problem::unavailable(&error))
    }

    async fn page(reader: &Store, user_id: String, after: Option<Uuid>, limit: u32) -> Result<Vec<Order>, Problem> {
        let after = after.map(|order_id| order_id.to_string()).unwrap_or_default();
        let page = reader.query(move |db| {
            let mut statement = db.prepare_cached(include_str!("sqlite/page.sql"))?;
            statement.query_map((user_id, after, limit), order)?.collect()
        });
        page.await.map_err(|error| Problem::unavailable(&error))
    }

    async fn count(tx: &mut Tx<Self>, order: OrderCreated) -> Result<(), Failed> {
        Ok(tx.run(move |db| count(db, &order)).await?)
    }

    async fn products(reader: &Store, after: Option<String>, limit: u32) -> Result<Vec<Product>, Problem> {
        let after = after.unwrap_or_default();
        let page = reader.query(move |db| {
            let mut statement = db.prepare_cached(include_str!("sqlite/products.sql"))?;
            let product = |row: &Row<'_>| Ok(Product { product_id: row.get(0)?, ordered: row.get(1)? });
            statement.query_map((after, limit), product)?.collect()
        });
        page.await.map_err(|error| Problem::unavailable(&error))
    }

    async fn user_total(reader: &Store, user_id: String) -> Result<Option<UserTotal>, Problem> {
        let found = reader.query(move |db| user_total(db, &user_id));
        found.await.map_err(|error| Problem::unavailable(&error))
    }

    async fn ready(reader: &Store) -> Result<(), Problem> {
        let answered = reader.query(|db| db.query_row("SELECT EXISTS (SELECT 1 FROM orders)", [], |_| Ok(())));
        answered.await.map_err(|error| Problem::unavailable(&error))
    }
}

/// Writes the order, or finds an existing one.
fn insert(db: &Connection, caller: &str, key: &Key, new: Order) -> rusqlite::Result<Result<Order, Order>> {
    let items = serde_json::to_string(&new.items).expect("items have nothing that JSON cannot say");
    let inserted = db.prepare_cached(include_str!("sqlite/insert.sql"))?.execute((
        new.order_id.to_string(),
        caller,
        key.as_str(),
        &new.user_id,
        &new.cart_id,
        new.status.as_str(),
        new.total_amount.to_string(),
        items,
        new.created_at.as_millisecond(),
    ))?;
    if inserted == 1 {
        return Ok(Ok(new));
    }
    db.prepare_cached(include_str!("sqlite/taken.sql"))?.query_row((caller, key.as_str()), order).map(Err)
}

/// Adds an order to the inventory and to what its user has ordered.
fn count(db: &Connection, order: &OrderCreated) -> rusqlite::Result<()> {
    let mut add = db.prepare_cached(include_str!("sqlite/count_item.sql"))?;
    for item in &order.items {
        add.execute((&item.product_id, item.quantity))?;
    }
    let before = user_total(db, &order.user_id)?;
    let total = before.map_or(order.total_amount, |before| before.total_amount.plus(order.total_amount));
    db.prepare_cached(include_str!("sqlite/count_user.sql"))?.execute((&order.user_id, total.to_string()))?;
    Ok(())
}

fn user_total(db: &Connection, user_id: &str) -> rusqlite::Result<Option<UserTotal>> {
    let mut statement = db.prepare_cached(include_str!("sqlite/user_total.sql"))?;
    let total = |row: &Row<'_>| {
        let total_amount = parsed(row, 2, Money::from_stored)?;
        Ok(UserTotal { user_id: row.get(0)?, orders: row.get(1)?, total_amount })
    };
    statement.query_map([user_id], total)?.next().transpose()
}

/// The order in a row of `find.sql`, `page.sql` or `taken.sql`.
fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        order_id: parsed(row, 0, |text| text.parse().ok())?,
        user_id: row.get(1)?,
        cart_id: row.get(2)?,
        status: parsed(row, 3, Status::from_stored)?,
        total_amount: parsed(row, 4, Money::from_stored)?,
        items: parsed(row, 5, |text| serde_json::from_str(text).ok())?,
        created_at: Timestamp::from_millisecond(row.get(6)?)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(6, Type::Integer, error.into()))?,
    })
}

/// The parsed value of a text column. An invalid one was not written by this program.
fn parsed<T>(row: &Row<'_>, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).ok_or_else(|| {
        let why = "the column has a value that the orders API does not write";
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why.into())
    })
}
