//! A failover while the store is in use. The address leads to the current primary, as with a proxy or DNS.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion, End};
use keylatch::postgres::{OpenError, Options, Store};
use keylatch::store::{Applied, Error, ErrorKind, Inspect as _, PageRequest, State, Store as _, Sweep as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use testing_support::eventually;
use testing_support::postgres::Cluster;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::{Service, fresh, items};

/// Directs the primary's address: new connections go to the server that was named last, and open connections stay where
/// they are.
struct Address {
    port: u16,
    leads_to: Arc<AtomicU16>,
    _relay: AbortOnDrop,
}

impl Address {
    async fn of(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let leads_to = Arc::new(AtomicU16::new(cluster.port()));
        let target = leads_to.clone();
        let relay = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let target = target.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    // If either side ends it, both sockets close.
                    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        Self { port, leads_to, _relay: AbortOnDrop(relay) }
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    fn lead_to(&self, cluster: &Cluster) {
        self.leads_to.store(cluster.port(), Ordering::SeqCst);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn claim(key: &str) -> Claim {
    let (scope, key) = (Scope::new("user").unwrap(), Key::new(key).unwrap());
    Claim::new(scope, key, Fingerprint::of([b"request".as_slice()]), Guarantee::Fenced, &Policy::default())
}

async fn won(store: &Store, key: &str) -> Record {
    match store.claim(claim(key)).await.unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("it is free: {record:?}"),
    }
}

/// Every call of the store is refused with the right error, and can be repeated elsewhere.
async fn refuses(store: &Store, held: &Record) {
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let page = PageRequest { scope: None, after: None, limit: 10 };
    let errors: Vec<Error> = vec![
        store.claim(claim(&fresh("new"))).await.map(drop).unwrap_err(),
        // Even if there is nothing to write.
        store.claim(claim(held.key.as_str())).await.map(drop).unwrap_err(),
        store.complete(held.lease(), completion).await.map(drop).unwrap_err(),
        store.renew(held.lease(), claim("any").terms, None).await.map(drop).unwrap_err(),
        store.release(held.lease(), End::Free(Duration::ZERO)).await.map(drop).unwrap_err(),
        store.sweep(10).await.map(drop).unwrap_err(),
        store.read(held.id()).await.map(drop).unwrap_err(),
        store.list(page).await.map(drop).unwrap_err(),
        store.lapsed(None, 10).await.map(drop).unwrap_err(),
        store.count(held.scope.clone(), 10).await.map(drop).unwrap_err(),
    ];
    for (at, error) in errors.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{at}: {error}");
        assert!(error.to_string().contains("standby"), "{at}: {error}");
    }
}

/// A switch to the standby and back. The former primary returns as a standby while the address still leads to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_goes_where_the_primary_goes() {
    let (old, new) = tokio::task::spawn_blocking(|| {
        let old = Cluster::start("");
        old.sql("postgres", "CREATE TABLE item (name text NOT NULL UNIQUE)");
        let new = Cluster::standby_of(&old, "");
        (old, new)
    })
    .await
    .unwrap();
    let address = Address::of(&old).await;
    let store = Store::connect_with(&address.url(), Options::default().with_connections_max(4)).await.unwrap();
    let service = Service::start(store.clone()).await;
    assert_eq!(service.post("created", "before", 0).await.status, 201);
    let held = won(&store, "held").await;
    let lost = won(&store, "lost").await;

    // The old primary is stopped in order, so the standby has everything; it returns as a standby of the new primary.
    let (old, new) = tokio::task::spawn_blocking(move || {
        old.stop();
        new.promote();
        old.follow(&new);
        (old, new)
    })
    .await
    .unwrap();
    let refused = Store::connect(&old.url("postgres")).await.unwrap_err();
    assert!(matches!(refused, OpenError::Standby), "{refused}");
    refuses(&store, &held).await;
    for key in ["before", "during"] {
        assert_eq!(service.post("created", key, 0).await.code(), "IDEMPOTENCY_STORE_UNAVAILABLE");
    }

    // Connections that still lead to the standby are dropped, and no caller notices.
    let mut left = Vec::new();
    for _ in 0..4 {
        left.push(store.pool().acquire().await.unwrap());
    }
    drop(left);
    address.lead_to(&new);
    assert!(service.post("created", "before", 0).await.replayed);
    assert_eq!(service.post("created", "during", 0).await.status, 201);
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    assert!(matches!(store.complete(held.lease(), completion).await.unwrap(), Applied::Applied(_)));

    // And back, while connections to the standby are still open when it is promoted.
    let caught_up = "SELECT count(*) FROM item";
    eventually(Duration::from_secs(30), "the standby to catch up", async || old.sql("postgres", caught_up) == "2")
        .await;
    address.lead_to(&old);
    let new = tokio::task::spawn_blocking(move || {
        new.stop();
        new
    })
    .await
    .unwrap();
    refuses(&store, &held).await;
    let open = store.pool().acquire().await.unwrap();
    let old = tokio::task::spawn_blocking(move || {
        old.promote();
        drop(new);
        old
    })
    .await
    .unwrap();
    drop(open);
    assert!(service.post("created", "during", 0).await.replayed);
    assert_eq!(service.post("created", "after", 0).await.status, 201);
    assert_eq!(items(&store).await, ["after", "before", "during"]);
    let State::Completed { outcome, .. } = store.read(held.id()).await.unwrap().value.unwrap().state else {
        panic!("it is completed")
    };
    assert_eq!(outcome, Some(Outcome::bytes("done").into()));
    assert!(matches!(store.release(lost.lease(), End::Free(Duration::ZERO)).await.unwrap(), Applied::Applied(_)));
    assert_eq!(old.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"), "0");
}
