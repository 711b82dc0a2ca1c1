//! The conformance suite on a single server, and on a Cluster.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::cmd;
use futures_util::future::BoxFuture;
use keylatch::conformance::Harness;
use keylatch::redis::{self, Options};
use keylatch::store::Store;
use keylatch::{Clock, RecordId, Timestamp};
use testing_support::redis::{Cluster, Config, Server};

use crate::replicas::Pair;

/// Where all cases of one kind keep their records, each with its own prefix.
#[derive(Clone, Copy)]
enum At {
    Server,
    Cluster,
    /// A primary whose every write waits for its replica.
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
    prefix: String,
    options: Options,
    clock: Clock,
    store: redis::Store,
}

impl Redis {
    async fn new(at: At) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // In the year 2100. A server's own clock never gets there, so it removes nothing by itself, and the machine
        // decides by this clock alone. What the server removes is tested in `expiry`.
        let clock = Clock::manual(Timestamp::from_millis(4_102_444_800_000));
        let prefix = format!("case-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = Options::default().with_prefix(&prefix).with_clock(clock.clone()).with_counts();
        Self { at, prefix, store: at.connect(&options).await, options, clock }
    }

    /// The key of a record in the stored format. The records are in 64 buckets. The tag of a bucket is the lowest
    /// number whose slot is in the bucket's share of all slots.
    fn key_of(&self, id: RecordId) -> Vec<u8> {
        const BUCKETS: u16 = 64;
        let bucket = u16::from(id.as_bytes()[16]) % BUCKETS;
        let is_its = |tag: &u32| slot_of(&tag.to_string()) / (16_384 / BUCKETS) == bucket;
        let tag = (0_u32..).find(is_its).expect("every slot has a number");
        [format!("{}:{{{tag}}}:", self.prefix).as_bytes(), id.as_bytes()].concat()
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
        Box::pin(async move {
            let (from, to) = (self.key_of(from), self.key_of(to));
            let url = match self.at {
                At::Server => SERVER.url(),
                At::Replicated => REPLICATED.primary.url(),
                At::Cluster => {
                    let client = ::redis::cluster::ClusterClient::new(CLUSTER.urls()).expect("the addresses are valid");
                    let mut cluster = client.get_async_connection().await.expect("the Cluster can be reached");
                    return copy(&mut cluster, &from, &to).await;
                }
            };
            let client = ::redis::Client::open(url).expect("the address is valid");
            let mut server = client.get_multiplexed_async_connection().await.expect("the server can be reached");
            copy(&mut server, &from, &to).await;
        })
    }
}

/// Copies a record with its time to live.
async fn copy(server: &mut impl ConnectionLike, from: &[u8], to: &[u8]) {
    let record: Option<Vec<u8>> = cmd("GET").arg(from).query_async(server).await.expect("the server answers");
    let end: i64 = cmd("PEXPIRETIME").arg(from).query_async(server).await.expect("the server answers");
    let record = record.expect("there is a record to misplace");
    let set = cmd("SET").arg(to).arg(record).arg("PXAT").arg(end).query_async::<()>(server).await;
    set.expect("the server answers");
}

/// The slot of a tag: CRC-16/XMODEM, as in the Redis Cluster specification.
fn slot_of(tag: &str) -> u16 {
    let crc = tag.bytes().fold(0_u16, |crc, byte| {
        let shift = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        (0..8).fold(crc ^ u16::from(byte) << 8, shift)
    });
    crc % 16_384
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
