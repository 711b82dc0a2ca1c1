//! The set-ups of the service, each with stores of a test's own on real servers, and tests that run on each.
#![allow(dead_code, reason = "each file of tests needs its own part of this")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use keylatch::{Engine, Limits, Policy, cassandra, postgres, redis, sqlite};
use tempfile::TempDir;
use testing_support::postgres::Cluster;
use testing_support::redis::{Config, Server};
use testing_support::server::Program;

/// How the service is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    /// All in SQLite.
    Sqlite,
    /// All in PostgreSQL.
    Postgres,
    /// Records in Redis, orders in SQLite.
    Redis,
    /// All in PostgreSQL, and copies of answers in Redis.
    Tiered,
    /// Records in Cassandra, orders in SQLite.
    Cassandra,
    /// Records in Cassandra, orders in PostgreSQL.
    CassandraPostgres,
}

/// Makes a test of each function on each of the set-ups: `sqlite::NAME`, `postgres::NAME` and so on.
macro_rules! tests_on {
    ($($module:ident: $setup:ident),+ => $tests:tt) => { $(tests_on!(@ $module $setup $tests);)+ };
    (@ $module:ident $setup:ident [$($test:ident),+ $(,)?]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test(crate::setup::Setup::$setup).await;
                }
            )+
        }
    };
}

/// Servers that are started when the first asks for them.
#[derive(Default)]
struct Servers {
    postgres: OnceLock<Cluster>,
    redis: OnceLock<Mutex<Server>>,
}

/// Those of all tests that harm none. They go with the process.
static SHARED: LazyLock<Arc<Servers>> = LazyLock::new(Arc::default);

/// Where one shop keeps what it has: a directory, a database and a part of Redis, each its own.
pub(crate) struct Stores {
    pub(crate) setup: Setup,
    directory: TempDir,
    number: u32,
    servers: Arc<Servers>,
}

const REDIS_DATABASES: u32 = 1_000;
/// It is never to be seen; test servers let everyone in.
const PASSWORD: &str = "sentinel-password";

impl Setup {
    /// Empty stores.
    pub(crate) fn stores(self) -> Stores {
        self.stores_on(SHARED.clone())
    }

    /// Empty stores on servers that nobody else uses, so that they can be broken.
    pub(crate) fn stores_of_its_own(self) -> Stores {
        self.stores_on(Arc::default())
    }

    fn stores_on(self, servers: Arc<Servers>) -> Stores {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let stores = Stores { setup: self, directory, number, servers };
        if self.has_postgres() {
            stores.cluster().sql("postgres", &format!("CREATE DATABASE {}", stores.database()));
        }
        stores
    }

    pub(crate) fn has_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::Tiered | Self::CassandraPostgres)
    }

    pub(crate) fn has_redis(self) -> bool {
        matches!(self, Self::Redis | Self::Tiered)
    }

    pub(crate) fn has_cassandra(self) -> bool {
        matches!(self, Self::Cassandra | Self::CassandraPostgres)
    }

    /// Whether records and orders are apart.
    pub(crate) fn is_fenced(self) -> bool {
        self == Self::Redis || self.has_cassandra()
    }
}

impl Stores {
    /// How to start the server on these stores.
    pub(crate) fn program(&self) -> Program {
        let program = Program::new(env!("CARGO_BIN_EXE_orders")).env("DATA_DIR", self.directory.path());
        let program = if self.setup.has_redis() { program.env("REDIS_URL", self.redis_url()) } else { program };
        match self.setup {
            Setup::Sqlite | Setup::Redis => program,
            Setup::Cassandra => program.env("CASSANDRA_URL", self.cassandra_url()),
            Setup::Postgres => program
                .env("DB_HOST", "127.0.0.1")
                .env("DB_PORT", self.cluster().port().to_string())
                .env("DB_NAME", self.database())
                .env("DB_USER", "postgres")
                .env("DB_PASSWORD", PASSWORD),
            Setup::Tiered => program.env("DATABASE_URL", self.database_url()),
            Setup::CassandraPostgres => {
                program.env("DATABASE_URL", self.database_url()).env("CASSANDRA_URL", self.cassandra_url())
            }
        }
    }

