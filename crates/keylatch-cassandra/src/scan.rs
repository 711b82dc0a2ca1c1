//! All rows of the table of records, in the order of their tokens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::Store;
use super::error::Failed;
use super::value::Columns;

/// How many rows are read at once.
const ROWS_AT_ONCE: usize = 128;
/// A part of the ring that is not halved. There are 16 million of them.
const PART_MIN: u64 = 1 << 40;

/// A row: its token, its key, and the columns.
pub(super) struct Row {
    pub(super) token: i64,
    pub(super) key: Vec<u8>,
    pub(super) columns: Columns,
}

/// A way through all rows.
///
/// A row that has ended by its time to live stays on disk as tombstones for `gc_grace_seconds`, and Cassandra gives up a
/// read that meets more than `tombstone_failure_threshold` of them, which is 100,000 by default; fewer can take too long on
/// a slow node. Then the [part](Part) of the ring that is read at once is halved.
pub(super) struct Scan<'s> {
    store: &'s Store,
    /// The token up to which everything was read.
    after: i64,
}

/// How many tokens are read at once. All scans of a store share it, so that a page does not begin with what the one before
/// has found to be too much.
#[derive(Debug)]
pub(super) struct Part(AtomicU64);

impl Default for Part {
    /// The whole ring.
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl<'s> Scan<'s> {
    /// From the start, or after a token.
    pub(super) fn of(store: &'s Store, token: Option<i64>) -> Self {
        // No row has the lowest token.
        Self { store, after: token.unwrap_or(i64::MIN) }
    }

    /// The next rows; none if there are none in the part that was read. `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Row>>, Failed> {
        let Store(inner) = self.store;
        let (Part(part), until) = (&inner.part, Instant::now() + inner.call_max);
        while self.after < i64::MAX {
            let at_once = part.load(Ordering::Relaxed);
            let to = self.after.saturating_add_unsigned(at_once);
            // At the end of the ring there are fewer.
            let tokens = to.abs_diff(self.after);
            let rows = match inner.link.page(self.after, to, ROWS_AT_ONCE).await {
                Err(Failed::GaveUp(_)) if tokens > PART_MIN && Instant::now() < until => {
                    part.store(tokens / 2, Ordering::Relaxed);
                    continue;
                }
                rows => rows?,
            };
            match rows.last() {
                Some(last) if rows.len() == ROWS_AT_ONCE => self.after = last.token,
                _ => {
                    self.after = to;
                    part.store(at_once.saturating_mul(2), Ordering::Relaxed);
                }
            }
            return Ok(Some(rows));
        }
        Ok(None)
    }

    /// The token up to which everything was read.
    pub(super) fn is_at(&self) -> i64 {
        self.after
    }
}
