//! What became of a commit whose reply was lost.

use std::time::{Duration, Instant};

use super::Shared;
use super::batch::Lane;
use super::error::Fault;
use super::look::LookJob;
use keylatch_core::Record;
use keylatch_core::machine::{self, Phase};
use keylatch_core::store::{At, ErrorKind};
use keylatch_core::tx::Transacted;

/// The pauses between looks at a transaction that has not ended yet: at first, and at the most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// What is there now.
enum There {
    Committed(Record),
    /// It has not ended yet, or another has begun since.
    Running,
    /// It has ended. Its record was not there before that; this one may have been.
    Ended(Option<Record>),
}

impl Shared {
    /// Looks for the `record` that was being committed when the reply was lost with `fault`.
    ///
    /// That there is no record does not say that there will be none: the server may still be at it. But until the
    /// transaction ends it has the key, and its record can be seen before it lets go of the key.
    pub(super) async fn settle(
        &self,
        looks: &Lane<LookJob>,
        record: &Record,
        fault: Fault,
    ) -> Result<At<Transacted>, Fault> {
        let started = Instant::now();
        let mut pause = PAUSE.0;
        let mut ended = false;
        while started.elapsed() < self.options.statement_max {
            match self.there(looks, record).await {
                Ok(At { value: There::Committed(record), now }) => {
                    return Ok(At { value: Transacted::Committed(record), now });
                }
                // It may have been committed between the look at the record and that at the lock.
                Ok(At { value: There::Ended(_), .. }) if !ended => {
                    ended = true;
                    continue;
                }
                Ok(At { value: There::Ended(Some(record)), now }) => {
                    return Ok(At { value: Transacted::Held(record), now });
                }
                Ok(At { value: There::Ended(None), .. }) => return Err(fault.with_kind(ErrorKind::Unavailable)),
                Ok(At { value: There::Running, .. }) => {}
                Err(error) if error.kind == ErrorKind::Unavailable => {}
                Err(error) => return Err(error.with_kind(ErrorKind::NotKnown)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        Err(fault)
    }

    async fn there(&self, looks: &Lane<LookJob>, ours: &Record) -> Result<At<There>, Fault> {
        let found = looks.call(LookJob::new(ours.id())).await?;
        let (now, record) = (found.now, found.record()?);
        self.answerable(record.as_ref()).await?;
        let value = match record {
            Some(record) if record.owner == ours.owner => There::Committed(record),
            _ if found.flag != 0 => There::Running,
            record => There::Ended(record.filter(|record| machine::phase(Some(record), now) != Phase::Free)),
        };
        Ok(At { value, now })
    }
}
