//! What axum handlers may ask for, and what they get if their route does not provide it.

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::{any, post};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use keylatch::http::{IdempotencyLayer, NotGuarded, ScopeFrom, Unguarded};
use keylatch::sqlite::{self, Sqlite};
use keylatch::tx::Database;
use keylatch::{Identity, Run, Tx, memory};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::app::serve;
use crate::wire::{Call, Reply};

async fn who(Identity { scope, key }: Identity) -> String {
    format!("{} {} {}", key.as_str(), scope.caller(), scope.operation())
}

async fn whoever(asked: Option<Identity>) -> String {
    asked.map_or("-".to_owned(), |Identity { key, .. }| key.as_str().to_owned())
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

/// Holds the only writer while it waits.
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
    let problem = reply.is_problem(500, "IDEMPOTENCY_NOT_SET_UP");
    assert_eq!(problem["retryable"], false);
}

#[tokio::test]
async fn on_a_lease() {
    let scope = || ScopeFrom::header("x-user-id");
    let app = routes().layer(IdempotencyLayer::fenced(memory::Store::new(), scope()));
    assert_eq!(ask(app.clone(), "/who/7", Some("\"k\"")).await.body_text(), "k alice POST /who/{}");
    assert_eq!(ask(app.clone(), "/whoever", Some("k")).await.body_text(), "k");
    assert_eq!(ask(app.clone(), "/run", Some("k")).await.body_text(), "attempt 1");
    // A request without a key is not guarded.
    assert_eq!(ask(app.clone(), "/whoever", None).await.body_text(), "-");
    is_not_set_up(&ask(app.clone(), "/who/7", None).await);
    is_not_set_up(&ask(app.clone(), "/run", None).await);
    is_not_set_up(&ask(app.clone(), "/write", Some("k")).await);
    for target in ["/who/7", "/whoever", "/run", "/write"] {
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

/// What a handler asks for, why it does not get it, and the fix that the log names.
#[tokio::test]
async fn a_forgotten_set_up_is_named() {
    async fn maybe_tx(tx: Option<Tx<Sqlite>>) -> String {
        format!("{}", tx.is_some())
    }
    async fn maybe_run(run: Option<Run>) -> String {
        format!("{}", run.is_some())
    }
    struct Other;
    impl Database for Other {
        type Handle = sqlite::Loaned;
    }
    async fn other(_: Tx<Other>) {}

    let directory = TempDir::new().unwrap();
    let store = sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    let routes = || {
        Router::new()
            .route("/key", any(who))
            .route("/run", any(run))
            .route("/tx", any(async |_: Tx<Sqlite>| ()))
            .route("/two", any(two))
            .route("/other", any(other))
            .route("/maybe-tx", any(maybe_tx))
            .route("/maybe-run", any(maybe_run))
    };
    let scope = || ScopeFrom::header("x-user-id");
    let leases = routes().layer(IdempotencyLayer::fenced(memory::Store::new(), scope()));
    let transactions =
        routes().layer(IdempotencyLayer::atomic(store, scope()).skip_if(|head| head.uri.query() == Some("dry")));
    let bare = routes();
    let rows = [
        // The layer, the extractor, whether there is a key, why there is nothing to extract, and the fix.
        (&bare, "POST /tx", true, Err((Unguarded::NoLayer, "`IdempotencyLayer::atomic`"))),
        (&bare, "POST /maybe-tx", true, Err((Unguarded::NoLayer, "`.layer(…)`"))),
        (&bare, "POST /run", true, Err((Unguarded::NoLayer, "`IdempotencyLayer::fenced`"))),
        (&leases, "POST /key", false, Err((Unguarded::NoKey, "`.require_key()`"))),
        (&leases, "POST /run", false, Err((Unguarded::NoKey, "`Option<Run>`"))),
        (&leases, "POST /maybe-run", false, Ok("false")),
        (&leases, "POST /maybe-run", true, Ok("true")),
        (&leases, "POST /tx", true, Err((Unguarded::OtherGuarantee, "`IdempotencyLayer::atomic`"))),
        (&leases, "POST /maybe-tx", true, Err((Unguarded::OtherGuarantee, "`IdempotencyLayer::atomic`"))),
        (&transactions, "POST /run", true, Err((Unguarded::OtherGuarantee, "`IdempotencyLayer::fenced`"))),
        (&transactions, "POST /tx", false, Err((Unguarded::NoKey, "`.require_key()`"))),
        (&transactions, "DELETE /tx", true, Err((Unguarded::Method(Method::DELETE), "`.with_methods([…])`"))),
        (&transactions, "GET /tx", true, Err((Unguarded::Method(Method::GET), "never guards GET"))),
        (&transactions, "GET /maybe-tx", true, Ok("false")),
        (&transactions, "POST /tx?dry", true, Err((Unguarded::Skipped, "`.skip_if(…)`"))),
        (&transactions, "POST /maybe-tx?dry", true, Ok("false")),
        (&transactions, "POST /maybe-tx", true, Ok("true")),
        (&transactions, "POST /two", true, Err((Unguarded::Taken, "ask for it once"))),
        (&transactions, "POST /other", true, Err((Unguarded::OtherDatabase, "of that database"))),
    ];
    for (at, (app, asked, keyed, expected)) in rows.into_iter().enumerate() {
        let (method, target) = asked.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(target).header("x-user-id", "alice");
        let request = if keyed { request.header("idempotency-key", format!("key-{at}")) } else { request };
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let not_guarded = response.extensions().get::<NotGuarded>().cloned();
        match expected {
            Ok(text) => {
                assert_eq!(not_guarded, None, "{asked}");
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), text, "{asked}");
            }
            Err((why, fix)) => {
                let not_guarded = not_guarded.unwrap_or_else(|| panic!("{asked}: it is guarded"));
                assert_eq!((not_guarded.why(), response.status().as_u16()), (&why, 500), "{asked}");
                assert!(not_guarded.to_string().contains(fix), "{asked}: {not_guarded}");
            }
        }
    }
}

/// A handler that was never called has had no effect, under any guarantee: the mistake does not cost the key.
#[tokio::test]
async fn a_forgotten_set_up_leaves_no_record() {
    for layer in [IdempotencyLayer::fenced, IdempotencyLayer::at_most_once] {
        let layer = layer(memory::Store::new(), ScopeFrom::header("x-user-id"));
        let reply = ask(routes().layer(layer.clone()), "/write", Some("k")).await;
        is_not_set_up(&reply);
        let mended = Router::new().route("/write", post(run)).layer(layer);
        let reply = ask(mended, "/write", Some("k")).await;
        assert_eq!((reply.status, reply.replayed()), (200, false));
    }
}

#[test]
#[should_panic(expected = "GET has no effect to guard")]
fn a_safe_method_cannot_be_guarded() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id"));
    let _ = layer.with_methods([Method::PUT, Method::GET]);
}

#[test]
#[should_panic(expected = "needs a method to guard")]
fn a_layer_guards_at_least_one_method() {
    let layer = IdempotencyLayer::fenced(memory::Store::new(), ScopeFrom::header("x-user-id"));
    let _ = layer.with_methods([]);
}
