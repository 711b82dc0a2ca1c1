//! Behind PgBouncer in transaction mode: no session state lasts from one transaction to the next.
//!
//! The whole conformance suite runs behind it too: see `conformance_postgres.rs`.

use futures_util::future::join_all;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::sqlx;
use keylatch::postgres::{OpenError, Options, Store};
use keylatch::store::{Applied, State, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Scope};
use testing_support::postgres::bouncer::Bouncer;

use crate::support::{Service, cluster, database, items, records};

/// Fewer than the clients, which share them, transaction by transaction.
const SERVER_CONNECTIONS: u32 = 4;

async fn bouncer() -> Bouncer {
    tokio::task::spawn_blocking(|| Bouncer::start(cluster(), SERVER_CONNECTIONS)).await.unwrap()
}

async fn store(bouncer: &Bouncer, database: &str) -> Store {
    let options = Options::default().with_transaction_pooling().with_connections_max(16);
    Store::connect_with(&bouncer.url(database), options).await.expect("the store opens")
}

/// More transactions at once than connections to the server; the duplicates alternate between two nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn atomic_works() {
    let (database, bouncer) = (database().await, bouncer().await);
    let nodes = [
        Service::start(store(&bouncer, &database).await).await,
        Service::start(store(&bouncer, &database).await).await,
    ];
    for how in ["created", "careful", "refused"] {
        let send = |wait| {
            let keys = (0..160).map(|at| (at % 2, format!("{how}-{}", at % 32)));
            join_all(keys.map(|(node, key)| {
                let node = &nodes[node];
                async move { (key.clone(), node.post(how, &key, wait).await) }
            }))
        };
        let answers = send(20).await;
        let status = if how == "refused" { 422 } else { 201 };
        for (key, answer) in &answers {
            assert_eq!((answer.status, answer.body.as_str()), (status, format!("{how} {key}").as_str()));
        }
        assert_eq!(answers.iter().filter(|(_, answer)| !answer.replayed).count(), 32);
        assert!(send(0).await.iter().all(|(_, answer)| answer.replayed));
    }
    let direct = crate::support::store(&database).await;
    assert_eq!(items(&direct).await.len(), 32 + 2 * 32);
    assert_eq!(records(&direct).await, 3 * 32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_work() {
    let (database, bouncer) = (database().await, bouncer().await);
    let nodes = [store(&bouncer, &database).await, store(&bouncer, &database).await];
    let claim = |key: usize| {
        let (scope, key) = (Scope::new("user").unwrap(), Key::new(&key.to_string()).unwrap());
        Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
    };
    let claimed = join_all((0..400).map(|at| nodes[at % 2].claim(claim(at % 50)))).await;
    let won: Vec<_> = claimed
        .into_iter()
        .filter_map(|claimed| match claimed.unwrap().value {
            Claimed::Won(record) => Some(record),
            Claimed::Held(_) => None,
        })
        .collect();
    assert_eq!(won.len(), 50, "each key is won once");
    let step = || Some(("step".to_owned(), "result".into()));
    for applied in join_all(won.iter().map(|record| nodes[0].renew(record.lease(), claim(0).terms, step()))).await {
        assert!(matches!(applied.unwrap(), Applied::Applied(_)));
    }
    let completion = || Completion::new(Outcome::bytes("done"), &Policy::default());
    for applied in join_all(won.iter().map(|record| nodes[1].complete(record.lease(), completion()))).await {
        assert!(matches!(applied.unwrap(), Applied::Applied(_)));
    }
    for record in &won {
        let State::Completed { outcome, .. } = nodes[0].read(record.id()).await.unwrap().value.unwrap().state else {
            panic!("it is completed")
        };
        assert_eq!(outcome, Some(Outcome::bytes("done").into()));
    }
}

/// The store's settings for a transaction end with it, and do not affect the next user of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_a_connection() {
    let (database, bouncer) = (database().await, bouncer().await);
    let store = store(&bouncer, &database).await;
    let service = Service::start(store.clone()).await;
    let keys: Vec<_> = (0..40).map(|at| format!("key-{at}")).collect();
    assert!(join_all(keys.iter().map(|key| service.post("created", key, 0))).await.iter().all(|it| it.status == 201));
    // All of PgBouncer's connections, each used while the others are in use.
    let mut transactions = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        transactions.push(store.pool().begin().await.unwrap());
    }
    for tx in &mut transactions {
        let settings = "SELECT name || '=' || setting FROM pg_settings WHERE source = 'session' AND name NOT IN \
                        ('client_encoding', 'DateStyle', 'TimeZone', 'application_name')";
        let set: Vec<String> = sqlx::query_scalar(settings).persistent(false).fetch_all(&mut **tx).await.unwrap();
        assert_eq!(set, [""; 0]);
        let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
                    UNION ALL SELECT length(coalesce(current_setting('keylatch_tx.owner', true), ''))";
        let left: Vec<i64> = sqlx::query_scalar(left).persistent(false).fetch_all(&mut **tx).await.unwrap();
        assert_eq!(left, [0, 0]);
    }
}

/// Without the option, the store refuses to open: either PgBouncer refuses, or, if PgBouncer is told to let it pass,
/// the store recognises it.
#[tokio::test]
async fn a_store_that_does_not_know_says_what_to_set() {
    let database = database().await;
    for more in ["", "ignore_startup_parameters = extra_float_digits"] {
        let start = move || Bouncer::start_with(cluster(), SERVER_CONNECTIONS, more);
        let bouncer = tokio::task::spawn_blocking(start).await.unwrap();
        let error = Store::connect(&bouncer.url(&database)).await.expect_err("it is a pooler");
        assert!(matches!(error, OpenError::Pooler(_)), "{error}");
        assert!(error.to_string().contains("with_transaction_pooling"), "{error}");
    }
    // In session mode the option is not needed.
    let session =
        || Bouncer::start_with(cluster(), 20, "pool_mode = session\nignore_startup_parameters = extra_float_digits");
    let bouncer = tokio::task::spawn_blocking(session).await.unwrap();
    let service = Service::start(Store::connect(&bouncer.url(&database)).await.unwrap()).await;
    assert_eq!(service.post("created", "session", 0).await.status, 201);
}
