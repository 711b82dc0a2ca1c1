//! The setups of the service: where records and orders are kept, and under which guarantee.
//!
//! | setup | guarantee | why an order is taken once |
//! |---|---|---|
//! | SQLite | `Atomic` | order, record and answer are one transaction |
//! | PostgreSQL, with or without Redis in front of it | `Atomic` | the same |
//! | records in Redis, orders in SQLite | `Fenced` | the unique constraint on caller and key in the table of orders |

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use axum::routing::{MethodRouter, post};
#[cfg(feature = "postgres")]
use keylatch::postgres::Postgres;
use keylatch::sqlite::Sqlite;
use keylatch::{Engine, Limits, Policy};

#[cfg(feature = "redis")]
use crate::config::Secret;
#[cfg(feature = "postgres")]
use crate::config::Server;
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
    /// Where everything is kept, to show to the operator.
    pub(crate) storing: String,
}

/// Records and orders in the SQLite file at `path`.
pub(crate) async fn sqlite(path: &Path) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    let store = sqlite::open(path).await?;
    Ok(Setup {
        engine: Engine::atomic(store.clone(), Policy::default(), Limits::default())?,
        reader: store,
        create: post(routes::create::<Sqlite>),
        storing: format!("{} (SQLite)", path.display()),
    })
}

/// Records in Redis, orders in the SQLite file at `path`.
#[cfg(feature = "redis")]
pub(crate) async fn redis_and_sqlite(redis: &Secret, path: &Path) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    /// How long a run holds its key without a renewal: an order takes milliseconds, and after a crash its client waits
    /// no longer than this.
    const LEASE: std::time::Duration = std::time::Duration::from_secs(5);
    let records = keylatch::redis::Store::connect(redis.reveal()).await?;
    let policy = Policy { lease: LEASE, ..Policy::default() };
    Ok(Setup {
        reader: sqlite::open(path).await?,
        engine: Engine::fenced(records, policy, Limits::default())?,
        create: post(routes::create_fenced),
        storing: format!("orders in {} (SQLite), records in Redis", path.display()),
    })
}

/// Records and orders in PostgreSQL.
#[cfg(feature = "postgres")]
pub(crate) async fn postgres(server: &Server) -> Result<Setup<Postgres>, Box<dyn Error>> {
    let (store, reader) = postgres::open(server).await?;
    let engine = Engine::atomic(store, Policy::default(), Limits::default())?;
    Ok(Setup { reader, engine, create: post(routes::create::<Postgres>), storing: server.to_string() })
}

/// Records and orders in PostgreSQL, copies of answers in Redis.
#[cfg(all(feature = "postgres", feature = "redis"))]
pub(crate) async fn tiered(server: &Server, redis: &Secret) -> Result<Setup<Postgres>, Box<dyn Error>> {
    use keylatch::redis::{Cache, Options};

    let (store, reader) = postgres::open(server).await?;
    let cache = Cache::connect(redis.reveal(), Options::default()).await?;
    let store = keylatch::tiered::Tiered::new(store, cache);
    Ok(Setup {
        reader,
        engine: Engine::atomic(store, Policy::default(), Limits::default())?,
        create: post(routes::create::<Postgres>),
        storing: format!("{server}; copies of answers in Redis"),
    })
}
