//! What can be chosen about a store.

use std::time::Duration;

use keylatch_core::Clock;

/// What can be chosen about a [`Store`](super::Store). The defaults suit one service on one machine.
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

/// The default of [`Options::with_queue_jobs_max`]: sixteen full batches. More would only wait longer here than
/// with the caller, who can still give up.
pub const QUEUE_JOBS_MAX: usize = 4_096;
/// The default of [`Options::with_batch_jobs_max`]: a commit is spread so thin by then that more would only add
/// to the wait of those who were first.
pub const BATCH_JOBS_MAX: usize = 256;
/// The default of [`Options::with_query_threads`]: one long query does not stop the next.
pub const QUERY_THREADS: usize = 2;
/// The default of [`Options::with_busy_timeout`]: longer than a backup or another process's batch holds the write
/// lock, and shorter than a client waits.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`Options::with_closure_time_max`]: far below the default lease ([`LEASE`](keylatch_core::LEASE)), so that runs
/// on a lease are renewed in time, and below [`BUSY_TIMEOUT`], so that another process does not fail for it.
pub const CLOSURE_TIME_MAX: Duration = Duration::from_secs(3);
/// The default of [`Options::with_cache_bytes`]: room for the upper levels of the indexes, which every look-up reads,
/// without being felt in a small process. More is not always faster: a commit that has split pages in an index looks
/// through all pages that are in memory.
pub const CACHE_BYTES: usize = 8 << 20;
/// The default of [`Options::with_checkpoint_pages`]: 40 MB of log, so that a page that is written often reaches
/// the database file once in many commits.
pub const CHECKPOINT_PAGES: u32 = 10_000;

/// The default of [`Options::with_log_pages_max`]: 1 GB, so that a report or a backup that takes a minute under a heavy load
/// comes to its end.
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
    /// The clock of the store. The default is the machine's; a test can move one by hand.
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

    /// How many writes share a commit at most, at least 1; [`BATCH_JOBS_MAX`] by default.
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

    /// How long one handler may hold the writer, from its first use of [`Tx`](keylatch_core::Tx) to its end, and how long one
    /// closure of [`Store::execute`](super::Store::execute) may; [`CLOSURE_TIME_MAX`] by default. Everyone else waits
    /// meanwhile. Keep it well below the shortest lease of those who use the file, and below the busy timeout of other
    /// processes.
    ///
    /// A statement that runs at that moment is interrupted. A closure that blocks in Rust cannot be: it is told when it
    /// ends. In both cases nothing of it stays. If the interrupted statement was one that writes, SQLite takes back the
    /// whole transaction: those who had their turn before it in the same batch are told to try again.
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

    /// From how many pages of the log queries are interrupted, for it starts anew only when nobody reads from it, at least
    /// four times [`checkpoint_pages`](Self::with_checkpoint_pages); [`LOG_PAGES_MAX`] by default. From twice
    /// `checkpoint_pages`, queries wait for each other before they begin, for a second at most.
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
