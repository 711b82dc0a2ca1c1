//! Writing the log back to the database file, without stopping everyone.
//!
//! SQLite would do it in the first commit over a limit, and that commit's callers would wait for all of it. Here a
//! separate thread does most of it beside the writer. While the writer continues to write, that thread never reaches
//! the end of the log, and the log would never restart. So the writer does the short rest itself, between two batches,
//! and its next batch starts at the head of the log.
//!
//! It can do so only while nobody reads from the log. If queries overlap, the gate makes such a moment: see `gate.rs`.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::gate::{Gate, Queries};
use super::options::Options;

thread_local! {
    /// How many pages the log had after the last commit of this thread. SQLite calls the hook on the thread that
    /// commits, and each writer has a thread of its own.
    static LOGGED: Cell<u32> = const { Cell::new(0) };
}

/// The writer's side.
pub(super) struct Checkpoints {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
    pages_max: u32,
    /// From how many pages the next checkpoint is due. Higher than `pages_max` while a long read keeps the log from
    /// restarting.
    due_at: u32,
    gate: Arc<Gate>,
    /// From how many pages new queries wait.
    gap_at: u32,
    /// How long they wait, at most.
    patience: Duration,
    /// From how many pages queries are interrupted.
    log_pages_max: u32,
    busy_timeout: Duration,
}

#[derive(Default)]
struct Shared {
    /// How many pages the log had after the last batch.
    logged: AtomicU32,
    stage: AtomicU8,
}

/// Nothing is under way.
const IDLE: u8 = 0;
/// The thread is at work.
const BULK: u8 = 1;
/// The writer does the rest.
const REST: u8 = 2;

/// How many pages the writer does itself: a tenth of what is due by default, so that its callers wait little.
const REST_PAGES_MAX: u32 = 1_000;
/// How often the thread tries to leave no more than that. Under a load that is faster than the disk it never succeeds.
const BULK_PASSES_MAX: usize = 4;

/// How long new queries wait so that the running ones can end: at first, and at most. It is doubled after each failure
/// and halved after each success.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long the writer waits for current reads of single records and of other processes.
const RESTART_TIME_MAX: Duration = Duration::from_millis(50);

impl Checkpoints {
    /// Watches the log of the writer's connection, and starts the thread, which works on `conn`.
    pub(super) fn start(writer: &Connection, conn: Connection, gate: Arc<Gate>, options: &Options) -> io::Result<Self> {
        let pages_max = options.checkpoint_pages;
        let shared = Arc::new(Shared::default());
        watch(writer);
        let (wake, woken) = mpsc::sync_channel(1);
        let bulk = shared.clone();
        let thread = thread::Builder::new().name("keylatch-log".into()).spawn(move || bulk.serve(&conn, &woken))?;
        Ok(Self {
            shared,
            wake,
            thread,
            pages_max,
            due_at: pages_max,
            gate,
            gap_at: pages_max.saturating_mul(2),
            patience: PATIENCE.0,
            log_pages_max: options.log_pages_max.max(pages_max.saturating_mul(4)),
            busy_timeout: options.busy_timeout,
        })
    }

    /// Lets the thread end.
    pub(super) fn end(self) -> JoinHandle<()> {
        self.thread
    }

    /// Starts or ends a checkpoint, if it is time.
    pub(super) fn between_batches(&mut self, writer: &Connection) {
        let stage = &self.shared.stage;
        let logged = LOGGED.get();
        self.shared.logged.store(logged, Ordering::Relaxed);
        if logged < self.pages_max {
            self.due_at = self.pages_max;
        }
        match stage.load(Ordering::Acquire) {
            IDLE if logged >= self.due_at => {
                self.due_at = logged.saturating_add(self.pages_max / 4);
                stage.store(BULK, Ordering::Release);
                if self.wake.try_send(()).is_err() {
                    stage.store(IDLE, Ordering::Release);
                }
            }
            REST => {
                write_back(writer);
                stage.store(IDLE, Ordering::Release);
            }
            _ => {}
        }
        if stage.load(Ordering::Acquire) != BULK {
            self.make_gap(writer, logged);
        }
    }

    /// If the log is too long, makes a moment when no query reads from it. Does not wait for queries.
    fn make_gap(&mut self, writer: &Connection, logged: u32) {
        if self.gate.queries() == Queries::Free {
            if logged < self.gap_at {
                return;
            }
            self.gate.close(self.patience);
            if logged >= self.log_pages_max {
                self.gate.interrupt();
            }
        }
        match self.gate.queries() {
            Queries::Ending => return,
            Queries::Ended if self.restart(writer) => {
                LOGGED.set(0);
                self.patience = (self.patience / 2).max(PATIENCE.0);
                self.gap_at = self.pages_max.saturating_mul(2);
                return self.gate.open();
            }
            Queries::Waited => self.patience = (self.patience * 2).min(PATIENCE.1),
            Queries::Free | Queries::Ended => {}
        }
        // In vain: again when it has grown a little.
        self.gap_at = logged.saturating_add(self.pages_max / 4);
        self.gate.open();
    }

    /// Writes all of the log back, so that the next batch starts at its head. Returns whether it does.
    fn restart(&self, writer: &Connection) -> bool {
        let restarted = writer.busy_timeout(RESTART_TIME_MAX.min(self.busy_timeout)).and_then(|()| {
            let hindered = writer.query_row(RESTART, [], |row| row.get::<_, i64>(0))?;
            Ok(hindered == 0)
        });
        let _ = writer.busy_timeout(self.busy_timeout);
        restarted.unwrap_or(false)
    }
}

impl Shared {
    /// The thread: it ends with the writer.
    fn serve(&self, conn: &Connection, woken: &Receiver<()>) {
        while woken.recv().is_ok() {
            for _ in 0..BULK_PASSES_MAX {
                let written = write_back(conn);
                if self.logged.load(Ordering::Relaxed).saturating_sub(written) <= REST_PAGES_MAX {
                    break;
                }
            }
            self.stage.store(REST, Ordering::Release);
        }
    }
}

/// Counts the pages of the log after each commit on `writer`.
pub(super) fn watch(writer: &Connection) {
    writer.wal_hook(Some(|_: &Wal, pages| {
        LOGGED.set(u32::try_from(pages).unwrap_or(0));
        Ok(())
    }));
}

/// Writes back what can be written without waiting, and returns up to which page of the log.
fn write_back(conn: &Connection) -> u32 {
    match conn.query_row(CHECKPOINT, [], |row| row.get::<_, i64>(2)) {
        Ok(written) => u32::try_from(written).unwrap_or(0),
        Err(error) => {
            // Another process may be doing it. The log is intact; it only grows until the next try.
            tracing::debug!(%error, "the write-ahead log could not be written back now");
            0
        }
    }
}

/// Returns whether it was hindered, the pages of the log, and how many of them are in the database now.
const CHECKPOINT: &str = "PRAGMA main.wal_checkpoint(PASSIVE)";
/// The same, after waiting until nobody reads from the log.
const RESTART: &str = "PRAGMA main.wal_checkpoint(RESTART)";
