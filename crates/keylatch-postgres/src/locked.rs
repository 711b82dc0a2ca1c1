//! Records on which another transaction has a lock. Calls for them are tried again at intervals, without holding a
//! connection: a statement waits for a lock no longer than a commit usually takes, or not at all.

use std::time::{Duration, Instant};

use super::Shared;
use super::error::{Fault, Sent};
use super::link::PgQuery;
use super::rows::{damaged, get};
use keylatch_core::Timestamp;
use keylatch_core::store::{Applied, ErrorKind};

/// The longest wait for a lock in total, unless a statement may take less: the store's own locks last milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The first and the longest pause between tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How long a lock has been waited for.
#[derive(Debug)]
pub(super) struct LockWait {
    since: Instant,
    pause: Duration,
}

impl LockWait {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), pause: PAUSE.0 }
    }

    /// How long to wait before the next try. An error if the wait is over; then nothing was written.
    pub(super) fn pause(&mut self, statement_max: Duration) -> Result<Duration, Fault> {
        if self.since.elapsed() + self.pause > WAIT_MAX.min(statement_max) {
            let what = "another transaction holds a lock on the record; pg_locks and pg_stat_activity show which";
            return Err(Fault::new(ErrorKind::Unavailable, what));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        Ok(pause)
    }
}

impl Shared {
    /// Runs a single statement that writes one record under a condition, and returns whether it did. The statement
    /// returns null for a record that another transaction has locked.
    pub(super) async fn write<'q>(&self, query: impl Fn() -> PgQuery<'q>) -> Result<Applied, Fault> {
        let mut wait = LockWait::begin();
        loop {
            let rows = self.links.rows(Sent::Perhaps, &query).await?;
            let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
            match get(row, "applied")? {
                Some(true) => return Ok(Applied::Applied(Timestamp::from_millis(get(row, "clock")?))),
                Some(false) => return Ok(Applied::Lost),
                None => tokio::time::sleep(wait.pause(self.options.statement_max)?).await,
            }
        }
    }
}
