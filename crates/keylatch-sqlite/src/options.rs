//! The options of a store.

use std::time::Duration;

use keylatch_core::Clock;

/// The options of a [`Store`](super::Store). The defaults suit one service on one machine.
#[derive(Debug, Clone)]
pub struct Options {
    pub(super) clock: Clock,
    pub(super) queue_jobs_max: usize,
    pub(super) batch_jobs_max: usize,
    pub(super) query_threads: usize,
    pub(super) busy_timeout: Duration,
    pub(super) closure_time_max: Duration,
    pub(super) cache_bytes: usize,
    pub(super) checkpoint_pages: u32,
    pub(super) log_pages_max: u32,
    pub(super) file_pages_max: Option<u32>,
}

/// The default of [`Options::with_queue_jobs_max`]: sixteen full batches. More jobs would only wait here instead of
/// with the caller, who can still give up.
pub const QUEUE_JOBS_MAX: usize = 4_096;
/// The default of [`Options::with_batch_jobs_max`]: at this size the share of a commit is so small that more jobs would
/// only make the first ones wait longer.
pub const BATCH_JOBS_MAX: usize = 256;
/// The default of [`Options::with_query_threads`]: one long query does not stop the next.
pub const QUERY_THREADS: usize = 2;
/// The default of [`Options::with_busy_timeout`]: longer than a backup or another process's batch holds the write
/// lock, and shorter than a client waits.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`Options::with_closure_time_max`]: far below the default lease ([`LEASE`](keylatch_core::LEASE)), so
/// that runs on a lease are renewed in time, and below [`BUSY_TIMEOUT`], so that other processes do not fail because of
/// it.
pub const CLOSURE_TIME_MAX: Duration = Duration::from_secs(3);
/// The default of [`Options::with_cache_bytes`]: room for the upper levels of the indexes, which every look-up reads,
/// and little even for a small process. More is not always faster: a commit that has split pages in an index scans all
/// pages in memory.
pub const CACHE_BYTES: usize = 8 << 20;
/// The default of [`Options::with_checkpoint_pages`]: 40 MB of log, so that a page that is written often reaches
/// the database file once in many commits.
pub const CHECKPOINT_PAGES: u32 = 10_000;

/// The default of [`Options::with_log_pages_max`]: 1 GB, so that a report or a backup that takes a minute under a heavy
/// load can finish.
pub const LOG_PAGES_MAX: u32 = 250_000;

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            queue_jobs_max: QUEUE_JOBS_MAX,
            batch_jobs_max: BATCH_JOBS_MAX,
            query_threads: QUERY_THREADS,
            busy_timeout: BUSY_TIMEOUT,
            closure_time_max: CLOSURE_TIME_MAX,
            cache_bytes: CACHE_BYTES,
            checkpoint_pages: CHECKPOINT_PAGES,
            log_pages_max: LOG_PAGES_MAX,
            file_pages_max: None,
        }
    }
}

impl Options {
    /// The clock of the store. The default is the machine's clock; a test can use a manual one.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// How many writes may wait for the writer, at least 1; [`QUEUE_JOBS_MAX`] by default. Callers beyond it wait
    /// for a place.
    #[must_use]
    pub fn with_queue_jobs_max(self, jobs: usize) -> Self {
        Self { queue_jobs_max: jobs.max(1), ..self }
    }

    /// How many writes may share a commit, at least 1; [`BATCH_JOBS_MAX`] by default.
    #[must_use]
    pub fn with_batch_jobs_max(self, jobs: usize) -> Self {
        Self { batch_jobs_max: jobs.max(1), ..self }
    }

    /// How many threads answer [`Store::query`](super::Store::query), pages and counts, at least 1;
    /// [`QUERY_THREADS`] by default. Reads of single records have a thread of their own.
    #[must_use]
    pub fn with_query_threads(self, threads: usize) -> Self {
        Self { query_threads: threads.max(1), ..self }
    }

    /// How long to wait for another process's write lock; [`BUSY_TIMEOUT`] by default. A batch that waits longer fails
    /// as unavailable.
    #[must_use]
    pub fn with_busy_timeout(self, timeout: Duration) -> Self {
        Self { busy_timeout: timeout.min(Duration::from_secs(3_600)), ..self }
    }

    /// How long one handler may hold the writer, from its first use of `keylatch::Tx` to its end, and how
    /// long one closure of [`Store::execute`](super::Store::execute) may; [`CLOSURE_TIME_MAX`] by default. All other
    /// writers wait meanwhile. Keep it well below the shortest lease of the file's users, and below the busy timeout of
    /// other processes.
    ///
    /// A statement that is running at that moment is interrupted. A closure that blocks in Rust cannot be interrupted:
    /// it gets the error when it ends. In both cases its writes are rolled back. If the interrupted statement was a
    /// write, SQLite rolls back the whole transaction, and earlier callers in the same batch are told to try again.
    #[must_use]
    pub fn with_closure_time_max(self, time: Duration) -> Self {
        Self { closure_time_max: time, ..self }
    }

    /// How many bytes of the file the writer keeps in memory; [`CACHE_BYTES`] by default. Each thread that reads has
    /// a quarter of that.
    #[must_use]
    pub fn with_cache_bytes(self, bytes: usize) -> Self {
        Self { cache_bytes: bytes, ..self }
    }

    /// From how many pages the log is written back to the database file, at least 100; [`CHECKPOINT_PAGES`] by
    /// default.
    #[must_use]
    pub fn with_checkpoint_pages(self, pages: u32) -> Self {
        Self { checkpoint_pages: pages.max(100), ..self }
    }

    /// From how many pages of the log queries are interrupted, because the log restarts only when nobody reads from it;
    /// at least four times [`checkpoint_pages`](Self::with_checkpoint_pages); [`LOG_PAGES_MAX`] by default. From twice
    /// `checkpoint_pages`, new queries wait for the running ones, for at most a second.
    ///
    /// Reads of other processes cannot be interrupted: while they overlap without end, the log grows.
    #[must_use]
    pub fn with_log_pages_max(self, pages: u32) -> Self {
        Self { log_pages_max: pages, ..self }
    }

    /// How many pages (4 KiB in a file that this store made) the file may have. Beyond it, writes fail as unavailable
    /// until something is removed. There is no limit by default.
    #[must_use]
    pub fn with_file_pages_max(self, pages: u32) -> Self {
        Self { file_pages_max: Some(pages), ..self }
    }
}
