//! A process is stopped, or its machine is gone, in the middle of a transaction: its connection stays open and silent.
//! The server ends the transaction in time, however the store has begun it.

use std::time::Duration;

use keylatch::machine::{Claim, Claimed};
use keylatch::postgres::sqlx::{self, AssertSqlSafe};
use keylatch::postgres::{Options, Store};
use keylatch::store::{Owner, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Policy, Scope};
use testing_support::eventually;
use testing_support::postgres::bouncer::Bouncer;
use testing_support::postgres::proxy::{Break, Proxy};

use crate::support::{Answer, Service, cluster, database, store};

/// After this time the server ends a silent transaction.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Much longer than that, even on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

/// How a store begins its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Explicitly only for handlers; every other statement is its own transaction.
    Plain,
    /// Explicitly for each statement, because the default is not READ COMMITTED.
    OtherIsolation,
    /// Explicitly for each statement, behind PgBouncer.
    Pooled,
}

/// A peer that can be frozen, and a database for it and another process.
struct Peer {
    database: String,
    proxy: Proxy,
    store: Store,
    _bouncer: Option<Bouncer>,
}

async fn peer(mode: Mode) -> Peer {
    let database = database().await;
    let options = Options::default().with_statement_max(SILENCE_MAX).with_handler_pause_max(Some(SILENCE_MAX));
    let (proxy, options, bouncer) = match mode {
        Mode::Plain | Mode::OtherIsolation => (Proxy::start(cluster().port()).await, options, None),
        Mode::Pooled => {
            let bouncer = tokio::task::spawn_blocking(|| Bouncer::start(cluster(), 4)).await.unwrap();
            (Proxy::start(bouncer.port()).await, options.with_transaction_pooling(), Some(bouncer))
        }
    };
    // Another process has made it, and the peer only uses it.
    drop(store(&database).await);
    if mode == Mode::OtherIsolation {
        let set = format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'");
        let made = database.clone();
        tokio::task::spawn_blocking(move || cluster().sql(&made, &set)).await.unwrap();
    }
    let store = Store::connect_with(&proxy.url(&database), options).await.expect("the store opens");
    Peer { database, proxy, store, _bouncer: bouncer }
}

fn claim() -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new("key").unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
}

/// The peer stops between its claim and the commit: the row is locked, and nobody can see it.
#[tokio::test]
async fn a_claim_of_a_frozen_peer_does_not_hold_the_key() {
    for mode in [Mode::OtherIsolation, Mode::Pooled] {
        let peer = peer(mode).await;
        peer.proxy.cut("COMMIT", Break::Freeze);
        peer.store.claim(claim()).await.expect_err("its commit is never sent");
        assert_eq!(peer.proxy.cuts_made(), 1, "{mode:?}");
        let other = store(&peer.database).await;
        let owner = Owner::random();
        eventually(LONG, "the key to be free", async || {
            let claimed = other.claim(Claim { owner, ..claim() }).await;
            matches!(claimed, Ok(claimed) if matches!(claimed.value, Claimed::Won(_)))
        })
        .await;
    }
}

/// The peer stops before it commits its handler's writes: they are rolled back, and the request runs elsewhere.
#[tokio::test]
async fn a_handler_of_a_frozen_peer_does_not_hold_the_key() {
    for mode in [Mode::Plain, Mode::OtherIsolation, Mode::Pooled] {
        let peer = peer(mode).await;
        let frozen = Service::start(peer.store.clone()).await;
        let other = Service::start(store(&peer.database).await).await;
        other.gate.open.add_permits(1);
        let running = frozen.post("gated", "key", 0);
        let retry = async {
            frozen.gate.reached.notified().await;
            peer.proxy.cut("COMMIT", Break::Freeze);
            frozen.gate.open.add_permits(1);
            eventually(LONG, "the peer to freeze", async || peer.proxy.cuts_made() == 1).await;
            other.post("gated", "key", 30).await
        };
        let (running, retry) = tokio::join!(running, retry);
        assert_eq!((retry.status, retry.body.as_str()), (201, "gated key"), "{mode:?}");
        assert_eq!(other.items().await, ["key"]);
        // The client is told to try again, or gets the answer that exists by then.
        assert!(running.status == 503 || running == Answer { replayed: true, ..retry }, "{mode:?}: {running:?}");
    }
}

/// The peer stops during its look, before it knows whether the key is free: it has taken nothing.
#[tokio::test]
async fn a_look_of_a_frozen_peer_takes_nothing() {
    for mode in [Mode::OtherIsolation, Mode::Pooled] {
        let peer = peer(mode).await;
        let frozen = Service::start(peer.store.clone()).await;
        peer.proxy.cut("COMMIT", Break::Freeze);
        let looking = frozen.post("created", "key", 0);
        let other = Service::start(store(&peer.database).await).await;
        let beside = async {
            eventually(LONG, "the peer to freeze", async || peer.proxy.cuts_made() == 1).await;
            other.post("created", "key", 0).await
        };
        let (_, beside) = tokio::join!(looking, beside);
        assert_eq!(beside.status, 201, "{mode:?}: {beside:?}");
    }
}

/// The peer stops while it migrates, and holds the lock for that.
#[tokio::test]
async fn a_migration_of_a_frozen_peer_is_taken_over() {
    let database = database().await;
    let proxy = Proxy::start(cluster().port()).await;
    proxy.cut("CREATE TABLE keylatch.record", Break::Freeze);
    let options = Options::default().with_statement_max(SILENCE_MAX);
    let frozen = tokio::spawn({
        let url = proxy.url(&database);
        async move { Store::connect_with(&url, options).await }
    });
    eventually(LONG, "the peer to freeze", async || proxy.cuts_made() == 1).await;
    let service = Service::start(store(&database).await).await;
    assert_eq!(service.post("created", "key", 0).await.status, 201);
    assert!(frozen.await.unwrap().is_err());
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND state LIKE 'idle in transaction%'";
    let idle: i64 =
        sqlx::query_scalar(AssertSqlSafe(idle)).bind(database).fetch_one(service.store.pool()).await.unwrap();
    assert_eq!(idle, 0);
}
