//! Looks before attempts in a transaction, in batches. A replay needs only a look, and takes no connection of its own.

use super::Shared;
use super::batch::{Job, Reply, Waiting};
use super::error::{Fault, Sent};
use super::link::Link;
use super::rows::{ReplyRow, damaged};
use keylatch_core::RecordId;

/// A look that waits for a batch.
#[derive(Debug)]
pub(super) struct LookJob {
    id: RecordId,
}

impl LookJob {
    pub(super) const fn new(id: RecordId) -> Self {
        Self { id }
    }
}

impl Job for LookJob {
    type Done = ReplyRow;
    const OPERATION: &'static str = "look";
    /// More would not make it much cheaper, and the first would wait for the last.
    const RECORDS_MAX: usize = 32;

    fn id(&self) -> RecordId {
        self.id
    }

    fn size(&self) -> usize {
        0
    }

    async fn run(jobs: &[Waiting<Self>], shared: &Shared, link: &mut Link) -> Result<Vec<Reply<ReplyRow>>, Fault> {
        let jobs = || jobs.iter().map(|waiting| &waiting.job);
        let query = || {
            shared
                .query(&shared.statements.look)
                .bind(jobs().map(|job| job.id.as_bytes().as_slice()).collect::<Vec<_>>())
                .bind(jobs().map(|job| shared.key_locks.of_key(&job.id)).collect::<Vec<_>>())
        };
        let rows = shared.links.rows_on(link, Sent::Harmless, query).await?;
        if rows.len() != jobs().count() {
            return Err(damaged("a look has no reply"));
        }
        Ok(rows.into_iter().map(|row| Reply::Done(ReplyRow::new(row))).collect())
    }
}
