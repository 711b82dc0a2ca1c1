//! Writing the log back to the database file, without stopping everyone.
//!
//! SQLite would do it in whichever commit passes a limit, and that commit's callers would wait for all of it.
//! Here a thread of its own does the bulk beside the writer. While the writer goes on writing, that never reaches
//! the end of the log, which therefore would never start anew. So the writer does the short rest itself, between
//! two batches, and its next batch starts at the head of the log.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

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
    /// starting anew.
    due_at: u32,
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
/// The rest is the writer's.
const REST: u8 = 2;

/// A rest that the writer does itself: a tenth of what is due by default, so that its callers wait little.
const REST_PAGES_MAX: u32 = 1_000;
/// How often the thread tries to leave no more than that. Under a load that outruns the disk it never would.
const BULK_PASSES_MAX: usize = 4;

impl Checkpoints {
    /// Watches the log of the writer's connection, and starts the thread, which works on `conn`.
    pub(super) fn start(writer: &Connection, conn: Connection, pages_max: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        watch(writer);
        let (wake, woken) = mpsc::sync_channel(1);
        let bulk = shared.clone();
        let thread = thread::Builder::new().name("keylatch-log".into()).spawn(move || bulk.serve(&conn, &woken))?;
        Ok(Self { shared, wake, thread, pages_max, due_at: pages_max })
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

/// Has the pages of the log counted after each commit on `writer`.
pub(super) fn watch(writer: &Connection) {
    writer.wal_hook(Some(|_: &Wal, pages| {
        LOGGED.set(u32::try_from(pages).unwrap_or(0));
        Ok(())
    }));
}

/// Writes back what can be written back without waiting for anyone, and says up to which page of the log.
fn write_back(conn: &Connection) -> u32 {
    match conn.query_row(CHECKPOINT, [], |row| row.get::<_, i64>(2)) {
        Ok(written) => u32::try_from(written).unwrap_or(0),
        Err(error) => {
            // Another process may be at it. The log is whole; it only grows until the next try.
            tracing::debug!(%error, "the log could not be written back now");
            0
        }
    }
}

/// Returns whether it was hindered, the pages of the log, and how many of them are in the database now.
const CHECKPOINT: &str = "PRAGMA main.wal_checkpoint(PASSIVE)";
