//! Orders in PostgreSQL, in the database that has Keylatch's records.

use std::error::Error;
use std::time::Duration;

use jiff::Timestamp;
use keylatch::outbox::Failed;
#[cfg(any(feature = "cassandra", feature = "redis"))]
use keylatch::outbox::{Events, Outbox as _};
use keylatch::postgres::sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, PgRow};
use keylatch::postgres::sqlx::{self, Row, query, query_scalar, raw_sql};
use keylatch::postgres::{CONNECT_MAX, CONNECTIONS_MAX, OpenError, Options, Postgres, Store};
use keylatch::{Key, Tx};
use tokio::time::timeout;
use uuid::Uuid;

use super::Orders;
use crate::config::Server;
#[cfg(any(feature = "cassandra", feature = "redis"))]
use crate::inventory;
use crate::inventory::{OrderCreated, Product, UserTotal};
use crate::money::Money;
use crate::order::{Order, Status};
use crate::problem::Problem;

/// Connections for reads. They are separate from those that take orders, so that neither waits for the other.
const READERS_MAX: u32 = 4;
/// How long a statement may take; a server that hangs must not keep its client waiting for ever.
const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// How long a start may take to create the table, including the wait for another process that creates it.
const SCHEMA_MAX: Duration = Duration::from_secs(60);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotOpen {
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error("cannot make the tables: {0}")]
    Schema(sqlx::Error),
}

/// Connects to the database, and creates Keylatch's schema and the table of orders if they do not exist. The pool is
/// for reads.
pub(crate) async fn open(server: &Server) -> Result<(Store, PgPool), CannotOpen> {
    let pool = |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(CONNECT_MAX);
    // The store finds broken connections by itself, without a round trip for each use.
    let writers = pool(CONNECTIONS_MAX).test_before_acquire(false).connect_with(server.options()).await;
    let store = Store::with_pool(writers.map_err(OpenError::from)?, Options::default()).await?;
    let readers = pool(READERS_MAX).connect_lazy_with(server.options());
    match timeout(SCHEMA_MAX, make_tables(&readers)).await {
        Ok(made) => made.map_err(CannotOpen::Schema)?,
        Err(_) => return Err(CannotOpen::Schema(sqlx::Error::PoolTimedOut)),
    }
    Ok((store, readers))
}

async fn make_tables(pool: &PgPool) -> sqlx::Result<()> {
    for (exists, schema) in [
        (include_str!("postgres/schema_exists.sql"), include_str!("postgres/schema.sql")),
        (include_str!("postgres/inventory_exists.sql"), include_str!("postgres/inventory_schema.sql")),
    ] {
        if query_scalar(exists).fetch_one(pool).await? {
            continue;
        }
        let mut tx = pool.begin().await?;
        query(include_str!("postgres/schema_lock.sql")).execute(&mut *tx).await?;
        raw_sql(schema).execute(&mut *tx).await?;
        tx.commit().await?;
    }
    Ok(())
}

impl Orders for Postgres {
    type Reader = PgPool;
    type Store = Store;

    async fn insert(tx: &mut Tx<Self>, caller: String, key: Key, order: Order) -> Result<Order, Problem> {
        insert(tx, &caller, &key, order).await?.map_err(|there| Problem::Taken(there.order_id))
    }

    #[cfg(any(feature = "cassandra", feature = "redis"))]
    async fn insert_once(store: &Store, caller: String, key: Key, order: Order) -> Result<Order, Problem> {
        let (asked, mut events) = (order.clone(), Events::default());
        events.publish(inventory::created(&order)).map_err(inventory::too_large)?;
        let mut tx = in_time(store.pool().begin()).await?;
        match insert(&mut tx, &caller, &key, order).await? {
            Err(there) if there.is_of_the_same(&asked) => Ok(there),
            Err(there) => Err(Problem::Taken(there.order_id)),
            Ok(order) => {
                in_time(store.publish_in(&mut *tx, events)).await?;
                in_time(tx.commit()).await?;
                store.wake();
                Ok(order)
            }
        }
    }

    async fn find(reader: &PgPool, order_id: Uuid) -> Result<Option<Order>, Problem> {
        let find = query(include_str!("postgres/find.sql")).bind(order_id.to_string()).try_map(order);
        in_time(find.fetch_optional(reader)).await
    }

    async fn page(reader: &PgPool, user_id: String, after: Option<Uuid>, limit: u32) -> Result<Vec<Order>, Problem> {
        // PostgreSQL's texts cannot contain this character, so no order belongs to such a user.
        if user_id.contains('\0') {
            return Ok(Vec::new());
        }
        let after = after.map(|order_id| order_id.to_string());
        let page = query(include_str!("postgres/page.sql")).bind(user_id).bind(after).bind(i64::from(limit));
        in_time(page.try_map(order).fetch_all(reader)).await
    }

