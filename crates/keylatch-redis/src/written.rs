//! The current runs whose records this process has written: their next write needs no read first.
//!
//! A write always compares the record's header. If another owner has changed the record, the write changes nothing, and
//! the record is read.

use std::collections::HashMap;

use foldhash::fast;
use parking_lot::Mutex;

use super::value::Written;
use keylatch_core::{Lease, RecordId};

/// How many are remembered at most: more than an engine runs at once by default. Beyond this, all are forgotten.
const WRITTEN_MAX: usize = 16_384;
/// The largest value that is remembered: larger than that of any run without notes.
const WRITTEN_BYTES_MAX: usize = 2_048;

#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashMap<RecordId, Written, fast::RandomState>>);

impl Runs {
    pub(super) fn keep(&self, id: RecordId, written: Written) {
        if written.bytes() > WRITTEN_BYTES_MAX {
            return;
        }
        let mut runs = self.0.lock();
        if runs.len() >= WRITTEN_MAX {
            runs.clear();
        }
        runs.insert(id, written);
    }

    /// The value that was written under `lease`.
    pub(super) fn get(&self, lease: &Lease) -> Option<Written> {
        self.0.lock().get(&lease.id).filter(|written| written.is_of(lease)).cloned()
    }

    /// The same, and forgets it.
    pub(super) fn take(&self, lease: &Lease) -> Option<Written> {
        let mut runs = self.0.lock();
        runs.get(&lease.id).filter(|written| written.is_of(lease))?;
        runs.remove(&lease.id)
    }

    /// Remembers `next` instead of `before`, if that was not forgotten meanwhile because the run has ended.
    pub(super) fn replace(&self, lease: &Lease, before: &Written, next: Written) {
        let mut runs = self.0.lock();
        if let Some(written) = runs.get_mut(&lease.id).filter(|written| written.header() == before.header()) {
            *written = next;
        }
    }
}
