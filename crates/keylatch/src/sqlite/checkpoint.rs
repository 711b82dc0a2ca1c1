//! Writing the log back to the database file, without stopping everyone.
//!
//! SQLite would do it in whichever commit passes a limit, and that commit's callers would wait for all of it.
//! Here a thread of its own does the bulk beside the writer. While the writer goes on writing, that never reaches
//! the end of the log, which therefore would never start anew. So the writer does the short rest itself, between
//! two batches, and its next batch starts at the head of the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use rusqlite::Connection;
use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;

/// The writer's side.
pub(super) struct Checkpoints {
    /// How many pages the log has; kept by a hook of the writer's connection.
    logged: Arc<AtomicU32>,
    stage: Arc<AtomicU8>,
    wake: SyncSender<()>,
    pages_max: u32,
    /// From how many pages the next checkpoint is due. Higher than `pages_max` while a long read keeps the log from
    /// starting anew.
    due_at: u32,
}

/// Nothing is under way.
const IDLE: u8 = 0;
/// The thread is at work.
const BULK: u8 = 1;
/// The rest is the writer's.
const REST: u8 = 2;

/// A rest that the writer does itself: a tenth of what is due by default, so that its callers wait little.
const REST_PAGES_MAX: i32 = 1_000;
/// How often the thread tries to get that close. Under a load that outruns the disk it never would.
const BULK_PASSES_MAX: usize = 4;

impl Checkpoints {
    /// Watches the log of the writer's connection, and starts the thread, which works on `conn`.
    pub(super) fn start(writer: &mut Connection, conn: Connection, pages_max: u32) -> Result<Self, StartError> {
        let logged = Arc::new(AtomicU32::new(0));
        let seen = logged.clone();
        writer.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            seen.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let stage = Arc::new(AtomicU8::new(IDLE));
        let (wake, woken) = mpsc::sync_channel(1);
        let shared = stage.clone();
        thread::Builder::new().name("keylatch-checkpoint".into()).spawn(move || serve(&conn, &woken, &shared))?;
        Ok(Self { logged, stage, wake, pages_max, due_at: pages_max })
    }

    /// Starts or ends a checkpoint, if it is time.
    pub(super) fn between_batches(&mut self, writer: &Connection) {
        let logged = self.logged.load(Ordering::Relaxed);
        if logged < self.pages_max {
            self.due_at = self.pages_max;
        }
        match self.stage.load(Ordering::Acquire) {
            IDLE if logged >= self.due_at => {
                self.due_at = logged.saturating_add(self.pages_max / 4);
                self.stage.store(BULK, Ordering::Release);
                if self.wake.try_send(()).is_err() {
                    self.stage.store(IDLE, Ordering::Release);
                }
            }
            REST => {
                checkpoint(writer);
                self.stage.store(IDLE, Ordering::Release);
            }
            _ => {}
        }
    }
}

/// Why the thread could not be started.
pub(super) enum StartError {
    Sql(rusqlite::Error),
    Thread(io::Error),
}

impl From<rusqlite::Error> for StartError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Thread(error)
    }
}

/// The thread: it ends with the writer.
fn serve(conn: &Connection, woken: &Receiver<()>, stage: &AtomicU8) {
    while woken.recv().is_ok() {
        let rest = (0..BULK_PASSES_MAX).map(|_| checkpoint(conn)).find(|rest| *rest <= REST_PAGES_MAX);
        let next = if rest == Some(0) { IDLE } else { REST };
        stage.store(next, Ordering::Release);
    }
}

/// Writes back what can be written back without waiting for anyone, and says how many pages are left.
fn checkpoint(conn: &Connection) -> i32 {
    match conn.wal_checkpoint_v2(Some("main"), CheckpointMode::PASSIVE) {
        Ok((logged, written)) => logged - written,
        Err(error) => {
            // Another process may be at it. The log is whole; it only grows until the next try.
            tracing::debug!(%error, "a checkpoint did not take place");
            i32::MAX
        }
    }
}
