//! The PostgreSQL store: the store of truth for a fleet.
//!
//! Any number of processes share one database. It decides every claim, by its own clock, at READ COMMITTED, with only a
//! unique key and conditional updates.
//!
//! ```text
//!  claims       ┐ those that arrive together
//!  completions  ┘ are one statement ────────────────▶ keylatch.claim(…), keylatch.complete(…)
//!  a handler with a Tx ─▶ look ─▶ BEGIN, enter ─▶ its statements ─▶ finish ─▶ COMMIT
//! ```
//!
//! - **On a lease**, a claim and a completion are a round trip each, and many share a statement and a commit.
//! - **`Atomic`**: the handler's `keylatch::Tx` is a transaction of the same pool, in which any code for
//!   sqlx works. The record is written once, at its end. This adds two round trips to the handler's own statements: a
//!   look, and the record. Meanwhile a lock that is tried, and never waited for, keeps duplicates out.
//! - **Statements are plain SQL**, in their own files. What takes several steps on the server, or is done in batches,
//!   is a function in Keylatch's schema: so a check after a wait sees what was committed by then, and the plan stays
//!   the same while the table grows.
//!
//! What a role needs, how to run it behind PgBouncer, and what a failover does: see the
//! [manual](https://docs.rs/keylatch/latest/keylatch/manual/postgres_operations/).

mod attempt;
mod batch;
mod claim;
mod complete;
mod error;
mod inbox;
mod key_locks;
mod link;
mod locked;
mod look;
mod metrics;
mod migrate;
mod open;
mod ops;
mod options;
mod outbox;
mod own;
mod rows;
mod sql;
mod synced;
mod transaction;
mod tx;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::sync::Notify;

use batch::Queue;
use claim::ClaimJob;
use complete::CompleteJob;
pub use error::OpenError;
use key_locks::KeyLocks;
pub use keylatch_core::tx::{Entered, InOwn};
use link::{Links, PgQuery};
use look::LookJob;
use metrics::BatchMetrics;
pub use migrate::{SCHEMA_VERSION, grant, grant_sql, migrate, schema_sql};
pub use options::{
    BATCH_RECORDS_MAX, BATCHES_AT_ONCE, COMPRESS_FROM_BYTES, CONNECT_MAX, CONNECTIONS_MAX, HANDLER_PAUSE_MAX,
    HANDLER_STATEMENT_MAX, Options, SCHEMA, STATEMENT_MAX,
};
pub use own::client::{Call, CallError, OwnTx, Param};
use sql::{Statement, Statements};
pub use sqlx;
pub use synced::Replay;
pub use tx::{Loaned, Postgres};

use keylatch_core::packed;
use keylatch_core::store::Durability;

/// A store in a PostgreSQL database. A clone is the same store.
///
/// It belongs to the runtime on which it was opened.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    claims: Queue<ClaimJob>,
    completions: Queue<CompleteJob>,
    looks: Queue<LookJob>,
}

/// Shared by all parts of a store.
struct Shared {
    links: Links,
    statements: Statements,
    key_locks: KeyLocks,
    options: Options,
    durability: Durability,
    sweeps: BatchMetrics,
    /// Where the next sweep continues: when the last changed record was due, if there may be more.
    swept_to: Mutex<Option<i64>>,
    /// Wakes the relay of this process.
    published: Notify,
}

impl Store {
    /// Connects to the server at `url` (`postgres://user:password@host:port/database?sslmode=verify-full`), and brings
    /// the schema up to date.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        Self::connect_with(url, Options::default()).await
    }

    /// Connects to the server at `url` with these options.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, OpenError> {
        options.check()?;
        let pool = open::pool(url.parse()?, &options).await?;
        Self::with_pool(pool, options).await
    }

    /// A store in the database of `pool`, which it shares with the caller's own queries.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub async fn with_pool(pool: PgPool, options: Options) -> Result<Self, OpenError> {
        options.check()?;
        let shared = Arc::new(open::shared(pool, options).await?);
        Ok(Self {
            claims: Queue::start(&shared),
            completions: Queue::start(&shared),
            looks: Queue::start(&shared),
            shared,
        })
    }

    /// The pool, for the caller's own queries.
    pub fn pool(&self) -> &PgPool {
        self.shared.links.pool()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "postgres::Store({})", self.shared.options.schema)
    }
}

impl Shared {
    fn query<'q>(&self, statement: &Statement) -> PgQuery<'q> {
        statement.query(!self.options.transaction_pooling)
    }

    fn call(&self, statement: &Statement, params: Vec<Param>) -> Call {
        Call { statement: statement.clone(), prepared: !self.options.transaction_pooling, params }
    }
}

/// A span for the database. A span that it cannot store reaches past the last instant anyway.
fn span_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
