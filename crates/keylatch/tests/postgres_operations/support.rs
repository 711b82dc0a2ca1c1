//! What these tests have in common: databases, a service and its clients.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::post;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::postgres::sqlx::{self, Connection as _};
use keylatch::postgres::{Options, Postgres, Store};
use keylatch::{Engine, Limits, Policy, Tx};
use testing_support::postgres::Cluster;
use tokio::net::TcpListener;

/// The server that most tests share.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(""))
}

/// A name that nothing else on the server has.
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

/// A service in `Atomic`, whose one route adds items in ways that the path says.
pub(crate) struct Service {
    pub(crate) store: Store,
    address: SocketAddr,
}

impl Service {
    pub(crate) async fn start(store: Store) -> Self {
        // Replays come from the store: the cache is tested elsewhere.
        let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
        let engine = Engine::atomic(store.clone(), Policy::default(), limits).expect("the policy can be kept");
        let layer = IdempotencyLayer::new(engine, ScopeFrom::header("x-user-id")).require_key();
        let app = Router::new().route("/items/{how}", post(add)).layer(layer);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        drop(tokio::spawn(async move { axum::serve(listener, app).await }));
        Self { store, address }
    }

    /// Sends one request, to add an item of the key's name, and reads its answer; `wait` is for how many seconds it waits
    /// for one that runs.
    pub(crate) async fn post(&self, how: &str, key: &str, wait: u32) -> Answer {
        let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        let mut request = client
            .post(format!("http://{}/items/{how}", self.address))
            .header("x-user-id", "user")
            .header("idempotency-key", key)
            .body(key.to_owned());
        if wait > 0 {
            request = request.header("prefer", format!("wait={wait}"));
        }
        let response = request.send().await.expect("the service answers");
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotent-replayed");
        Answer { status, replayed, body: response.text().await.expect("a whole answer") }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    pub(crate) body: String,
}

impl Answer {
    /// The problem's code, if it is one.
    pub(crate) fn code(&self) -> String {
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Adds an item, and then does as the path says.
async fn add(Path(how): Path<String>, mut tx: Tx<Postgres>, item: String) -> impl IntoResponse {
    if let Err(error) = insert(&mut tx, &item).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    let status = match how.as_str() {
        "created" => StatusCode::CREATED,
        "refused" => StatusCode::UNPROCESSABLE_ENTITY,
        // A statement fails in a savepoint, and the rest goes on.
        "careful" => {
            let mut savepoint = tx.begin().await.expect("a savepoint");
            insert(&mut savepoint, &item).await.expect_err("there is one already");
            savepoint.rollback().await.expect("to the savepoint");
            insert(&mut tx, &format!("{item} too")).await.expect("another name");
            StatusCode::CREATED
        }
        how => unreachable!("no way to {how}"),
    };
    (status, format!("{how} {item}"))
}

async fn insert(conn: &mut sqlx::PgConnection, item: &str) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO item (name) VALUES ($1)").bind(item).execute(conn).await.map(drop)
}
