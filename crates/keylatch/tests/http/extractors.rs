//! What axum handlers may ask for, and what they get where their route has none to give.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::post;
use http::StatusCode;
use keylatch::http::{IdempotencyLayer, ScopeFrom};
use keylatch::sqlite::{self, Sqlite};
use keylatch::{Key, Run, Scope, Tx, memory};
use tempfile::TempDir;

use crate::app::serve;
use crate::wire::{Call, Reply};

async fn who(key: Key, scope: Scope) -> String {
    format!("{} {} {}", key.as_str(), scope.caller(), scope.operation())
}

async fn whoever(key: Option<Key>) -> String {
    key.map_or("-".to_owned(), |key| key.as_str().to_owned())
}

async fn run(run: Run) -> String {
    format!("attempt {}", run.attempt())
}

async fn write(mut tx: Tx<Sqlite>) -> impl IntoResponse {
    tx.run(|db| db.execute("INSERT INTO effect DEFAULT VALUES", [])).await.expect("it is written");
    StatusCode::CREATED
}

async fn two(first: Tx<Sqlite>, _second: Tx<Sqlite>) {
    drop(first);
}

/// Holds the one writer while it waits.
async fn waits(mut tx: Tx<Sqlite>) -> impl IntoResponse {
    tx.run(|db| db.execute("INSERT INTO effect DEFAULT VALUES", [])).await.expect("it is written");
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    StatusCode::CREATED
}

fn routes() -> Router {
    Router::new()
        .route("/who/{id}", post(who))
        .route("/whoever", post(whoever))
        .route("/run", post(run))
        .route("/write", post(write))
        .route("/two", post(two))
        .route("/waits", post(waits))
}

async fn ask(app: Router, target: &str, key: Option<&str>) -> Reply {
    let (address, server) = serve(app).await;
    let call = Call::new(address, "POST", target).caller("alice");
    let reply = key.into_iter().fold(call, |call, key| call.key(key)).send().await;
    server.abort();
    reply
}

fn is_not_set_up(reply: &Reply) {
    assert_eq!((reply.status, reply.body_text()), (500, "the service is not set up for this request\n"));
}

#[tokio::test]
async fn on_a_lease() {
    let scope = || ScopeFrom::header("x-user-id");
    let app = routes().layer(IdempotencyLayer::fenced(memory::Store::new(), scope()));
    assert_eq!(ask(app.clone(), "/who/7", Some("\"k\"")).await.body_text(), "k alice POST /who/{}");
    assert_eq!(ask(app.clone(), "/whoever", Some("k")).await.body_text(), "k");
    assert_eq!(ask(app.clone(), "/run", Some("k")).await.body_text(), "attempt 1");
    // Without a key the request is not guarded.
    assert_eq!(ask(app.clone(), "/whoever", None).await.body_text(), "-");
    is_not_set_up(&ask(app.clone(), "/who/7", None).await);
    is_not_set_up(&ask(app.clone(), "/run", None).await);
    is_not_set_up(&ask(app.clone(), "/write", Some("k")).await);
    for target in ["/who/7", "/run", "/write"] {
        is_not_set_up(&ask(routes(), target, Some("k")).await);
    }
}

#[tokio::test]
async fn in_a_transaction() {
    let directory = TempDir::new().unwrap();
    let store = sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    store.execute(|db| db.execute_batch("CREATE TABLE effect (id INTEGER PRIMARY KEY)")).await.unwrap();
    let app = routes().layer(IdempotencyLayer::atomic(store.clone(), ScopeFrom::header("x-user-id")));
    for replayed in [false, true] {
        let reply = ask(app.clone(), "/write", Some("k")).await;
        assert_eq!((reply.status, reply.replayed()), (201, replayed));
    }
    is_not_set_up(&ask(app.clone(), "/run", Some("k")).await);
    is_not_set_up(&ask(app.clone(), "/two", Some("k")).await);
    for _ in 0..2 {
        let problem = ask(app.clone(), "/waits", Some("k")).await.is_problem(500, "HANDLER_FAILED");
        assert_eq!(problem["retryable"], true);
    }
    let effects = store.query(|db| db.query_row("SELECT count(*) FROM effect", [], |row| row.get::<_, i64>(0)));
    assert_eq!(effects.await.unwrap(), 1, "what was misused is not committed");
}
