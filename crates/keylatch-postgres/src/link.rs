//! A connection of the pool, and the limits on its use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgRow, PgTransactionManager as Manager};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Postgres, Row as _, SqlSafeStr as _};
use sqlx_core::transaction::TransactionManager as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{Fault, Sent};
use super::options::Options;
use super::sql::Statement;
use keylatch_core::store::ErrorKind;

/// The source of connections.
#[derive(Debug)]
pub(super) struct Links {
    pool: PgPool,
    connect_max: Duration,
    statement_max: Duration,
    /// The statement that begins the transaction of each statement, if each needs its own.
    wrapped: Option<Statement>,
    /// Whether a connection has broken, or was to a standby: then the same may be true of others in the pool, and they
    /// are checked before use.
    suspicious: AtomicBool,
    /// Why the last attempt to connect failed, if it did.
    outage: Mutex<Option<Fault>>,
    /// Held by the caller that tries again then.
    trying: tokio::sync::Mutex<()>,
    /// A permit for each handler that may have a transaction.
    handlers: Arc<Semaphore>,
    handlers_max: usize,
}

/// A connection. If it is dropped with a transaction open or in doubt, it is closed instead of being returned.
#[derive(Debug)]
pub(super) struct Link {
    conn: PoolConnection<Postgres>,
    fit: bool,
}

pub(super) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// How long a server may take to refuse a connection.
const PROBE_MAX: Duration = Duration::from_millis(250);
/// How often a statement is tried if its connection breaks: on that connection, and on one that has just answered.
const TRIES: u32 = 2;

impl Links {
    pub(super) fn new(pool: PgPool, options: &Options, wrapped: Option<Statement>) -> Self {
        let handlers_max = options.handlers_max(pool.options().get_max_connections());
        Self {
            pool,
            connect_max: options.connect_max,
            statement_max: options.statement_max,
            handlers: Arc::new(Semaphore::new(handlers_max)),
            handlers_max,
            wrapped,
            suspicious: AtomicBool::new(false),
            outage: Mutex::new(None),
            trying: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether nobody waits for a connection of the pool.
    pub(super) fn can_spare(&self) -> bool {
        self.pool.num_idle() > 0 || !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.pool.size() >= self.pool.options().get_max_connections()
    }

    /// A handler's permit for a transaction, within the time for a connection.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Fault> {
        match timeout(self.connect_max, self.handlers.clone().acquire_owned()).await {
            Ok(turn) => Ok(turn.expect("nobody closes it")),
            Err(_) => Err(self.used_up()),
        }
    }

    /// Why there is no connection although the server is up.
    fn used_up(&self) -> Fault {
        let handlers = self.handlers_max - self.handlers.available_permits();
        let max = self.pool.options().get_max_connections();
        let what = format!(
            "no connection of the pool was free in time: of {max}, handlers hold {handlers} by their `Tx` (at most {}). A \
             handler that holds one must not take another connection of the same pool: use the `Tx`, or another pool. \
             Otherwise raise the pool's number of connections (with_connections_max)",
            self.handlers_max
        );
        Fault::new(ErrorKind::Unavailable, what)
    }

    /// Why no connection could be made in time.
    async fn unreachable(&self) -> Fault {
        if self.is_full() {
            return self.used_up();
        }
        match refusal(&self.pool.connect_options(), self.connect_max).await {
            Some(error) => Fault::of(&error, Sent::Harmless),
            None => Fault::new(ErrorKind::Unavailable, "no connection to the PostgreSQL server in time"),
        }
    }

    /// A connection, within the time for that. While no new one can be made, one caller at a time tries, and the others
    /// fail at once.
    pub(super) async fn link(&self) -> Result<Link, Fault> {
        let outage = self.outage.lock().clone();
        let _trying = match outage {
            Some(fault) => Some(self.trying.try_lock().map_err(|_| fault)?),
            None => None,
        };
        let linked = match timeout(self.connect_max, self.answering()).await {
            Ok(Some(linked)) => linked,
            Ok(None) | Err(_) => Err(self.unreachable().await),
        };
        match &linked {
            Ok(_) => *self.outage.lock() = None,
            // If all connections of the pool or the server are in use, that is not an outage: one may be returned at
            // any time.
            Err(fault) if self.is_full() || fault.has_code("53300") => {}
            Err(fault) => *self.outage.lock() = Some(fault.clone()),
        }
        linked
    }

    /// A connection that leads to a primary; `None` if the pool has none in time.
    async fn answering(&self) -> Option<Result<Link, Fault>> {
        // All open connections may lead to the former primary. A new one goes where the address leads now.
        let mut old = self.pool.size();
        loop {
            let conn = match self.pool.acquire().await {
                Ok(conn) => conn,
                Err(sqlx::Error::PoolTimedOut) => return None,
                Err(error) => return Some(Err(Fault::of(&error, Sent::Harmless))),
            };
            if !self.suspicious.load(Ordering::Relaxed) {
                return Some(Ok(Link { conn, fit: true }));
            }
            let mut link = Link { conn, fit: false };
            match link.leads_to_standby().await {
                Ok(false) => {
                    link.fit = true;
                    // The only older connections left are those that have answered since.
                    if self.pool.num_idle() == 0 {
                        self.suspicious.store(false, Ordering::Relaxed);
                    }
                    return Some(Ok(link));
                }
                Ok(true) if old == 0 => return Some(Err(Fault::standby())),
                Ok(true) => old -= 1,
                Err(_) => {}
            }
        }
    }

    /// Runs one statement by itself, which may be sent again.
    pub(super) async fn rows<'q>(&self, sent: Sent, query: impl Fn() -> PgQuery<'q>) -> Result<Vec<PgRow>, Fault> {
        self.rows_on(&mut self.link().await?, sent, query).await
    }

