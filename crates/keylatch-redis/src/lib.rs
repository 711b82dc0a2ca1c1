//! The store in Redis or Valkey: the lowest latency, and a weaker promise.
//!
//! **What it cannot promise.** Redis acknowledges a write before a replica has it. When a primary dies and a replica
//! takes its place, the latest acknowledged claims and outcomes can be gone, and their requests run again. The
//! [manual](https://docs.rs/keylatch/latest/keylatch/manual/redis/) says how often that was measured, and which uses that rules out. `Atomic` is not
//! offered: what a handler writes is elsewhere.
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
//! The three below are those of the record's bucket on a Cluster, and of the first one on any other server, where one
//! command writes them for many calls at once. Nothing is decided by them.
//!
//! A claim of a new key is one native command, `SET … NX GET PX`: it writes the record, or hands back the one that is there.
//! Every other write is a script that compares the record's header and writes what the machine made of it. The store
//! remembers what it has written for the runs under way, so that completions and renewals need no look first.

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
mod script;
mod server;
mod tls;
mod value;
mod written;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Instant;

use parking_lot::Mutex;

use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, IntoConnectionInfo as _};

pub use cache::Cache;
pub use error::ConnectError;
#[cfg(feature = "conformance")]
use keylatch_core::Clock;
use keylatch_core::Timestamp;
use keylatch_core::store::Durability;
use keys::{BUCKETS, Keys};
use link::{Link, Source};
pub use options::{CHECK_EVERY, COMPRESS_FROM_BYTES, CONNECT_TIMEOUT, Options, PREFIX, RESPONSE_TIMEOUT};
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
    /// Whether it was said that nothing is counted.
    said_that_nothing_counts: AtomicBool,
    /// The runs under way that this process has written.
    written: Runs,
    /// What the clock of each bucket's server showed at last, and when it was asked.
    clocks: [Mutex<Option<(Timestamp, Instant)>>; BUCKETS],
    /// Where the next sweep goes on among what runs.
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
    /// addresses the Sentinels are asked by TLS, and so is the primary: its certificate must have the name or the address by
    /// which the Sentinels know it.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_sentinel(urls: &[&str], service: &str, options: Options) -> Result<Self, ConnectError> {
        options.check()?;
        let client = sentinels(urls, service, &options).map_err(ConnectError::Address)?;
        let link = Link::new(Source::Sentinels(Box::new(client)), &options);
        link.connect().await?;
        // A failover can lose what one server has on its disk.
        Ok(Self::new(link, Durability::Replica, &options))
    }

    /// Connects to the Cluster that the nodes at `urls` belong to. With `rediss://` addresses each node's certificate must
    /// have the name or the address that the nodes tell of it.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect_cluster(urls: &[&str], options: Options) -> Result<Self, ConnectError> {
        // An even number: while a slot moves, the client goes to its node and to the next by turns, and the last word must be
        // that of the first, which says where the key is to be asked for.
        const RETRIES: u32 = 2;
        const RETRY_WAIT_MS_MAX: u64 = 200;
        options.check()?;
        let mut builder = ClusterClientBuilder::new(urls.iter().copied())
            .connection_timeout(options.connect_timeout)
            .response_timeout(link::reply_max(&options))
            .overall_response_timeout(Some(link::reply_max(&options)))
            .retries(RETRIES)
            .max_retry_wait(RETRY_WAIT_MS_MAX);
        if let Some(certificates) = tls::certificates(urls, &options).map_err(ConnectError::Address)? {
            builder = builder.certs(certificates);
        }
        let client = Box::new(builder.build().map_err(ConnectError::Address)?);
        let link = Link::new(Source::Cluster(client), &options);
        link.connect().await?;
        Ok(Self::new(link, Durability::Replica, &options))
    }

    /// Puts a copy of what is stored for `from` under the identity `to`, in place of what is there, as a damaged store
    /// would; for the conformance suite.
    ///
    /// # Panics
    ///
    /// If there is no record `from`, or the server does not answer.
    #[cfg(feature = "conformance")]
    pub async fn misplace(&self, from: keylatch_core::RecordId, to: keylatch_core::RecordId) {
        use redis::{FromRedisValue, cmd};
        let Inner { link, keys, .. } = &*self.0;
        let (from, key) = (keys.record(from), keys.record(to));
        let record = link.ask(cmd("GET").arg(&from)).await.expect("the server answers");
        let record = Vec::<u8>::from_redis_value(record).expect("there is a record to misplace");
        let end = link.ask(cmd("PEXPIRETIME").arg(&from)).await.expect("the server answers");
        let end = i64::from_redis_value(end).expect("its key has an end");
        link.ask(cmd("SET").arg(key).arg(record).arg("PXAT").arg(end)).await.expect("the server answers");
    }

    /// The way to the server at `url`, which is not connected yet.
    fn link(url: &str, options: &Options) -> Result<Link, ConnectError> {
        options.check()?;
        let client = match tls::certificates(&[url], options).map_err(ConnectError::Address)? {
            Some(certificates) => Client::build_with_tls(url, certificates),
            None => Client::open(url),
        };
        let client = Box::new(client.map_err(ConnectError::Address)?);
        Ok(Link::new(Source::Address(client), options))
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

fn sentinels(urls: &[&str], service: &str, options: &Options) -> redis::RedisResult<redis::sentinel::SentinelClient> {
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
    if let Some(certificates) = tls::certificates(urls, options)? {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    builder.build()
}

/// Shows nothing of the address, which can have a password in it.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis::Store({:?})", self.0.keys)
    }
}
