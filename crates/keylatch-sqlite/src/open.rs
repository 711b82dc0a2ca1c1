//! Opening the file: connections, schema, threads.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::Inner;
use super::checkpoint::Checkpoints;
use super::db::Db;
use super::deferred::Deferred;
use super::error::OpenError;
use super::gate::Gate;
use super::guard::{Guard, STATEMENTS_MAX};
use super::migrate::migrate;
use super::options::Options;
use super::worker::{Queue, Worker};

/// Opens the file and starts the threads. It blocks: on the disk, and on other processes that open the same file.
pub(super) fn open(path: &Path, options: &Options) -> Result<Inner, OpenError> {
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        return Err(OpenError::NoFile);
    }
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(directory).map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
    }
    Opening { path, options }.open()
}

/// Creates a directory and its parents. A file is durable only if the directories that lead to it are.
fn make_directory(directory: &Path) -> io::Result<()> {
    let missing: Vec<_> =
        directory.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists()).collect();
    fs::create_dir_all(directory)?;
    for made in missing {
        let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if cfg!(unix) {
            File::open(above)?.sync_all()?;
        }
    }
    Ok(())
}

struct Opening<'a> {
    path: &'a Path,
    options: &'a Options,
}

impl Opening<'_> {
    fn open(&self) -> Result<Inner, OpenError> {
        let mut writer = self.connect(self.options.cache_bytes)?;
        self.refuse_read_only(&writer)?;
        self.use_write_ahead_log(&writer)?;
        migrate(&mut writer, self.path, &self.options.clock)?;
        if let Some(pages) = self.options.file_pages_max {
            self.sql(writer.pragma_update(None, "max_page_count", pages))?;
        }
        let checkpointer = self.connect(self.options.cache_bytes / 4)?;
        let gate = Arc::new(Gate::default());
        let checkpoints = Checkpoints::start(&writer, checkpointer, gate.clone(), self.options);
        let checkpoints = checkpoints.map_err(OpenError::Thread)?;
        // One query is one batch: it sees one state of the file, and no other query waits for it.
        let queriers = (0..self.options.query_threads).map(|_| {
            let querier = Worker { gate: Some(gate.clone()), ..self.reader(1)? };
            gate.add(querier.db.guard());
            Ok(querier)
        });
        let queriers = queriers.collect::<Result<_, OpenError>>()?;
        let (querier, mut outlasts) = self.start("keylatch-query", queriers)?;
        let (reader, thread) = self.start("keylatch-read", vec![self.reader(self.options.batch_jobs_max)?])?;
        outlasts.extend(thread);
        let writer = Worker {
            db: self.guarded(writer, true)?,
            begin: include_str!("sql/begin_write.sql"),
            batch_jobs_max: self.options.batch_jobs_max,
            batch_time_max: self.options.closure_time_max,
            checkpoints: Some(checkpoints),
            gate: None,
            outlasts,
        };
        let (writer, _) = self.start("keylatch-write", vec![writer])?;
        gate.leads_to(writer.downgrade());
        let canonical = fs::canonicalize(self.path);
        let canonical = canonical.map_err(|source| OpenError::Directory { path: self.path.to_owned(), source })?;
        Ok(Inner {
            writer,
            reader,
            querier,
            path: self.path.to_owned(),
            canonical,
            clock: self.options.clock.clone(),
            published: Arc::default(),
        })
    }

    fn reader(&self, batch_jobs_max: usize) -> Result<Worker, OpenError> {
        let conn = self.connect(self.options.cache_bytes / 4)?;
        self.sql(conn.pragma_update(None, "query_only", true))?;
        Ok(Worker {
            db: self.guarded(conn, false)?,
            begin: include_str!("sql/begin_read.sql"),
            batch_jobs_max,
            batch_time_max: Duration::MAX,
            checkpoints: None,
            gate: None,
            outlasts: Vec::new(),
        })
    }

    fn start(&self, name: &str, workers: Vec<Worker>) -> Result<(Queue, Vec<JoinHandle<()>>), OpenError> {
        Queue::start(name, self.options.queue_jobs_max, workers).map_err(OpenError::Thread)
    }

    fn guarded(&self, conn: Connection, is_writer: bool) -> Result<Db, OpenError> {
        let deferred = if is_writer { Some(self.sql(Deferred::new(&conn))?) } else { None };
        let time_max = is_writer.then_some(self.options.closure_time_max);
        let guard = self.sql(Guard::protect(&conn, self.options.busy_timeout, time_max, is_writer))?;
        Ok(Db::new(conn, guard, deferred, self.options.clock.clone()))
    }

    /// A connection with the settings that all connections share.
    fn connect(&self, cache_bytes: usize) -> Result<Connection, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = self.sql(Connection::open_with_flags(self.path, flags))?;
        self.sql(self.set_up(&conn, cache_bytes))?;
        Ok(conn)
    }

    fn set_up(&self, conn: &Connection, cache_bytes: usize) -> rusqlite::Result<()> {
        conn.busy_timeout(self.options.busy_timeout)?;
        conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        // A commit is on disk when it returns.
        conn.pragma_update(None, "synchronous", "FULL")?;
        // Negative: in KiB, not in pages.
        conn.pragma_update(None, "cache_size", -i64::try_from(cache_bytes / 1024).unwrap_or(i64::MAX))?;
        // The journal of savepoints stays in memory too, instead of in a file.
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        // Checkpoints have a thread of their own.
        conn.pragma_update(None, "wal_autocheckpoint", 0)?;
        // Frees the space of the log after a long read has kept it from restarting.
        let log_bytes = i64::from(self.options.checkpoint_pages) * 4_096 * 2;
        conn.pragma_update(None, "journal_size_limit", log_bytes)
    }

    /// SQLite opens a file that it may not write as read-only, and the connection stays read-only: nothing could be
    /// claimed, even after the disk is writable again.
    fn refuse_read_only(&self, conn: &Connection) -> Result<(), OpenError> {
        if self.sql(conn.is_readonly(MAIN_DB))? {
            let cause = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
            return Err(self.error(rusqlite::Error::SqliteFailure(cause, Some("it is read-only".to_owned()))));
        }
        Ok(())
    }

    /// Turns the write-ahead log on, which the file then keeps. Another process may be doing the same.
    fn use_write_ahead_log(&self, conn: &Connection) -> Result<(), OpenError> {
        let started = Instant::now();
        loop {
            let mode = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
            match mode {
                Ok(mode) if mode == "wal" => return Ok(()),
                Ok(journal) => return Err(OpenError::NoWriteAheadLog { path: self.path.to_owned(), journal }),
                Err(error) if is_busy(&error) && started.elapsed() < self.options.busy_timeout => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(self.error(error)),
            }
        }
    }

    fn sql<T>(&self, result: rusqlite::Result<T>) -> Result<T, OpenError> {
        result.map_err(|error| self.error(error))
    }

    fn error(&self, source: rusqlite::Error) -> OpenError {
        OpenError::database(self.path, source)
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
