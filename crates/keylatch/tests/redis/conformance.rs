//! The conformance suite on a single server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::conformance::Harness;
use keylatch::redis::{self, Options};
use keylatch::store::Store;
use keylatch::{Clock, RecordId, Timestamp};
use testing_support::redis::{Config, Server};

/// One for all cases, each with a prefix of its own.
static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(Config::new()));

struct Redis {
    options: Options,
    clock: Clock,
    store: redis::Store,
}

impl Redis {
    async fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let prefix = format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options::default().with_prefix(&prefix).with_clock(clock.clone());
        Self { store: connect(&options).await, options, clock }
    }
}

async fn connect(options: &Options) -> redis::Store {
    redis::Store::connect_with(&SERVER.url(), options.clone()).await.expect("the server can be reached")
}

impl Harness for Redis {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(connect(&self.options).await) as Arc<dyn Store> })
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

keylatch::conformance!(Redis::new().await);
