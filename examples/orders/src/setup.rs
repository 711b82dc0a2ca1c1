//! The ways to set the service up: where records and orders are kept, and what is promised there.
//!
//! | set-up | guarantee | what makes an order one |
//! |---|---|---|
//! | SQLite | `Atomic` | order, record and answer are one transaction |
//! | PostgreSQL, Redis before it or not | `Atomic` | the same |
//! | records in Redis, orders in SQLite | `Fenced` | the unique constraint on caller and key in the table of orders |

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{MethodRouter, post};
use keylatch::postgres::Postgres;
use keylatch::redis::{self, Cache, Options};
use keylatch::sqlite::Sqlite;
use keylatch::tiered::Tiered;
use keylatch::{Engine, Limits, Policy};

use crate::config::{Secret, Server};
use crate::routes::{self, App};
use crate::store::{Orders, postgres, sqlite};

/// A way to set the service up.
pub(crate) struct Setup<D: Orders> {
    /// For whoever reads orders.
    pub(crate) reader: D::Reader,
    pub(crate) engine: Engine,
    /// What takes an order; the layer goes around it.
    pub(crate) create: MethodRouter<Arc<App<D>>>,
    /// Where everything is kept, for the operator to read.
    pub(crate) storing: String,
}

/// How long a run on Redis holds its key without a sign of life: an order takes milliseconds, and after a crash its
/// client waits no longer than this.
const LEASE: Duration = Duration::from_secs(5);

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
pub(crate) async fn redis_and_sqlite(redis: &Secret, path: &Path) -> Result<Setup<Sqlite>, Box<dyn Error>> {
    let records = redis::Store::connect(redis.reveal()).await?;
    let policy = Policy { lease: LEASE, ..Policy::default() };
    Ok(Setup {
        reader: sqlite::open(path).await?,
        engine: Engine::fenced(records, policy, Limits::default())?,
        create: post(routes::create_fenced),
        storing: format!("orders in {} (SQLite), records in Redis", path.display()),
    })
}

/// Records and orders in PostgreSQL; copies of answers in Redis, if there is a `cache`.
pub(crate) async fn postgres(server: &Server, cache: Option<&Secret>) -> Result<Setup<Postgres>, Box<dyn Error>> {
    let (store, reader) = postgres::open(server).await?;
    let (policy, limits) = (Policy::default(), Limits::default());
    let engine = match cache {
        None => Engine::atomic(store, policy, limits),
        Some(redis) => {
            let cache = Cache::connect(redis.reveal(), Options::default()).await?;
            Engine::atomic(Tiered::new(store, cache), policy, limits)
        }
    };
    let before = if cache.is_some() { "; copies of answers in Redis" } else { "" };
    Ok(Setup {
        reader,
        engine: engine?,
        create: post(routes::create::<Postgres>),
        storing: format!("{server}{before}"),
    })
}
