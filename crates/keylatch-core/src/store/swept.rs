//! What a sweep did.

use std::ops::AddAssign;

/// What one sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records that lost their answer and became tombstones.
    pub tombstoned: usize,
    /// Records that were removed.
    pub removed: usize,
    /// Whether it stopped before it had come to the end of what was due: at its limit, or at a bound of the store's own. To
    /// clean everything, sweep while this is set. A sweep that sets it has changed at least one record. One that does not
    /// has left nothing that was due, except for records that another sweep or transaction had in hand, and damaged ones.
    pub more: bool,
}

impl Swept {
    /// Records touched in all.
    pub const fn total(self) -> usize {
        self.tombstoned + self.removed
    }

    /// The same, if it could change no more than `limit` records: there may be more if it changed so many.
    #[must_use]
    pub const fn within(self, limit: usize) -> Self {
        Self { more: limit > 0 && self.total() >= limit, ..self }
    }
}

/// Adds what the next sweep did, which also says whether there is more.
impl AddAssign for Swept {
    fn add_assign(&mut self, next: Self) {
        self.tombstoned += next.tombstoned;
        self.removed += next.removed;
        self.more = next.more;
    }
}
