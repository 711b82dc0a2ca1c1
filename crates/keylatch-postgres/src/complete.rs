//! Completions, in batches.

use super::Shared;
use super::batch::{Job, Reply, Waiting};
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{damaged, get};
use keylatch_core::store::Applied;
use keylatch_core::{Lease, RecordId, Timestamp};

/// A completion that waits for a batch.
#[derive(Debug)]
pub(super) struct CompleteJob {
    pub(super) lease: Lease,
    /// The outcome as it is stored.
    pub(super) packed: Vec<u8>,
    pub(super) retention_ms: i64,
    pub(super) tombstone_ms: i64,
}

impl Job for CompleteJob {
    type Done = Applied;
    const OPERATION: &'static str = "complete";

    fn id(&self) -> RecordId {
        self.lease.id
    }

    fn size(&self) -> usize {
        self.packed.len()
    }

    async fn run(jobs: &[Waiting<Self>], shared: &Shared, link: &mut Link) -> Result<Vec<Reply<Applied>>, Fault> {
        let jobs = || jobs.iter().map(|waiting| &waiting.job);
        let query = || {
            shared
                .query(&shared.statements.complete)
                .bind(jobs().map(|job| job.lease.id.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.lease.epoch.as_u64().cast_signed()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.lease.owner.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.packed.as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.retention_ms).collect::<Vec<_>>())
                .bind(jobs().map(|job| job.tombstone_ms).collect::<Vec<_>>())
        };
        let rows = shared.links.rows_on(link, Sent::Perhaps, query).await?;
        let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
        let now = Timestamp::from_millis(get(row, "clock")?);
        let applied: Vec<Option<bool>> = get(row, "applied")?;
        if applied.len() != jobs().count() {
            return Err(damaged("a completion has no reply"));
        }
        Ok(applied
            .into_iter()
            .map(|applied| match applied {
                Some(true) => Reply::Done(Ok(Applied::Applied(now))),
                Some(false) => Reply::Done(Ok(Applied::Lost)),
                None => Reply::Locked,
            })
            .collect())
    }
}
