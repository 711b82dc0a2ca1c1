//! The contract of a store, on SQLite: each write reads the record, calls the machine, and writes the result.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rusqlite::params;

use super::Store;
use super::db::Db;
use super::error::Fault;
use super::rows::{self, Damaged, StoredRow};
use super::sweep;
use keylatch_core::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch_core::store::{
    Applied, At, Count, Cursor, Durability, Error, Inspect, PAGE_RECORDS_MAX, Page, PageRequest, Sweep, Swept,
};
use keylatch_core::{Lease, Record, RecordId, Scope, Timestamp};

impl keylatch_core::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        let id = claim.id();
        Box::pin(self.0.writer.call(move |db| claim_record(db, id, &claim)))
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            change(db, lease.id, |record, now| {
                machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
            })
        }))
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            change(db, lease.id, |record, now| {
                machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
            })
        }))
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(
            self.0
                .writer
                .call(move |db| change(db, lease.id, |record, now| machine::release(record, &lease, end, now))),
        )
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(
            self.0
                .writer
                .call(move |db| change(db, lease.id, |record, now| machine::resolve(record, &lease, &resolution, now))),
        )
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.0.writer.call(move |db| change(db, lease.id, |record, now| machine::forget(record, &lease, now))))
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(self.0.reader.call(move |db| {
            let found = db.find(id)?;
            Ok(At { value: found.map(|found| found.record), now: db.now() })
        }))
    }

    fn durability(&self) -> Durability {
        Durability::Disk
    }

    fn clock_uncertainty(&self) -> Duration {
        Duration::ZERO
    }
}

impl Sweep for Store {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(sweep::sweep(&self.0.writer, limit))
    }
}

impl Inspect for Store {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(Cursor::id).transpose()?;
            self.0.querier.call(move |db| list(db, page.scope.as_ref(), after, page.limit)).await
        })
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let after = after.as_ref().map(Cursor::id).transpose()?;
            let lapsed = move |db: &mut Db| {
                let now = db.now();
                let after = after.as_ref().map_or(&[][..], |after| after.as_bytes());
                let params = params![after, now.as_millis(), limit_of(limit)];
                Ok(At { value: page(db, include_str!("sql/lapsed.sql"), params, limit)?, now })
            };
            self.0.querier.call(lapsed).await
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(self.0.querier.call(move |db| {
            let (low, high) = RecordId::range(&scope);
            let rows_max = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = db.prepare(include_str!("sql/count.sql"))?;
            let count =
                statement.query_row(params![low.as_bytes(), high.as_bytes(), rows_max], |row| row.get::<_, i64>(0));
            Ok(Count::up_to(db.done(count)?.unsigned_abs(), limit))
        }))
    }
}

fn claim_record(db: &Db, id: RecordId, claim: &Claim) -> Result<At<Claimed>, Fault> {
    let found = db.find_claimed(id, claim)?;
    let now = db.now();
    let rowid = found.as_ref().map(|found| found.rowid);
    let value = match found {
        Some(StoredRow { record, .. }) => {
            let claimed = machine::claim(Some(record.clone()), claim, now);
            match &claimed {
                // Sent again after a lost reply, it is granted again, and nothing changes.
                Claimed::Won(won) if *won != record => db.put(id, rowid, won)?,
                _ => {}
            }
            claimed
        }
        None => {
            let claimed = machine::claim(None, claim, now);
            if let Claimed::Won(record) = &claimed {
                db.put(id, rowid, record)?;
            }
            claimed
        }
    };
    Ok(At { value, now })
}

/// Applies the change that `decide` returns for the record, if there is one.
fn change(db: &Db, id: RecordId, decide: impl FnOnce(&Record, Timestamp) -> Change) -> Result<Applied, Fault> {
    let Some(StoredRow { rowid, record }) = db.find(id)? else { return Ok(Applied::Lost) };
    let now = db.now();
    match decide(&record, now) {
        Change::None => return Ok(Applied::Lost),
        // A completion that is sent again finds its own outcome.
        Change::Write(next) if next == record => {}
        Change::Write(next) => db.put(id, Some(rowid), &next)?,
        Change::Remove => db.delete(rowid)?,
    }
    Ok(Applied::Applied(now))
}

fn list(db: &Db, scope: Option<&Scope>, after: Option<RecordId>, limit: usize) -> Result<At<Page>, Fault> {
    let range = scope.map(RecordId::range);
    // Half of an identity comes before every whole one that begins with it, and nothing before everything.
    let first = range.as_ref().map_or(&[][..], |(low, _)| &low.as_bytes()[..16]);
    let after = after.as_ref().map_or(first, |after| first.max(after.as_bytes()));
    let last = range.map_or([0xff; 32], |(_, high)| *high.as_bytes());
    let now = db.now();
    let value = page(db, include_str!("sql/list.sql"), params![after, last, limit_of(limit)], limit)?;
    Ok(At { value, now })
}

/// A page of records, all of which can be read.
fn page(db: &Db, sql: &str, params: impl rusqlite::Params, limit: usize) -> Result<Page, Fault> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map(params, |row| Ok(rows::decode(row)));
    let found: Vec<_> = db.done(rows.and_then(Iterator::collect))?;
    let records = found.into_iter().map(|found| Ok(found?.record)).collect::<Result<_, Damaged>>();
    Ok(Page::by_id(records.map_err(|damaged| Fault::Job(damaged.into()))?, limit))
}

fn limit_of(page: usize) -> i64 {
    i64::try_from(page.min(PAGE_RECORDS_MAX)).expect("a page is small")
}
