//! Cleaning up.

use std::time::{Duration, Instant};

use keylatch::store::Swept;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Error, Operator, records};
use crate::audit::{Actor, Asked, Before};

/// Records in one batch. Requests run between two batches.
const BATCH_RECORDS: usize = 1_000;
/// How long one call cleans, so that it ends before its caller gives up.
pub const SWEEP_MAX: Duration = Duration::from_secs(10);

/// Asks to remove expired records.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepRequest {
    /// Why; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// What a clean-up did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SweepAnswer {
    /// Records that were removed.
    pub removed: u64,
    /// Records that lost their answer and stay as tombstones for a while.
    pub tombstoned: u64,
    /// Whether nothing is left to clean; if not, ask again.
    pub complete: bool,
}

impl Operator {
    /// Removes expired records, and the answers of those that stay as tombstones, in batches, until nothing is left or
    /// [`SWEEP_MAX`] is over. After each batch, `progress` gets what was done so far.
    ///
    /// # Errors
    ///
    /// If the audit file cannot be written, or the store fails.
    pub async fn sweep(
        &self,
        who: &Actor,
        request: SweepRequest,
        mut progress: impl FnMut(SweepAnswer),
    ) -> Result<SweepAnswer, Error> {
        if !request.reason.is_empty() {
            records::check_reason(&request.reason)?;
        }
        let asked = Asked { action: "sweep", target: Vec::new(), reason: request.reason, before: Before::default() };
        let work = async {
            let started = Instant::now();
            let mut answer = SweepAnswer::default();
            while !answer.complete && started.elapsed() < SWEEP_MAX {
                let Swept { tombstoned, removed, more } = match &self.engine {
                    // It counts what it has removed.
                    Some(engine) => engine.sweep(BATCH_RECORDS).await.map_err(Error::of_engine)?,
                    None => self.store.sweep(BATCH_RECORDS).await?,
                };
                answer.tombstoned += tombstoned as u64;
                answer.removed += removed as u64;
                answer.complete = !more;
                progress(answer);
            }
            Ok(answer)
        };
        self.audited(who, asked, work, |SweepAnswer { removed, tombstoned, complete }| {
            format!("removed {removed}, tombstoned {tombstoned}, complete: {complete}")
        })
        .await
    }
}
