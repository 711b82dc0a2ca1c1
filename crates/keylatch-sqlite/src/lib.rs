//! The SQLite store: one file, durable, nothing to install.
//!
//! All writes go through one thread. It takes all waiting jobs, runs them in one transaction, and commits once: many
//! callers share one sync of the disk. Replies are withheld until the commit. Reads have their own threads. Other
//! processes may use the same file.
//!
//! Callers who share a batch and a multi-threaded runtime get their replies through a task there. So, as always in
//! async code, do not block such a thread on a call to the store.
//!
//! ```text
//!  claim, complete, …  ┐                 ┌─────────── one batch ───────────┐
//!  a handler with a Tx ├─▶ queue ─▶ BEGIN  job  job  [unit: claim+writes]  COMMIT ─▶ all replies
//!  Store::execute      ┘                 └─────────────────────────────────┘
//! ```
//!
//! The file may also have the user's tables: `Atomic` is for tables in the same file, through
//! [`tx.run(…)`](Session::run), and [`Store::execute`] creates such tables. Keylatch's own tables begin with
//! `keylatch_`; any tool may read them, and no other program may write them. The
//! [manual](https://docs.rs/keylatch/latest/keylatch/manual/sqlite/) says what a closure may do, how to migrate, and
//! how the file and its log stay bounded.

mod attempt;
mod checkpoint;
mod db;
mod deferred;
mod error;
mod fence;
mod gate;
mod guard;
mod inbox;
mod job;
mod lent;
mod loan;
mod migrate;
mod open;
mod ops;
mod options;
mod outbox;
mod own;
mod poll;
mod replies;
mod rows;
mod savepoint;
mod sweep;
mod tx;
mod unit;
mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{Notify, oneshot};

use error::Fault;
pub use error::{OpenError, TxError};
pub use fence::{LeaseLost, assert_owner};
use keylatch_core::Clock;
use keylatch_core::outbox::Events;
pub use keylatch_core::tx::{Entered, InOwn};
pub use migrate::SCHEMA_VERSION;
pub use options::{
    BATCH_JOBS_MAX, BUSY_TIMEOUT, CACHE_BYTES, CHECKPOINT_PAGES, CLOSURE_TIME_MAX, LOG_PAGES_MAX, Options,
    QUERY_THREADS, QUEUE_JOBS_MAX,
};
use outbox::Published;
/// The version of rusqlite whose [`Connection`] closures get.
pub use rusqlite;
pub use savepoint::savepoint;
pub use tx::{Loaned, Session, Sqlite};
use unit::Undone;
use worker::Queue;

/// A store in an SQLite file. A clone is the same store. When the last clone is dropped, waiting jobs are done, and the
/// threads end.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Queue,
    /// Reads of single records.
    reader: Queue,
    /// Reads that may take longer: pages, counts, the user's queries.
    querier: Queue,
    path: PathBuf,
    /// The same, from the root.
    canonical: PathBuf,
    clock: Clock,
    /// Wakes the relay of this process.
    published: Arc<Notify>,
}

impl Store {
    /// Opens the file at `path`, and makes it and its directory if they are not there.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(path, Options::default()).await
    }

    /// Opens the file at `path` with these options, and makes it and its directory if they are not there.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; each says what to do.
    pub async fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let path = path.as_ref().to_owned();
        let (reply, replied) = oneshot::channel();
        thread::Builder::new()
            .name("keylatch-open".into())
            .spawn(move || drop(reply.send(open::open(&path, &options))))
            .map_err(OpenError::Thread)?;
        match replied.await {
            Ok(opened) => Ok(Self(Arc::new(opened?))),
            Err(_) => Err(OpenError::Thread(std::io::Error::other("the thread that opens the file has ended"))),
        }
    }

    /// Runs a user's write, such as one that creates tables at start. It is one unit: if the closure fails, its writes
    /// are rolled back. It is durable when this returns.
    ///
    /// The closure may not begin or end transactions, attach databases, set pragmas, or write to Keylatch's tables; an
    /// error names the rule. All other writers wait while it runs, so its time is limited
    /// ([`Options::with_closure_time_max`]). Run a migration that does any of this, or takes long, on its own
    /// connection before you open the store: see the [manual](https://docs.rs/keylatch/latest/keylatch/manual/sqlite/).
    ///
    /// # Errors
    ///
    /// [`TxError::Sql`] if the closure or the commit fails. [`TxError::TooLong`] and [`TxError::Reconfigured`], as they say.
    ///
    /// # Panics
    ///
    /// If the closure does; its writes are rolled back.
    pub async fn execute<T, F>(&self, closure: F) -> Result<T, TxError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let done = self.0.writer.call(move |db| unit::write(db, closure));
        done.await.map_err(Undone::or_panic)
    }

    /// As [`execute`](Self::execute), for a write that also publishes events: those that the closure adds to its second
    /// argument are written after it, and are published if and only if its writes are committed.
    ///
    /// # Errors
    ///
    /// As `execute`.
    ///
    /// # Panics
    ///
    /// If the closure does; its writes are rolled back.
    pub async fn execute_and_publish<T, F>(&self, closure: F) -> Result<T, TxError>
    where
        F: FnOnce(&Connection, &mut Events) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let mut published = Published::to(self.0.published.clone());
        let done = self.0.writer.call(move |db| {
            let (value, events) = unit::write(db, |conn| {
                let mut events = Events::default();
                Ok((closure(conn, &mut events)?, events))
            })?;
            // The closure's writes must not stay without them.
            published.insert(db, &events).map_err(Fault::Batch)?;
            Ok((value, published))
        });
        let (value, published) = done.await.map_err(Undone::or_panic)?;
        published.wake();
        Ok(value)
    }

    /// Runs a user's read-only query, on a state of the file that does not change meanwhile.
    ///
    /// It sees everything that was acknowledged before it began. The closure may read everything, and write nothing.
    /// While it runs, the write-ahead log cannot restart, and grows. When the log is too long, a query waits briefly
    /// before it begins, and a query that is running when the log reaches its limit is interrupted.
    ///
    /// # Errors
    ///
    /// [`TxError::Sql`] if the closure fails. [`TxError::LogTooLong`] if it was interrupted for the log's sake.
    ///
    /// # Panics
    ///
    /// If the closure does.
    pub async fn query<T, F>(&self, closure: F) -> Result<T, TxError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let done = self.0.querier.call(move |db| unit::read(db, closure));
        done.await.map_err(Undone::or_panic)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite::Store({})", self.0.path.display())
    }
}