    /// Runs one statement by itself, which may be sent again, on `link`; or on another, if that one breaks.
    pub(super) async fn rows_on<'q>(
        &self,
        link: &mut Link,
        sent: Sent,
        query: impl Fn() -> PgQuery<'q>,
    ) -> Result<Vec<PgRow>, Fault> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let done = self.bounded(sent, link.alone(query(), self.wrapped.as_ref())).await;
            match self.judge(link, done.and_then(of_primary)) {
                Err(fault) if fault.disconnected && tries > 0 => *link = self.link().await?,
                done => return done,
            }
        }
    }

    /// Begins a transaction with `sql` on `link`; or on another, if that one breaks.
    pub(super) async fn begin(&self, link: &mut Link, sql: String) -> Result<(), Fault> {
        let mut tries = TRIES;
        loop {
            tries -= 1;
            let done = self.bounded(Sent::Harmless, link.begin(sql.clone())).await;
            match self.judge(link, done) {
                Err(fault) if fault.disconnected && tries > 0 => *link = self.link().await?,
                done => return done,
            }
        }
    }

    /// Runs a statement in the transaction that is open on `link`.
    pub(super) async fn rows_inside(&self, link: &mut Link, query: PgQuery<'_>) -> Result<Vec<PgRow>, Fault> {
        let done = self.bounded(Sent::Harmless, query.fetch_all(&mut *link.conn)).await;
        self.judge(link, done)
    }

    /// Commits the transaction that is open on `link`.
    pub(super) async fn commit(&self, link: &mut Link) -> Result<(), Fault> {
        let done = self.bounded(Sent::Perhaps, link.commit()).await;
        self.judge(link, done)
    }

    /// Rolls the transaction back that is open on `link`, or failed to begin.
    pub(super) async fn rollback(&self, link: &mut Link) -> Result<(), Fault> {
        let done = self.bounded(Sent::Harmless, link.rollback()).await;
        self.judge(link, done)
    }

    async fn bounded<T>(&self, sent: Sent, call: impl Future<Output = sqlx::Result<T>>) -> Result<T, Fault> {
        match timeout(self.statement_max, call).await {
            Ok(done) => done.map_err(|error| Fault::of(&error, sent)),
            Err(_) => Err(Fault::timed_out(sent)),
        }
    }

    /// Notes what a failure means for the connection and for others in the pool.
    fn judge<T>(&self, link: &mut Link, done: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault) = &done
            && (fault.disconnected || fault.unanswered)
        {
            link.fit = false;
            self.suspicious.store(true, Ordering::Relaxed);
        }
        done
    }
}

/// The rows, unless they come from a standby, whose data may be old. A standby refuses writes anyway.
fn of_primary(rows: Vec<PgRow>) -> Result<Vec<PgRow>, Fault> {
    match rows.first().map(|row| row.try_get("standby")) {
        Some(Ok(true)) => Err(Fault::of_server(Some("25006"), "this server is a standby", false, Sent::Harmless)),
        _ => Ok(rows),
    }
}

/// Why the server at `address` refuses a connection, if it does so at once: the pool tries again until its time is up
/// and does not report this.
pub(super) async fn refusal(address: &PgConnectOptions, connect_max: Duration) -> Option<sqlx::Error> {
    timeout(connect_max.min(PROBE_MAX), address.connect()).await.ok()?.err()
}

impl Link {
    /// The connection for a handler, while a transaction is open.
    pub(super) fn conn(&self) -> &PgConnection {
        &self.conn
    }

    pub(super) fn conn_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }

    /// Whether the transaction is as it was begun: no savepoint of a handler's is left open in it.
    pub(super) fn is_at_top(&self) -> bool {
        Manager::get_transaction_depth(&self.conn) == 1
    }

    /// Asks which server is at the other end, in one round trip.
    async fn leads_to_standby(&mut self) -> sqlx::Result<bool> {
        sqlx::raw_sql("SELECT pg_is_in_recovery()").fetch_one(&mut *self.conn).await?.try_get(0)
    }

    async fn alone(&mut self, query: PgQuery<'_>, wrapped: Option<&Statement>) -> sqlx::Result<Vec<PgRow>> {
        let Some(begin) = wrapped else { return query.fetch_all(&mut *self.conn).await };
        self.begin(begin.text().to_owned()).await?;
        let rows = query.fetch_all(&mut *self.conn).await?;
        self.commit().await?;
        Ok(rows)
    }

    async fn begin(&mut self, sql: String) -> sqlx::Result<()> {
        self.fit = false;
        Manager::begin(&mut self.conn, Some(AssertSqlSafe(sql).into_sql_str())).await
    }

    async fn commit(&mut self) -> sqlx::Result<()> {
        Manager::commit(&mut self.conn).await?;
        self.fit = true;
        Ok(())
    }

    async fn rollback(&mut self) -> sqlx::Result<()> {
        if self.is_at_top() {
            Manager::rollback(&mut self.conn).await?;
        } else {
            // sqlx does not know of a transaction whose first message failed.
            sqlx::raw_sql("ROLLBACK").execute(&mut *self.conn).await?;
        }
        self.fit = Manager::get_transaction_depth(&self.conn) == 0;
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.fit {
            self.conn.close_on_drop();
        }
    }
}
