//! The contract of a store, on PostgreSQL.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::claim::ClaimJob;
use super::complete::CompleteJob;
use super::error::{Fault, Sent};
use super::rows::{ReplyRow, damaged, get};
use super::{Replay, Shared, Store, packed, span_ms};
use keylatch_core::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch_core::store::{
    Applied, At, Count, Cursor, Durability, Error, Inspect, PAGE_RECORDS_MAX, Page, PageRequest, Sweep, Swept,
};
use keylatch_core::{Lease, Record, RecordId, Scope};

/// How many records a sweep changes in one transaction: few enough that nobody has to wait for it.
const SWEEP_RECORDS_MAX: usize = 1_000;

impl keylatch_core::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            let claimed = self.claims.call(ClaimJob::new(claim)).await?;
            if let Claimed::Held(record) = &claimed.value {
                self.shared.answerable(Some(record)).await?;
            }
            Ok(claimed)
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let query = || {
                shared
                    .query(&shared.statements.renew)
                    .bind(lease.id.as_bytes().as_slice())
                    .bind(lease.epoch.as_u64().cast_signed())
                    .bind(lease.owner.as_bytes().as_slice())
                    .bind(span_ms(terms.lease))
                    .bind(terms.takeover.map(span_ms))
                    .bind(terms.free.map(span_ms))
                    .bind(step.as_ref().map(|(name, _)| name.as_bytes()))
                    .bind(step.as_ref().map(|(_, result)| &result[..]))
            };
            Ok(shared.write(query).await?)
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        let job = CompleteJob {
            lease,
            packed: packed::pack(&completion.outcome, self.shared.options.compress_from_bytes),
            retention_ms: span_ms(completion.retention),
            tombstone_ms: span_ms(completion.tombstone),
        };
        Box::pin(async move {
            let applied = self.completions.call(job).await?;
            self.shared.completed(applied).await
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let (ending, keep) = match end {
                End::Free(keep) => (0i16, keep),
                End::Retry(keep) => (1, keep),
                End::Unknown => (2, Duration::ZERO),
            };
            let query = || {
                shared
                    .query(&shared.statements.release)
                    .bind(lease.id.as_bytes().as_slice())
                    .bind(lease.epoch.as_u64().cast_signed())
                    .bind(lease.owner.as_bytes().as_slice())
                    .bind(ending)
                    .bind(span_ms(keep))
            };
            Ok(shared.write(query).await?)
        })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let (outcome, retention, tombstone) = match &resolution {
                Resolution::Completed(Completion { outcome, retention, tombstone }) => {
                    (Some(packed::pack(outcome, shared.options.compress_from_bytes)), *retention, *tombstone)
                }
                Resolution::NeverHappened(keep) => (None, *keep, Duration::ZERO),
            };
            let query = || {
                shared
                    .query(&shared.statements.resolve)
                    .bind(lease.id.as_bytes().as_slice())
                    .bind(lease.epoch.as_u64().cast_signed())
                    .bind(lease.owner.as_bytes().as_slice())
                    .bind(outcome.as_deref())
                    .bind(span_ms(retention))
                    .bind(span_ms(tombstone))
            };
            shared.completed(shared.write(query).await?).await
        })
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let query = || {
                shared
                    .query(&shared.statements.forget)
                    .bind(lease.id.as_bytes().as_slice())
                    .bind(lease.epoch.as_u64().cast_signed())
                    .bind(lease.owner.as_bytes().as_slice())
            };
            Ok(shared.write(query).await?)
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move { Ok(self.shared.read(id).await?) })
    }

    fn durability(&self) -> Durability {
        self.shared.durability
    }

    fn clock_uncertainty(&self) -> Duration {
        Duration::ZERO
    }
}

impl Sweep for Store {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(async move {
            let mut swept = Swept::default();
            loop {
                let batch = (limit - swept.total()).min(SWEEP_RECORDS_MAX);
                let (more, nothing_left) = self.shared.sweep(batch).await?;
                swept.tombstoned += more.tombstoned;
                swept.removed += more.removed;
                if nothing_left || swept.total() >= limit {
                    return Ok(swept.within(limit));
                }
            }
        })
    }
}

