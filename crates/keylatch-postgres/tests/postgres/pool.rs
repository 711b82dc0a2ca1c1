//! The pool: who gets its connections, and the error if there are none.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::postgres::sqlx::postgres::PgPoolOptions;
use keylatch::postgres::{Options, Store};
use keylatch::store::{ErrorKind, Store as _};
use keylatch::{Key, RecordId, Scope};
use testing_support::postgres::free_port;
use testing_support::postgres::proxy::Proxy;

use crate::support::{Service, cluster, database, store_with};

fn id() -> RecordId {
    RecordId::of(&Scope::new("user").unwrap(), &Key::new("key").unwrap())
}

/// Handlers that hold a `Tx` each ask the pool for another connection, and each gets one in turn: handlers'
/// transactions never take the last connection of the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_leave_a_connection_for_those_who_want_one_more() {
    let options = Options::default().with_connections_max(3).with_connect_max(Duration::from_secs(60));
    let service = Service::start(store_with(&database().await, options).await).await;
    let keys: Vec<_> = (0..40).map(|at| format!("key-{at}")).collect();
    let answers = join_all(keys.iter().map(|key| service.post("greedy", key, 0))).await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
}

/// If handlers hold all connections and a request waits for one in vain, the error says so, and what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_handlers_hold_says_so() {
    let options = Options::default().with_connections_max(1).with_connect_max(Duration::from_millis(200));
    let service = Service::start(store_with(&database().await, options).await).await;
    let running = service.post("gated", "a", 0);
    let beside = async {
        service.gate.reached.notified().await;
        let error = service.store.read(id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let said = error.to_string();
        assert!(said.contains("handlers hold 1 by their `Tx`") && said.contains("with_connections_max"), "{said}");
        service.gate.open.add_permits(1);
    };
    let (running, ()) = tokio::join!(running, beside);
    assert_eq!(running.status, 201);
}

/// The error names a port on which nobody listens, both when a store is opened and later.
#[tokio::test]
async fn a_closed_port_is_told_from_a_busy_pool() {
    let options = || Options::default().with_connect_max(Duration::from_millis(500));
    let nobody = format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", free_port());
    let error = Store::connect_with(&nobody, options()).await.expect_err("nobody listens");
    assert!(error.to_string().contains("refused"), "{error}");

    let database = database().await;
    let proxy = Proxy::start(cluster().port()).await;
    let ours = Store::connect_with(&proxy.url(&database), options()).await.unwrap();
    // A pool that the user has made, with its own time limit.
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300));
    let theirs = Store::with_pool(pool.connect(&proxy.url(&database)).await.unwrap(), options()).await.unwrap();
    drop(proxy);
    for store in [ours, theirs] {
        let error = store.read(id()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("refused"), "{error}");
    }
}
