//! The only place where embedded stores read the time.
//!
//! A store with its own server (PostgreSQL, Redis) uses that server's clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::Timestamp;

/// A clock for the memory and SQLite stores: the machine's, or a manual one for tests.
///
/// It never runs backwards: otherwise a step back of the machine's clock would lengthen leases and bring expired
/// answers back.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    latest: AtomicI64,
    manual: bool,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(Inner { latest: AtomicI64::new(0), manual: false }))
    }

    /// A clock that stands at `start` until [`advance`](Self::advance) moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self(Arc::new(Inner { latest: AtomicI64::new(start.as_millis()), manual: true }))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        if self.0.manual {
            return Timestamp::from_millis(self.0.latest.load(Ordering::Acquire));
        }
        let read = system_millis();
        let latest = self.0.latest.fetch_max(read, Ordering::AcqRel);
        Timestamp::from_millis(read.max(latest))
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    ///
    /// On the system's clock.
    pub fn advance(&self, by: Duration) {
        assert!(self.0.manual, "only a manual clock can be advanced");
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.latest.fetch_add(by, Ordering::AcqRel);
    }
}

/// The machine's.
impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is that place")]
fn system_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
