//! The setups of the service: where records and orders are kept, and under which guarantee.
//!
//! | setup | guarantee | why an order is taken once |
//! |---|---|---|
//! | SQLite | `Atomic` | order, record and answer are one transaction |
//! | PostgreSQL, with or without Redis in front of it | `Atomic` | the same |
//! | records in Redis or Cassandra, orders in SQLite | `Fenced` | the unique constraint on caller and key in the table of orders |
//! | records in Cassandra, orders in PostgreSQL | `Fenced` | the same |

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(any(feature = "cassandra", feature = "redis"))]
use axum::Extension;
use axum::routing::{MethodRouter, post};
use keylatch::inbox::Places;
use keylatch::outbox::Outbox;
#[cfg(feature = "postgres")]
use keylatch::postgres::Postgres;
use keylatch::sqlite::Sqlite;
use keylatch::tx::Transactional;
use keylatch::{Engine, InvalidPolicy, Limits, Policy};

#[cfg(any(feature = "cassandra", feature = "redis"))]
use crate::config::Secret;
#[cfg(feature = "postgres")]
use crate::config::Server;
use crate::inventory::Flow;
use crate::routes::{self, App};
#[cfg(feature = "postgres")]
use crate::store::postgres;
use crate::store::{Orders, sqlite};

/// One setup of the service.
pub(crate) struct Setup<D: Orders> {
    /// For reading orders.
    pub(crate) reader: D::Reader,
    pub(crate) engine: Engine,
    /// What takes an order; the layer goes around it.
    pub(crate) create: MethodRouter<Arc<App<D>>>,
    /// Brings the events of orders to the inventory.
    pub(crate) flow: Flow,
    /// The events, for operators.
    pub(crate) outbox: Arc<dyn Outbox>,
    /// The places of consumers, for operators.
    pub(crate) places: Arc<dyn Places>,
    /// Where everything is kept, to show to the operator.
    pub(crate) storing: String,
}

/// Where the events of orders go on their way to the inventory: to these brokers, or nowhere outside this process.
pub(crate) type Brokers = Option<String>;

/// The way of events to the inventory.
fn flow<D: Orders>(store: D::Store, events: &Brokers) -> Result<Flow, Box<dyn Error>> {
    match events {
        #[cfg(feature = "kafka")]
        Some(brokers) => Flow::by_kafka::<D>(store, brokers),
        _ => Flow::in_process::<D>(store.clone(), counting(store)?),
    }
}

/// The engine that handles events, on the database of the orders. It remembers each event for longer than a relay takes to
/// delete it.
fn counting(store: impl Transactional) -> Result<Engine, InvalidPolicy> {
    const REMEMBERED: Duration = Duration::from_secs(60 * 60);
    let policy = Policy { retention: REMEMBERED, tombstone: REMEMBERED, ..Policy::default() };
    Engine::atomic(store, policy, Limits::default())
}

/// Records and orders in the SQLite file at `path`.
pub(crate) async fn sqlite(path: &Path, events: &Brokers) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    let store = sqlite::open(path).await?;
    Ok(Setup {
        engine: Engine::atomic(store.clone(), Policy::default(), Limits::default())?,
        flow: flow::<Sqlite>(store.clone(), events)?,
        outbox: Arc::new(store.clone()),
        places: Arc::new(store.clone()),
        reader: store,
        create: post(routes::create::<Sqlite>),
        storing: format!("{} (SQLite)", path.display()),
    })
}

/// Records in Redis, orders in the SQLite file at `path`.
#[cfg(feature = "redis")]
pub(crate) async fn redis_and_sqlite(
    redis: &Secret,
    path: &Path,
    events: &Brokers,
) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    let records = keylatch::redis::Store::connect(redis.reveal()).await?;
    let (orders, storing) = (sqlite::open(path).await?, format!("{} (SQLite), records in Redis", path.display()));
    fenced(records, orders.clone(), orders, &storing, events)
}

/// Records in Cassandra, orders in the SQLite file at `path`.
#[cfg(feature = "cassandra")]
pub(crate) async fn cassandra_and_sqlite(
    cassandra: &Secret,
    path: &Path,
    events: &Brokers,
) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    let records = keylatch::cassandra::Store::connect(cassandra.reveal()).await?;
    let (orders, storing) = (sqlite::open(path).await?, format!("{} (SQLite), records in Cassandra", path.display()));
    fenced(records, orders.clone(), orders, &storing, events)
}

/// Records in Cassandra, orders in PostgreSQL.
#[cfg(all(feature = "cassandra", feature = "postgres"))]
pub(crate) async fn cassandra_and_postgres(
    cassandra: &Secret,
    server: &Server,
    events: &Brokers,
) -> Result<Setup<Postgres>, Box<dyn Error>> {
    let records = keylatch::cassandra::Store::connect(cassandra.reveal()).await?;
    let (orders, reader) = postgres::open(server).await?;
    fenced(records, orders, reader, &format!("{server}, records in Cassandra"), events)
}

/// Records in a store of their own, orders and events in `orders`.
#[cfg(any(feature = "cassandra", feature = "redis"))]
fn fenced<D: Orders>(
    records: impl keylatch::store::Store,
    orders: D::Store,
    reader: D::Reader,
    storing: &str,
    events: &Brokers,
) -> Result<Setup<D>, Box<dyn Error>> {
    /// How long a run holds its key without a renewal: an order takes milliseconds, and after a crash its client waits
    /// no longer than this.
    const LEASE: Duration = Duration::from_secs(5);
    let policy = Policy { lease: LEASE, ..Policy::default() };
    Ok(Setup {
        flow: flow::<D>(orders.clone(), events)?,
        outbox: Arc::new(orders.clone()),
        places: Arc::new(orders.clone()),
        reader,
        engine: Engine::fenced(records, policy, Limits::default())?,
        create: post(routes::create_fenced::<D>).layer(Extension(orders)),
        storing: format!("orders in {storing}"),
    })
}

/// Records and orders in PostgreSQL.
#[cfg(feature = "postgres")]
pub(crate) async fn postgres(server: &Server, events: &Brokers) -> Result<Setup<Postgres>, Box<dyn Error>> {
    let (store, reader) = postgres::open(server).await?;
    Ok(Setup {
        reader,
        flow: flow::<Postgres>(store.clone(), events)?,
        outbox: Arc::new(store.clone()),
        places: Arc::new(store.clone()),
        engine: Engine::atomic(store, Policy::default(), Limits::default())?,
        create: post(routes::create::<Postgres>),
        storing: server.to_string(),
    })
}

/// Records and orders in PostgreSQL, copies of answers in Redis.
#[cfg(all(feature = "postgres", feature = "redis"))]
pub(crate) async fn tiered(
    server: &Server,
    redis: &Secret,
    events: &Brokers,
) -> Result<Setup<Postgres>, Box<dyn Error>> {
    use keylatch::redis::{Cache, Options};

    let (store, reader) = postgres::open(server).await?;
    let cache = Cache::connect(redis.reveal(), Options::default()).await?;
    let flow = flow::<Postgres>(store.clone(), events)?;
    let (outbox, places) = (Arc::new(store.clone()), Arc::new(store.clone()));
    let store = keylatch::tiered::Tiered::new(store, cache);
    Ok(Setup {
        reader,
        flow,
        outbox,
        places,
        engine: Engine::atomic(store, Policy::default(), Limits::default())?,
        create: post(routes::create::<Postgres>),
        storing: format!("{server}; copies of answers in Redis"),
    })
}
