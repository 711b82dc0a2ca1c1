//! The store in Redis or Valkey: the lowest latency, and a weaker promise.
//!
//! **What it cannot promise.** Redis acknowledges a write before a replica has it. When a primary dies and a replica
//! takes its place, the latest acknowledged claims and outcomes can be gone, and their requests run again. The
//! [manual](crate::manual::redis) says how often that was measured, and which uses that rules out. `Atomic` is not
//! offered: what a handler writes is elsewhere.
//!
//! Records stand in 64 buckets, each in one slot of a Cluster with its indexes:
//!
//! ```text
//! keylatch:{tag}:<identity>   one record: a header that the scripts compare, and what only the machine reads
//! keylatch:{tag}:ids          sorted set of all identities, for pages and counts
//! keylatch:{tag}:leases       sorted set of running records, by when their lease ends
//! keylatch:{tag}:due          sorted set of completed records, by when a sweep has something to do
//! ```
//!
//! A write is one script, atomic with its indexes. Claims of new keys, plain renewals, completions and
//! removals are decided there, in one round trip, for only the server knows what time it is. Where the machine has
//! more to say (a takeover, a noted step, a retry), the record is read, and replaced on the condition that it has not
//! changed since. No key has a time to live: a record goes when it is swept, so that neither a restart nor a primary
//! with another clock can drop one unseen.

mod batch;
mod cache;
mod error;
mod keys;
mod link;
mod ops;
mod options;
mod pages;
mod script;
mod server;
mod tls;
mod value;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use redis::cluster::ClusterClientBuilder;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, IntoConnectionInfo as _};

#[cfg(feature = "conformance")]
use crate::Clock;
use crate::store::Durability;
pub use cache::Cache;
pub use error::ConnectError;
use keys::Keys;
use link::{Link, Source};
pub use options::{CHECK_EVERY, COMPRESS_FROM_BYTES, CONNECT_TIMEOUT, Options, PREFIX, RESPONSE_TIMEOUT};

/// A store in Redis or Valkey. A clone is the same store, on the same connection.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    link: Link,
    keys: Keys,
    durability: Durability,
    compress_from_bytes: Option<usize>,
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
        const RETRIES: u32 = 3;
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
    pub async fn misplace(&self, from: crate::RecordId, to: crate::RecordId) {
        use redis::{Value, cmd};
        let Inner { link, keys, .. } = &*self.0;
        let key = keys.record(to);
        let [key, ids, ..] = keys.all(to, &key);
        let record = link.read(cmd("GET").arg(keys.record(from))).await.expect("the server answers");
        let Value::BulkString(record) = record else { panic!("there is a record to misplace") };
        link.read(cmd("SET").arg(key).arg(record)).await.expect("the server answers");
        link.read(cmd("ZADD").arg(ids).arg(0).arg(to.as_bytes())).await.expect("the server answers");
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