impl Inspect for Store {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let after = page.after.as_ref().map(Cursor::id).transpose()?;
            let (low, high) = page.scope.as_ref().map_or((LOWEST, HIGHEST), RecordId::range);
            let query = || {
                shared
                    .query(&shared.statements.list)
                    .bind(low.as_bytes().as_slice())
                    .bind(high.as_bytes().as_slice())
                    .bind(after_bytes(after.as_ref()))
                    .bind(limit_of(page.limit))
            };
            Ok(self::page(shared.links.rows(Sent::Harmless, query).await?, page.limit)?)
        })
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let after = after.as_ref().map(Cursor::id).transpose()?;
            let query =
                || shared.query(&shared.statements.lapsed).bind(after_bytes(after.as_ref())).bind(limit_of(limit));
            Ok(page(shared.links.rows(Sent::Harmless, query).await?, limit)?)
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let (low, high) = RecordId::range(&scope);
            let query = || {
                shared
                    .query(&shared.statements.count)
                    .bind(low.as_bytes().as_slice())
                    .bind(high.as_bytes().as_slice())
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            };
            let rows = shared.links.rows(Sent::Harmless, query).await?;
            let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
            Ok(Count::up_to(get::<i64>(row, "records")?.cast_unsigned(), limit))
        })
    }
}

impl Shared {
    /// Called after an outcome was written: if standbys must have it before it is given, waits until they do.
    async fn completed(&self, applied: Applied) -> Result<Applied, Error> {
        if let Applied::Applied(_) = applied
            && self.options.replay == Replay::Synced
        {
            self.kept(&mut self.links.link().await?).await?;
        }
        Ok(applied)
    }

    pub(super) async fn read(&self, id: RecordId) -> Result<At<Option<Record>>, Fault> {
        let query = || self.query(&self.statements.read).bind(id.as_bytes().as_slice());
        let At { value, now } = records(self.links.rows(Sent::Harmless, query).await?)?;
        let value = value.into_iter().next();
        self.answerable(value.as_ref()).await?;
        Ok(At { value, now })
    }

    /// Continues sweeping where the last sweep ended; returns whether nothing is left.
    async fn sweep(&self, limit: usize) -> Result<(Swept, bool), Fault> {
        let started = Instant::now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let from = *self.swept_to.lock();
        let now: i64 = scalar(&self.links.rows(Sent::Harmless, || self.query(&self.statements.clock)).await?)?;
        let query = || self.query(&self.statements.sweep).bind(limit).bind(from.unwrap_or(i64::MIN)).bind(now);
        let rows = self.links.rows(Sent::Perhaps, query).await?;
        let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
        let count = |column| Ok::<_, Fault>(usize::try_from(get::<i64>(row, column)?).unwrap_or(0));
        let swept = Swept { tombstoned: count("tombstoned")?, removed: count("removed")?, more: false };
        self.sweeps.record(swept.total(), started);
        // At the end the next sweep starts again, with records that were skipped because another transaction had locked
        // them.
        let at_end = i64::try_from(swept.total()).is_ok_and(|total| total < limit);
        *self.swept_to.lock() = if at_end { None } else { get(row, "reached")? };
        Ok((swept, at_end && from.is_none()))
    }
}

/// The lowest and the highest possible identity.
const LOWEST: RecordId = RecordId::from_bytes([0; 32]);
const HIGHEST: RecordId = RecordId::from_bytes([0xff; 32]);

/// The identity after which a page starts; without one, what is before every identity.
fn after_bytes(after: Option<&RecordId>) -> &[u8] {
    after.map_or(&[], |after| after.as_bytes())
}

pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_RECORDS_MAX)).expect("a page is short")
}

/// The records that were read. If there are none, there is one row without a record.
fn records(rows: Vec<PgRow>) -> Result<At<Vec<Record>>, Fault> {
    let found: Vec<_> = rows.into_iter().map(ReplyRow::read).collect::<Result<_, _>>()?;
    let now = found.first().ok_or_else(|| damaged("a row is missing"))?.now;
    let value = found.iter().filter_map(|found| found.record().transpose()).collect::<Result<_, _>>()?;
    Ok(At { value, now })
}

/// The same as a page.
fn page(rows: Vec<PgRow>, limit: usize) -> Result<At<Page>, Fault> {
    let At { value, now } = records(rows)?;
    Ok(At { value: Page::by_id(value, limit), now })
}

/// The one column of the one row.
pub(super) fn scalar<'r, T>(rows: &'r [PgRow]) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
    row.try_get(0).map_err(|_| damaged("a result has an unexpected type"))
}
