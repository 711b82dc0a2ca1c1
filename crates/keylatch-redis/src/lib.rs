//! The store in Redis or Valkey: the lowest latency, and a weaker promise.
//!
//! **What it cannot promise.** Redis acknowledges a write before a replica has it. When a primary dies and a replica
//! takes its place, the latest acknowledged claims and outcomes can be gone, and their requests run again. The
//! [manual](https://docs.rs/keylatch/latest/keylatch/manual/redis/) has measurements of that, and says for which uses
//! Redis is not suitable. The store does not offer `Atomic`, because a handler's writes are elsewhere.
//!
//! Records are spread over 64 buckets, each in one slot of a Cluster:
//!
//! ```text
//! keylatch:{tag}:<identity>   one record; its key has a time to live, and Redis removes it by itself
//! keylatch:{tag}:running      set of the identities that run: what is under way, and what was abandoned
//! keylatch:{tag}:due          sorted set by the end of retention: only long answers, to take them out in time
//! keylatch:{tag}:s:<scope>    sorted set of a scope's records by their end; only where records are counted
//! ```
//!
//! In a Cluster the last three are in the record's bucket. On any other server they are in the first bucket, so that
//! one command can write them for many calls at once. Nothing is decided by them.
//!
//! A claim of a new key is one native command, `SET … NX GET PX`: it writes the record, or returns the existing one.
//! Every other write is a script that compares the record's header and writes the machine's result. The store remembers
//! what it has written for current runs, so that completions and renewals need no read first.

mod batch;
mod cache;
mod cluster;
mod error;
mod keys;
mod link;
mod marks;
mod ops;
mod options;
mod pages;
mod reply;
mod script;
mod server;
mod socket;
mod tls;
mod value;
mod written;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::Mutex;

use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, IntoConnectionInfo as _, RedisResult, TlsCertificates};

pub use cache::Cache;
pub use error::ConnectError;
#[cfg(feature = "conformance")]
use keylatch_core::Clock;
use keylatch_core::Timestamp;
use keylatch_core::store::Durability;
use keys::{BUCKETS, Keys};
use link::{Link, Source};
pub use options::{CHECK_EVERY, COMPRESS_FROM_BYTES, CONNECT_TIMEOUT, Options, PREFIX, RESPONSE_TIMEOUT};
use tls::Tls;
use written::Runs;

/// A store in Redis or Valkey. A clone is the same store, on the same connection.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    link: Link,
    keys: Keys,
    durability: Durability,
    compress_from_bytes: Option<usize>,
    counts_records: bool,
    /// Whether the log has said that nothing is counted.
    said_that_nothing_counts: AtomicBool,
    /// The current runs whose records this process has written.
    written: Runs,
    /// The latest time of each bucket's server, and when it was requested.
    clocks: [Mutex<Option<(Timestamp, Instant)>>; BUCKETS],
    /// Where the next sweep continues among running records.
    tidied: [AtomicU64; BUCKETS],
    /// Where the next sweep begins, so that a small limit reaches every bucket in turn.
    sweep_from: AtomicUsize,
    #[cfg(feature = "conformance")]
    clock: Option<Clock>,
}

impl Store {
    /// Connects to the server at `url`: `redis://[user:password@]host:port[/database]`, or `rediss://` for TLS.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url, Options::default()).await
    }

    /// Connects to the server at `url` with these options.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, ConnectError> {
        let link = Self::link(url, &options)?;
        let synced = link.syncs_each_write().await?;
        Ok(Self::new(link, if synced { Durability::Disk } else { Durability::Replica }, &options))
    }

    /// Connects to the primary that the Sentinels at `urls` know by the name `service`, and follows a failover.
    ///
    /// User, password and database of the first address are for the primary. The Sentinels get none. With `rediss://`
    /// addresses the store uses TLS to the Sentinels and to the primary, whose certificate must have the name or the
    /// address by which the Sentinels know it.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_sentinel(urls: &[&str], service: &str, options: Options) -> Result<Self, ConnectError> {
        options.check()?;
        let tls = Tls::new(urls, &options).map_err(ConnectError::Address)?;
        let client = sentinels(urls, service, tls.certificates.as_ref()).map_err(ConnectError::Address)?;
        let link = Link::new(Source::Sentinels(Box::new(client), tls), &options);
        link.connect().await?;
        // A failover can lose what one server has on its disk.
        Ok(Self::new(link, Durability::Replica, &options))
    }

    /// Connects to the Cluster that the nodes at `urls` belong to. With `rediss://` addresses each node's certificate
    /// must have the name or the address that the nodes announce.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_cluster(urls: &[&str], options: Options) -> Result<Self, ConnectError> {
        // An even number: while a slot moves, the client tries its node and the next one in turn, and the last reply
        // must come from the first node, which says where the key is.
        const RETRIES: u32 = 2;
        const RETRY_WAIT_MS_MAX: u64 = 200;
        options.check()?;
        let mut builder = ClusterClientBuilder::new(urls.iter().copied())
            .connection_timeout(options.connect_timeout)
            .response_timeout(link::reply_max(&options))
            .overall_response_timeout(Some(link::reply_max(&options)))
            .retries(RETRIES)
            .max_retry_wait(RETRY_WAIT_MS_MAX);
        if let Some(certificates) = Tls::new(urls, &options).map_err(ConnectError::Address)?.certificates {
            builder = builder.certs(certificates);
        }
        let client = Box::new(builder.build().map_err(ConnectError::Address)?);
        let link = Link::new(Source::Cluster(client), &options);
        link.connect().await?;
        Ok(Self::new(link, Durability::Replica, &options))
    }

    /// The store for the server at `url`, not connected yet.
    fn link(url: &str, options: &Options) -> Result<Link, ConnectError> {
        options.check()?;
        let tls = Tls::new(&[url], options).map_err(ConnectError::Address)?;
        let client = Box::new(Client::open(url).map_err(ConnectError::Address)?);
        Ok(Link::new(Source::Address(client, tls), options))
    }

    fn new(link: Link, durability: Durability, options: &Options) -> Self {
        Self(Arc::new(Inner {
            link,
            keys: Keys::new(&options.prefix),
            durability,
            compress_from_bytes: options.compress_from_bytes,
            counts_records: options.counts_records,
            said_that_nothing_counts: AtomicBool::new(false),
            written: Runs::default(),
            clocks: std::array::from_fn(|_| Mutex::default()),
            tidied: std::array::from_fn(|_| AtomicU64::default()),
            sweep_from: AtomicUsize::new(0),
            #[cfg(feature = "conformance")]
            clock: options.clock.clone(),
        }))
    }
}

fn sentinels(urls: &[&str], service: &str, certificates: Option<&TlsCertificates>) -> RedisResult<SentinelClient> {
    let infos = urls.iter().map(|url| url.into_connection_info()).collect::<Result<Vec<_>, _>>()?;
    let addresses = infos.iter().map(|info| info.addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?;
    if let Some(first) = infos.first() {
        let login = first.redis_settings();
        builder = builder.set_client_to_redis_db(login.db());
        if let Some(user) = login.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if matches!(first.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
        }
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates.clone());
    }
    builder.build()
}

/// Does not show the address, which may contain a password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis::Store({:?})", self.0.keys)
    }
}
