//! All rows of the table of records, in the order of their tokens.

use super::error::Failed;
use super::link::Link;
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
/// read that meets more than `tombstone_failure_threshold` of them, which is 100,000 by default. Then the part of the ring
/// that is read at once is halved.
pub(super) struct Scan {
    /// The token up to which everything was read.
    after: i64,
    /// How many tokens are read at once.
    part: u64,
}

impl Scan {
    /// From the start, or after a token.
    pub(super) fn after(token: Option<i64>) -> Self {
        // No row has the lowest token.
        Self { after: token.unwrap_or(i64::MIN), part: u64::MAX }
    }

    /// The next rows; none if there are none in the part that was read. `None` at the end.
    pub(super) async fn next(&mut self, link: &Link) -> Result<Option<Vec<Row>>, Failed> {
        while self.after < i64::MAX {
            let to = self.after.saturating_add_unsigned(self.part);
            let rows = match link.page(self.after, to, ROWS_AT_ONCE).await {
                // At the end of the ring the part is shorter.
                Err(Failed::GaveUp(_)) if to.abs_diff(self.after) > PART_MIN => {
                    self.part = to.abs_diff(self.after) / 2;
                    continue;
                }
                rows => rows?,
            };
            match rows.last() {
                Some(last) if rows.len() == ROWS_AT_ONCE => self.after = last.token,
                _ => {
                    self.after = to;
                    self.part = self.part.saturating_mul(2);
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
