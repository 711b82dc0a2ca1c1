//! The conformance suite on a single server, and on a Cluster.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::conformance::Harness;
use keylatch::redis::{self, Options};
use keylatch::store::Store;
use keylatch::{Clock, RecordId, Timestamp};
use testing_support::redis::{Cluster, Config, Server};

use crate::replicas::Pair;

/// Where all cases of one kind keep their records, each under a prefix of its own.
#[derive(Clone, Copy)]
enum At {
    Server,
    Cluster,
    /// A primary, each of whose writes waits for its replica.
    Replicated,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(Config::new()));
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
static REPLICATED: LazyLock<Pair> = LazyLock::new(Pair::start);

impl At {
    async fn connect(self, options: &Options) -> redis::Store {
        let connected = match self {
            Self::Server => redis::Store::connect_with(&SERVER.url(), options.clone()).await,
            Self::Replicated => {
                const WAIT: Duration = Duration::from_secs(10);
                let options = options.clone().with_min_replicas(1, WAIT);
                redis::Store::connect_with(&REPLICATED.primary.url(), options).await
            }
            Self::Cluster => {
                let urls = CLUSTER.urls();
                let urls: Vec<_> = urls.iter().map(String::as_str).collect();
                redis::Store::connect_cluster(&urls, options.clone()).await
            }
        };
        connected.expect("the server can be reached")
    }
}

struct Redis {
    at: At,
    options: Options,
    clock: Clock,
    store: redis::Store,
}

impl Redis {
    async fn new(at: At) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // In the year 2100: a server's own clock never comes there, so that it removes nothing by itself, and the machine
        // decides by this clock alone. What the server removes is tested in `expiry`.
        let clock = Clock::manual(Timestamp::from_millis(4_102_444_800_000));
        let prefix = format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options::default().with_prefix(&prefix).with_clock(clock.clone()).with_counts();
        Self { at, store: at.connect(&options).await, options, clock }
    }
}

impl Harness for Redis {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.at.connect(&self.options).await) as Arc<dyn Store> })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        self.connect()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(self.store.misplace(from, to))
    }
}

mod server {
    use super::{At, Redis};

    keylatch::conformance!(Redis::new(At::Server).await);
}

mod cluster {
    use super::{At, Redis};

    keylatch::conformance!(Redis::new(At::Cluster).await);
}

mod replicated {
    use super::{At, Redis};

    keylatch::conformance!(Redis::new(At::Replicated).await);
}
