//! Looks before attempts in a transaction, in batches: a replay is no more than that, and takes no connection of its own.

use super::Shared;
use super::attempt::Locks;
use super::batch::{Job, Reply, Waiting};
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{Found, damaged};
use crate::machine::Claim;
use crate::{Fingerprint, RecordId};

/// A look that waits for a batch.
#[derive(Debug)]
pub(super) struct LookJob {
    id: RecordId,
    fingerprint: Fingerprint,
    locks: Locks,
}

impl LookJob {
    pub(super) fn new(id: RecordId, fingerprint: Fingerprint) -> Self {
        Self { id, locks: Locks::of(&id, &fingerprint), fingerprint }
    }

    pub(super) fn of(claim: &Claim) -> Self {
        Self::new(claim.id(), claim.fingerprint)
    }
}

impl Job for LookJob {
    type Done = Found;
    const OPERATION: &'static str = "look";
    /// Until the statement ends, each has two places in the server's table of locks, of which there are 64 for each
    /// connection by default.
    const RECORDS_MAX: usize = 32;

    fn id(&self) -> RecordId {
        self.id
    }

    fn size(&self) -> usize {
        0
    }

    async fn run(jobs: &[Waiting<Self>], shared: &Shared, link: &mut Link) -> Result<Vec<Reply<Found>>, Fault> {
        let jobs = || jobs.iter().map(|waiting| &waiting.job);
        let query = || {
            shared
                .query(&shared.statements.look)
                .bind(jobs().map(|job| job.id.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.fingerprint.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.locks.key).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.locks.request).collect::<Vec<_>>())
        };
        let rows = shared.links.rows_on(link, Sent::Harmless, query).await?;
        if rows.len() != jobs().count() {
            return Err(damaged("a look has no reply"));
        }
        Ok(rows.into_iter().map(|row| Some(Found::new(row))).collect())
    }
}
