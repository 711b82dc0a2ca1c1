//! Opens a store, and checks that its server can be trusted.

use std::net::IpAddr;

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode};
use sqlx::{Connection as _, PgPool, Row as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Shared;
use super::error::OpenError;
use super::key_locks::KeyLocks;
use super::link::{Links, refusal};
use super::metrics::BatchMetrics;
use super::migrate::{ensure, migrate};
use super::options::Options;
use super::sql::Statements;
use super::synced::Replay;
use keylatch_core::store::Durability;

/// The store's own pool.
pub(super) async fn pool(address: PgConnectOptions, options: &Options) -> Result<PgPool, OpenError> {
    let address = if options.transaction_pooling {
        // No prepared statements, and no parameter that PgBouncer does not know.
        address.statement_cache_capacity(0).extra_float_digits(None)
    } else {
        address
    };
    let pool = PgPoolOptions::new()
        .max_connections(options.connections_max)
        .acquire_timeout(options.connect_max)
        // It would cost a round trip for each use; broken connections are found anyway, at the cost of one try.
        .test_before_acquire(false);
    match pool.connect_with(address.clone()).await {
        // The pool retries if nobody listens, and does not report why in the end.
        Err(sqlx::Error::PoolTimedOut) => {
            let cause = refusal(&address, options.connect_max).await.unwrap_or(sqlx::Error::PoolTimedOut);
            Err(cause.into())
        }
        connected => Ok(connected?),
    }
}

/// The parts that a store shares, after its server was checked and its schema created.
pub(super) async fn shared(pool: PgPool, options: Options) -> Result<Shared, OpenError> {
    warn_of_strangers(&pool.connect_options());
    if !options.transaction_pooling {
        refuse_pooler(&pool, &options).await?;
    }
    let server = server(&pool, &options).await?;
    if server.standby {
        return Err(OpenError::Standby);
    }
    if !server.durable {
        tracing::warn!(
            "fsync is off on the PostgreSQL server: a crash of its machine can lose acknowledged effects and records, and \
             damage the database; turn it on wherever that matters"
        );
    }
    if options.replay == Replay::Synced {
        server.check_synchronous()?;
    }
    if options.migrate {
        migrate(&pool, &options).await?;
    } else {
        ensure(&mut *pool.acquire().await?, &options, false).await?;
    }
    let wrapped = options.transaction_pooling || !server.read_committed;
    let statements = Statements::new(&options);
    let wrapped = wrapped.then(|| statements.begin.clone());
    Ok(Shared {
        links: Links::new(pool, &options, wrapped),
        statements,
        key_locks: KeyLocks::of(&options.schema),
        durability: if server.durable { Durability::Disk } else { Durability::Replica },
        options,
        sweeps: BatchMetrics::new("sweep"),
        swept_to: Mutex::new(None),
        published: Notify::new(),
    })
}

/// Warns if someone between here and the server could read and change the traffic.
fn warn_of_strangers(address: &PgConnectOptions) {
    let verified = matches!(address.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    if !verified && !stays_here(address) {
        tracing::warn!(
            sslmode = ?address.get_ssl_mode(),
            "PostgreSQL is on another machine, and the connection is not encrypted or not verified: anyone who can \
             redirect it can read keys and answers, and forge them; set sslmode=verify-full, and sslrootcert if the \
             system does not trust the server's authority"
        );
    }
}

/// Whether a connection stays on this machine.
fn stays_here(address: &PgConnectOptions) -> bool {
    let host = address.get_host();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    address.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What a server reports about itself.
struct Server {
    standby: bool,
    /// Whether a commit is on disk when it is acknowledged.
    durable: bool,
    /// Whether a statement by itself is at READ COMMITTED.
    read_committed: bool,
    /// Whether a commit waits for the disk of a standby, if there is one to wait for.
    commits_wait: bool,
    has_standbys: bool,
    /// Whether this role may see how far they are.
    sees_standbys: bool,
}

impl Server {
    fn check_synchronous(&self) -> Result<(), OpenError> {
        let missing = if !self.has_standbys {
            "synchronous_standby_names is empty"
        } else if !self.commits_wait {
            "synchronous_commit is neither on nor remote_apply"
        } else if !self.sees_standbys {
            "the role is not a member of pg_read_all_stats"
        } else {
            return Ok(());
        };
        Err(OpenError::NotSynchronous(missing))
    }
}

async fn server(pool: &PgPool, options: &Options) -> Result<Server, OpenError> {
    let mut conn = pool.acquire().await?;
    let asking = async {
        let mut tx = conn.begin().await?;
        let row = sqlx::query(include_str!("sql/server.sql")).persistent(false).fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(Server {
            standby: row.try_get("standby")?,
            durable: row.try_get("durable")?,
            read_committed: row.try_get("read_committed")?,
            commits_wait: row.try_get("commits_wait")?,
            has_standbys: row.try_get("has_standbys")?,
            sees_standbys: row.try_get("sees_standbys")?,
        })
    };
    match timeout(options.statement_max, asking).await {
        Ok(server) => server,
        Err(_) => Err(OpenError::Server(sqlx::Error::PoolTimedOut)),
    }
}

/// Fails if two statements of one connection reach two sessions of the server: a statement that was prepared in one
/// does not exist in the other, or is a different one.
async fn refuse_pooler(pool: &PgPool, options: &Options) -> Result<(), OpenError> {
    if pool.options().get_max_connections() < 2 {
        return Ok(());
    }
    let session = async |conn: &mut PgConnection| -> sqlx::Result<i32> {
        sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(conn).await?.try_get(0)
    };
    let asking = async {
        let mut one = pool.acquire().await?;
        // If there is no second connection, it remains unknown.
        let Ok(Ok(mut other)) = timeout(options.connect_max, pool.acquire()).await else { return Ok(()) };
        let first = session(&mut one).await?;
        // It takes the session that was just used, if that is free.
        let mut tx = other.begin().await?;
        session(&mut tx).await?;
        let second = session(&mut one).await?;
        tx.rollback().await?;
        if first == second {
            return Ok(());
        }
        Err(OpenError::Pooler(sqlx::Error::Protocol("each transaction runs in another session".to_owned())))
    };
    match timeout(options.statement_max, asking).await {
        Ok(done) => done,
        Err(_) => Err(OpenError::Server(sqlx::Error::PoolTimedOut)),
    }
}