    async fn count(tx: &mut Tx<Self>, order: OrderCreated) -> Result<(), Failed> {
        let items = serde_json::to_string(&order.items)?;
        let count = query(include_str!("postgres/count_items.sql")).bind(items);
        timeout(STATEMENT_MAX, count.execute(&mut **tx)).await??;
        let total = order.total_amount.to_string();
        let count = query(include_str!("postgres/count_user.sql")).bind(order.user_id).bind(total);
        timeout(STATEMENT_MAX, count.execute(&mut **tx)).await??;
        Ok(())
    }

    async fn products(reader: &PgPool, after: Option<String>, limit: u32) -> Result<Vec<Product>, Problem> {
        // PostgreSQL's texts cannot contain this character.
        let after = after.map(|after| after.replace('\0', ""));
        let page = query(include_str!("postgres/products.sql")).bind(after).bind(i64::from(limit));
        let product = |row: PgRow| Ok(Product { product_id: row.try_get(0)?, ordered: row.try_get(1)? });
        in_time(page.try_map(product).fetch_all(reader)).await
    }

    async fn user_total(reader: &PgPool, user_id: String) -> Result<Option<UserTotal>, Problem> {
        if user_id.contains('\0') {
            return Ok(None);
        }
        let find = query(include_str!("postgres/user_total.sql")).bind(user_id);
        let total = |row: PgRow| {
            let total_amount = parsed(&row, 2, Money::from_stored)?;
            Ok(UserTotal { user_id: row.try_get(0)?, orders: row.try_get(1)?, total_amount })
        };
        in_time(find.try_map(total).fetch_optional(reader)).await
    }

    async fn ready(reader: &PgPool) -> Result<(), Problem> {
        in_time(query("SELECT EXISTS (SELECT FROM orders)").execute(reader)).await?;
        Ok(())
    }
}

/// Writes the order, or finds an existing one.
async fn insert(db: &mut PgConnection, caller: &str, key: &Key, new: Order) -> Result<Result<Order, Order>, Problem> {
    let items = serde_json::to_string(&new.items).expect("items have nothing that JSON cannot say");
    let inserting = query(include_str!("postgres/insert.sql"))
        .bind(new.order_id.to_string())
        .bind(caller)
        .bind(key.as_str())
        .bind(&new.user_id)
        .bind(&new.cart_id)
        .bind(new.status.as_str())
        .bind(new.total_amount.to_string())
        .bind(items)
        .bind(new.created_at.as_millisecond());
    if in_time(inserting.execute(&mut *db)).await?.rows_affected() == 1 {
        return Ok(Ok(new));
    }
    let taken = query(include_str!("postgres/taken.sql")).bind(caller).bind(key.as_str()).try_map(order);
    in_time(taken.fetch_one(db)).await.map(Err)
}

/// The result of a statement, if it arrives in time.
async fn in_time<T, E: Error + 'static>(statement: impl Future<Output = Result<T, E>>) -> Result<T, Problem> {
    match timeout(STATEMENT_MAX, statement).await {
        Ok(done) => done.map_err(|error| Problem::unavailable(&error)),
        Err(late) => Err(Problem::unavailable(&late)),
    }
}

/// The order in a row of `find.sql` or `page.sql`.
#[expect(clippy::needless_pass_by_value, reason = "sqlx maps rows")]
fn order(row: PgRow) -> sqlx::Result<Order> {
    Ok(Order {
        order_id: parsed(&row, 0, |text| text.parse().ok())?,
        user_id: row.try_get(1)?,
        cart_id: row.try_get(2)?,
        status: parsed(&row, 3, Status::from_stored)?,
        total_amount: parsed(&row, 4, Money::from_stored)?,
        items: parsed(&row, 5, |text| serde_json::from_str(text).ok())?,
        created_at: Timestamp::from_millisecond(row.try_get(6)?).map_err(|error| sqlx::Error::Decode(error.into()))?,
    })
}

/// The parsed value of a text column. An invalid one was not written by this program.
fn parsed<T>(row: &PgRow, column: usize, parse: impl FnOnce(&str) -> Option<T>) -> sqlx::Result<T> {
    let text: &str = row.try_get(column)?;
    parse(text).ok_or_else(|| sqlx::Error::ColumnDecode {
        index: column.to_string(),
        source: "the column has a value that the orders API does not write".into(),
    })
}
