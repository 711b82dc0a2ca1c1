//! The current runs whose records this process has written: their next write needs no read first.
//!
//! A write always has the revision as its condition. If someone else has changed the record, it changes nothing, and
//! the record is read.

use std::collections::HashMap;

use foldhash::fast;
use parking_lot::Mutex;

use super::index::Named;
use super::value::Found;
use keylatch_core::{Lease, RecordId, State};

/// How many are remembered at most: more than an engine runs at once by default. Beyond this, all are forgotten.
const RUNS_MAX: usize = 16_384;
/// The most notes of a run that is remembered.
const NOTES_BYTES_MAX: usize = 2_048;

/// A run, as this process has last written it.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) found: Found,
    /// How long the index of scopes names it.
    pub(super) named: Named,
}

#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<HashMap<RecordId, Run, fast::RandomState>>);

impl Runs {
    pub(super) fn keep(&self, run: Run) {
        let State::Running { notes, .. } = &run.found.record.state else { return };
        if notes.steps.iter().map(|(name, result)| name.len() + result.len()).sum::<usize>() > NOTES_BYTES_MAX {
            return;
        }
        let mut runs = self.0.lock();
        if runs.len() >= RUNS_MAX {
            runs.clear();
        }
        runs.insert(run.found.record.id(), run);
    }

    /// The run under `lease`, which is forgotten.
    pub(super) fn take(&self, lease: &Lease) -> Option<Run> {
        let mut runs = self.0.lock();
        runs.get(&lease.id).filter(|run| run.found.record.lease() == *lease)?;
        runs.remove(&lease.id)
    }
}