    /// What the server says of them when it starts.
    pub(crate) fn shown(&self) -> String {
        match self.setup {
            Setup::Sqlite => format!("{} (SQLite)", self.file().display()),
            Setup::Redis => format!("orders in {} (SQLite), records in Redis", self.file().display()),
            Setup::Cassandra => format!("orders in {} (SQLite), records in Cassandra", self.file().display()),
            Setup::Postgres => self.shown_database(),
            Setup::Tiered => format!("{}; copies of answers in Redis", self.shown_database()),
            Setup::CassandraPostgres => format!("orders in {}, records in Cassandra", self.shown_database()),
        }
    }

    fn shown_database(&self) -> String {
        format!("PostgreSQL, database {} on 127.0.0.1:{}", self.database(), self.cluster().port())
    }

    /// SQLite's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.path().join("keylatch.db")
    }

    pub(crate) fn directory(&self) -> &TempDir {
        &self.directory
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        // After a crash the file system is synced as a whole, which is sooner done than each file by itself.
        self.servers.postgres.get_or_init(|| Cluster::start("recovery_init_sync_method = syncfs"))
    }

    pub(crate) fn redis(&self) -> MutexGuard<'_, Server> {
        let start = || Mutex::new(Server::start(Config::new().with("databases", REDIS_DATABASES.to_string())));
        self.servers.redis.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs SQL in the shop's database.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster().sql(&self.database(), sql)
    }

    /// The shop's database, for PostgreSQL's own programs.
    pub(crate) fn keywords(&self) -> String {
        self.cluster().keywords(&self.database())
    }

    pub(crate) fn database_url(&self) -> String {
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{}", self.cluster().port(), self.database())
    }

    fn redis_url(&self) -> String {
        assert!(self.number < REDIS_DATABASES, "there are only so many parts of Redis");
        format!("{}/{}", self.redis().url(), self.number)
    }

    /// A keyspace of the shop's own, on the node that all shops share.
    fn cassandra_url(&self) -> String {
        let keyspace = self.database();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            let node = testing_support::cassandra::shared();
            let url = format!("{}?survives=nothing", node.url(&keyspace));
            runtime.block_on(async {
                node.make_keyspace(&keyspace, &[("dc1", 1)]).await;
                let migrated = cassandra::migrate(&url, &cassandra::Options::default()).await;
                migrated.expect("the tables can be made");
            });
            url
        })
    }

    fn database(&self) -> String {
        format!("shop_{}", self.number)
    }

    /// Another process's engine on the same records, in `Fenced`.
    pub(crate) async fn engine(&self, policy: Policy) -> Engine {
        let limits = Limits::default();
        let engine = match self.setup {
            Setup::Sqlite => Engine::fenced(sqlite::Store::open(self.file()).await.expect("it opens"), policy, limits),
            Setup::Postgres | Setup::Tiered => {
                let store = postgres::Store::connect(&self.database_url()).await;
                Engine::fenced(store.expect("it connects"), policy, limits)
            }
            Setup::Redis => {
                let store = redis::Store::connect(&self.redis_url()).await;
                Engine::fenced(store.expect("it connects"), policy, limits)
            }
            Setup::Cassandra | Setup::CassandraPostgres => {
                let store = cassandra::Store::connect(&self.cassandra_url()).await;
                Engine::fenced(store.expect("it connects"), policy, limits)
            }
        };
        engine.expect("the policy can be kept")
    }

    /// Loses all of Keylatch's records, and keeps the orders.
    pub(crate) fn lose_records(&self) {
        if self.setup.has_postgres() {
            self.sql("DELETE FROM keylatch.record");
        }
        if self.setup.has_cassandra() {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| {
                runtime.block_on(async {
                    let session = testing_support::cassandra::shared().session().await;
                    let lose = session.query_unpaged(format!("TRUNCATE {}.record", self.database()), ()).await;
                    lose.expect("records can be lost");
                });
            });
        }
        if self.setup.has_redis() {
            let reply = self.redis().ask(&format!("SELECT {}\r\nFLUSHDB", self.number));
            assert_eq!(reply, "+OK\r\n+OK\r\n");
        }
        if self.setup == Setup::Sqlite {
            let file = rusqlite::Connection::open(self.file()).expect("the file is there");
            file.execute("DELETE FROM keylatch_record", []).expect("records can be lost");
        }
    }
}
