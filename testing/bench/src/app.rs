//! The services that are compared: one orders API, with and without the layer.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderName;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::{Engine, Limits, Policy, memory, redis, sqlite};

use crate::Result;
use crate::least::{self, Answers};
use crate::orders::{self, Numbers, OwnConnection};

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum App {
    /// It answers with the order and keeps nothing: the baseline for all others.
    Bare,
    /// The same handler behind the smallest layer that answers from memory.
    Least,
    /// The same handler behind the layer; records in memory.
    Memory,
    /// The same handler behind the layer; records in SQLite, on leases.
    SqliteLease,
    /// The same with the guarantee `AtMostOnce`.
    SqliteAtMostOnce,
    /// The same handler behind the layer; records in Redis, final answers also in the process.
    Redis,
    /// The same, without a cache in the process.
    RedisAlone,
    /// `Atomic` on SQLite: the order is inserted.
    SqliteAtomic,
    /// The order is inserted by the same writer, without the layer.
    SqliteOrder,
    /// A separate connection inserts the order and its key, with a commit for each request.
    SqliteCommitEach,
}

/// How to set up a service.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Where it keeps its files.
    pub(crate) dir: PathBuf,
    /// How long answers are kept, and tombstones after them; the defaults if `None`.
    pub(crate) kept: Option<Duration>,
    /// The address of Redis, for services that keep their records there.
    pub(crate) redis: Option<String>,
}

/// A service, and its engine if it has the layer.
pub(crate) struct Service {
    pub(crate) router: Router,
    pub(crate) engine: Option<Engine>,
}

impl App {
    const ALL: [Self; 10] = [
        Self::Bare,
        Self::Least,
        Self::Memory,
        Self::Redis,
        Self::RedisAlone,
        Self::SqliteLease,
        Self::SqliteAtMostOnce,
        Self::SqliteAtomic,
        Self::SqliteOrder,
        Self::SqliteCommitEach,
    ];

    /// Its name on the command line of a server process.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Least => "least",
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::RedisAlone => "redis-alone",
            Self::SqliteLease => "sqlite-lease",
            Self::SqliteAtMostOnce => "sqlite-at-most-once",
            Self::SqliteAtomic => "sqlite-atomic",
            Self::SqliteOrder => "sqlite-order",
            Self::SqliteCommitEach => "sqlite-commit-each",
        }
    }

    pub(crate) fn named(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|app| app.name() == name);
        known.ok_or_else(|| format!("there is no service `{name}`").into())
    }

    /// Whether it inserts orders, which can then be counted.
    pub(crate) const fn inserts(self) -> bool {
        matches!(self, Self::SqliteAtomic | Self::SqliteOrder | Self::SqliteCommitEach)
    }

    /// Whether it answers a repeated request with the recorded answer.
    pub(crate) const fn replays(self) -> bool {
        matches!(self, Self::Least | Self::Memory | Self::SqliteLease | Self::SqliteAtMostOnce | Self::SqliteAtomic)
            || self.needs_redis()
    }

    pub(crate) const fn needs_redis(self) -> bool {
        matches!(self, Self::Redis | Self::RedisAlone)
    }

    pub(crate) async fn service(self, setup: &Setup) -> Result<Service> {
        let numbers = Numbers::default();
        let file = setup.dir.join("orders.db");
        let policy = setup.policy();
        let plain = || Router::new().route(PATH, post(orders::answer)).with_state(numbers.clone());
        Ok(match self {
            Self::Bare => Service { router: plain(), engine: None },
            Self::Least => {
                let layer = from_fn_with_state(Answers::default(), least::once);
                Service { router: plain().layer(layer), engine: None }
            }
            Self::Memory => guarded(plain(), Engine::fenced(memory::Store::new(), policy, Limits::default())?),
            Self::Redis => guarded(plain(), setup.on_redis(Limits::default()).await?),
            Self::RedisAlone => {
                guarded(plain(), setup.on_redis(Limits { cache_bytes_max: 0, ..Limits::default() }).await?)
            }
            Self::SqliteLease => {
                let store = sqlite::Store::open(file).await?;
                guarded(plain(), Engine::fenced(store, policy, Limits::default())?)
            }
            Self::SqliteAtMostOnce => {
                let store = sqlite::Store::open(file).await?;
                guarded(plain(), Engine::at_most_once(store, policy, Limits::default())?)
            }
            Self::SqliteAtomic => {
                let store = orders_file(file).await?;
                let router = Router::new().route(PATH, post(orders::insert_in_transaction)).with_state(numbers);
                let engine = Engine::atomic(store.clone(), policy, Limits::default())?;
                let Service { router, engine } = guarded(router, engine);
                let counted = Router::new().route(COUNT_PATH, get(orders::count)).with_state(store);
                Service { router: router.merge(counted), engine }
            }
            Self::SqliteOrder => {
                let store = orders_file(file).await?;
                let counted = Router::new().route(COUNT_PATH, get(orders::count)).with_state(store.clone());
                let router = Router::new().route(PATH, post(orders::insert)).with_state((store, numbers));
                Service { router: router.merge(counted), engine: None }
            }
            Self::SqliteCommitEach => {
                let router = Router::new()
                    .route(PATH, post(orders::insert_and_commit))
                    .route(COUNT_PATH, get(orders::count_own))
                    .with_state((OwnConnection::open(&file)?, numbers));
                Service { router, engine: None }
            }
        })
    }
}

/// The path that takes orders.
pub(crate) const PATH: &str = "/api/orders";
/// The path that counts the inserted orders.
pub(crate) const COUNT_PATH: &str = "/count";

impl Setup {
    fn policy(&self) -> Policy {
        match self.kept {
            Some(kept) => Policy { lease: kept, retention: kept, tombstone: kept },
            None => Policy::default(),
        }
    }

    async fn on_redis(&self, limits: Limits) -> Result<Engine> {
        let url = self.redis.as_ref().ok_or("there is no Redis for it")?;
        Ok(Engine::fenced(redis::Store::connect(url).await?, self.policy(), limits)?)
    }
}

fn guarded(router: Router, engine: Engine) -> Service {
    let scope = ScopeFrom::header(HeaderName::from_static("x-user-id"));
    let layer = IdempotencyLayer::new(engine.clone(), scope).require_key();
    Service { router: router.layer(layer), engine: Some(engine) }
}

async fn orders_file(path: PathBuf) -> Result<sqlite::Store> {
    let store = sqlite::Store::open(path).await?;
    store.execute(|conn| conn.execute_batch(orders::TABLE)).await?;
    Ok(store)
}
