//! What the tests of the PostgreSQL store share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::postgres::sqlx::{self, Connection as _};
use keylatch::postgres::{Options, Postgres, Store};
use keylatch::{Cleanup, Engine, Limits, Policy, Tx};
use testing_support::postgres::Cluster;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

/// The server that most tests share.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(""))
}

/// A name that is unique on the server.
pub(crate) fn fresh(what: &str) -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// A new database on the shared server, with a table of the user's own.
pub(crate) async fn database() -> String {
    let name = fresh("db");
    let made = name.clone();
    tokio::task::spawn_blocking(move || {
        cluster().sql("postgres", &format!("CREATE DATABASE {made}"));
        cluster().sql(&made, "CREATE TABLE item (name text NOT NULL UNIQUE)");
    })
    .await
    .expect("a database is made");
    name
}

/// A store on it.
pub(crate) async fn store(database: &str) -> Store {
    store_with(database, Options::default()).await
}

pub(crate) async fn store_with(database: &str, options: Options) -> Store {
    Store::connect_with(&cluster().url(database), options).await.expect("the store opens")
}

/// The names in the user's table, in order.
pub(crate) async fn items(store: &Store) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM item ORDER BY name").fetch_all(store.pool()).await.expect("the table is there")
}

/// How many records there are, in any state.
pub(crate) async fn records(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM keylatch.record").fetch_one(store.pool()).await.expect("it is there")
}

/// A service in `Atomic`. Its one route adds items in the way that the path says.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    address: SocketAddr,
}

/// Holds the handlers of `gated` until they may continue.
pub(crate) struct Gate {
    /// A handler notifies it when it has arrived.
    pub(crate) reached: Notify,
    /// One permit for each handler that may continue.
    pub(crate) open: Semaphore,
    /// Whether these handlers then fail.
    pub(crate) fails: AtomicBool,
    /// The pool of their transactions.
    pub(crate) pool: sqlx::PgPool,
}

impl Service {
    pub(crate) async fn start(store: Store) -> Self {
        Self::start_with(store, Policy::default()).await
    }

    pub(crate) async fn start_with(store: Store, policy: Policy) -> Self {
        // Replays come from the store: the cache is tested elsewhere.
        let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
        let engine = Engine::atomic(store.clone(), policy, limits).expect("the policy can be kept");
        // Tests count the statements on the server.
        let engine = engine.with_cleanup(Cleanup::off());
        let gate = Arc::new(Gate {
            reached: Notify::new(),
            open: Semaphore::new(0),
            fails: AtomicBool::new(false),
            pool: store.pool().clone(),
        });
        let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")).require_key();
        let app = Router::new().route("/items/{how}", post(add)).layer(layer).with_state(gate.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(tokio::spawn(async move { axum::serve(listener, app).await }));
        Self { store, gate, address }
    }

    /// Sends one request, and reads its answer.
    pub(crate) async fn post(&self, how: &str, key: &str, wait: u32) -> Answer {
        self.send(how, key, key, wait).await
    }

    /// Sends one request to add `item`.
    pub(crate) async fn send(&self, how: &str, key: &str, item: &str, wait: u32) -> Answer {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let mut request = client
            .post(format!("http://{}/items/{how}", self.address))
            .header("x-user-id", "user")
            .header("idempotency-key", key)
            .body(item.to_owned());
        if wait > 0 {
            request = request.header("prefer", format!("wait={wait}"));
        }
        let response = request.send().await.expect("the service answers");
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotent-replayed");
        Answer { status, replayed, body: response.text().await.expect("a whole answer") }
    }

    pub(crate) async fn items(&self) -> Vec<String> {
        items(&self.store).await
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    pub(crate) body: String,
}

impl Answer {
    /// The code of the problem, if it is one.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Adds an item, and then does what the path says.
async fn add(
    State(gate): State<Arc<Gate>>,
    Path(how): Path<String>,
    mut tx: Tx<Postgres>,
    item: String,
) -> impl IntoResponse {
    if let Err(error) = insert(&mut tx, &item).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    let status = match how.as_str() {
        "created" => StatusCode::CREATED,
        "refused" => StatusCode::UNPROCESSABLE_ENTITY,
        "failed" => StatusCode::INTERNAL_SERVER_ERROR,
        // Awaits something other than the transaction.
        "gated" => {
            gate.reached.notify_one();
            gate.open.acquire().await.expect("it stays").forget();
            let fails = gate.fails.load(Ordering::Relaxed);
            if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED }
        }
        // A statement fails, and the handler ignores it.
        "careless" => {
            insert(&mut tx, &item).await.expect_err("there is one already");
            StatusCode::CREATED
        }
        // A statement fails in a savepoint, and the rest continues.
        "careful" => {
            let mut savepoint = tx.begin().await.expect("a savepoint");
            insert(&mut savepoint, &item).await.expect_err("there is one already");
            savepoint.rollback().await.expect("to the savepoint");
            insert(&mut tx, &format!("{item} too")).await.expect("another name");
            StatusCode::CREATED
        }
        // It is kept where the layer cannot take it back.
        "moved" => {
            drop(tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(tx);
            }));
            StatusCode::CREATED
        }
        "leaked" => {
            std::mem::forget(tx);
            StatusCode::CREATED
        }
        // A savepoint that is never released.
        "open" => {
            std::mem::forget(tx.begin().await.expect("a savepoint"));
            StatusCode::CREATED
        }
        // It changes its role, and does or does not change back.
        "another-role" | "role-and-back" => {
            sqlx::raw_sql("SET LOCAL ROLE pg_monitor").execute(&mut *tx).await.expect("it may");
            if how == "role-and-back" {
                sqlx::raw_sql("RESET ROLE").execute(&mut *tx).await.expect("it may");
            }
            StatusCode::CREATED
        }
        // It asks the pool for another connection while it holds one.
        "greedy" => match sqlx::query("SELECT 1").execute(&gate.pool).await {
            Ok(_) => StatusCode::CREATED,
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        },
        "ended" => {
            sqlx::raw_sql("COMMIT").execute(&mut *tx).await.expect("it commits");
            StatusCode::CREATED
        }
        // Violates a constraint that is checked at the end.
        "deferred" => {
            let sql = "CREATE TEMPORARY TABLE number (n int UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP;
                INSERT INTO number VALUES (1), (1)";
            sqlx::raw_sql(sql).execute(&mut *tx).await.expect("it is not checked yet");
            StatusCode::CREATED
        }
        "slow" => match sqlx::query("SELECT pg_sleep(60)").execute(&mut *tx).await {
            Ok(_) => StatusCode::CREATED,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        },
        "idle" => {
            tokio::time::sleep(Duration::from_secs(5)).await;
            StatusCode::CREATED
        }
        "panic" => panic!("as asked"),
        how => unreachable!("no way to {how}"),
    };
    (status, format!("{how} {item}"))
}

pub(crate) async fn insert(conn: &mut sqlx::PgConnection, item: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO item (name) VALUES ($1)").bind(item).execute(conn).await.map(drop)
}
