//! What goes over many records: pages, counts, sweeps. Each bucket is asked, all at once.

use std::sync::atomic::Ordering;

use futures_util::future::try_join_all;
use redis::{FromRedisValue, Value, cmd};

use super::Store;
use super::error::Failed;
use super::keys::{BUCKETS, Index};
use super::ops::Target;
use super::script::{self, Arg};
use super::value;
use crate::store::{At, Error, PAGE_RECORDS_MAX, PageRequest, Swept};
use crate::{Record, RecordId, Scope, State, Timestamp};

/// How many records a sweep takes on at once.
const SWEEP_BATCH: usize = 256;

impl Store {
    /// The lowest `limit` identities of every bucket are fetched, and then those records that belong to the page.
    pub(super) async fn list_records(&self, page: PageRequest) -> Result<At<Vec<Record>>, Error> {
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        let now = self.now().await?;
        let range = page.scope.as_ref().map(RecordId::range);
        let high = range.map(|(_, high)| high);
        let mut from = match (page.after, range) {
            (Some(after), Some((low, _))) if after < low => Bound::From(low),
            (Some(after), _) => Bound::After(after),
            (None, Some((low, _))) => Bound::From(low),
            (None, None) => Bound::Lowest,
        };
        let mut records: Vec<Record> = Vec::new();
        // Records that go between the two steps make room for later ones.
        while records.len() < limit {
            let ids = self.ids(from, high, limit - records.len()).await?;
            let Some(last) = ids.last() else { break };
            from = Bound::After(*last);
            records.extend(self.records(&ids).await?);
        }
        Ok(At { value: records, now })
    }

    /// All identities of lapsed runs are fetched (there are few), and then those records that belong to the page.
    pub(super) async fn lapsed_records(&self, after: Option<RecordId>, limit: usize) -> Result<At<Vec<Record>>, Error> {
        let limit = limit.min(PAGE_RECORDS_MAX);
        let now = self.now().await?;
        let mut ids = self.reached(0, Index::Leases, -1).await?;
        ids.retain(|id| after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        let lapsed = |record: &Record| match record.state {
            State::Running { lease_ends_at, .. } => lease_ends_at <= now,
            State::Completed { .. } => false,
        };
        let mut records: Vec<Record> = Vec::new();
        let mut ids = ids.as_slice();
        while records.len() < limit && !ids.is_empty() {
            let (next, rest) = ids.split_at(ids.len().min(limit - records.len()));
            records.extend(self.records(next).await?.into_iter().filter(lapsed));
            ids = rest;
        }
        Ok(At { value: records, now })
    }

    pub(super) async fn count_records(&self, scope: Scope, limit: u64) -> Result<u64, Error> {
        let (low, high) = RecordId::range(&scope);
        let (low, high) = (Bound::From(low).as_low(), up_to(Some(high)));
        let counts = (0..BUCKETS).map(|bucket| {
            let mut command = cmd("ZLEXCOUNT");
            command.arg(self.0.keys.index(bucket, Index::Ids)).arg(&*low).arg(&*high);
            async move { parse::<u64>(self.0.link.read(&command).await?) }
        });
        Ok(try_join_all(counts).await?.into_iter().sum::<u64>().min(limit))
    }

    /// Sweeps what is due, and those of the lapsed runs (there are few) whose key is free for anyone.
    pub(super) async fn sweep_records(&self, limit: usize) -> Result<Swept, Error> {
        let from = self.0.sweep_from.fetch_add(1, Ordering::Relaxed);
        let mut swept = Swept::default();
        let mut lapsed = self.reached(from, Index::Leases, -1).await?.into_iter();
        while swept.total() < limit && lapsed.len() > 0 {
            swept += self.sweep_batch(lapsed.by_ref().take(SWEEP_BATCH.min(limit - swept.total()))).await?;
        }
        while swept.total() < limit {
            let batch = SWEEP_BATCH.min(limit - swept.total());
            let count = i64::try_from(batch).expect("a batch is small");
            let due = self.reached(from, Index::Due, count).await?;
            let done = self.sweep_batch(due.into_iter().take(batch)).await?;
            if done.total() == 0 {
                break;
            }
            swept += done;
        }
        Ok(swept.within(limit))
    }

    async fn sweep_batch(&self, ids: impl Iterator<Item = RecordId>) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        for one in try_join_all(ids.map(|id| self.sweep_record(id))).await? {
            swept += one;
        }
        Ok(swept)
    }

    async fn sweep_record(&self, id: RecordId) -> Result<Swept, Error> {
        match Target::new(self, id).run(&script::SWEEP, &[]).await?.done {
            1 => Ok(Swept { buried: 1, removed: 0, more: false }),
            2 => Ok(Swept { buried: 0, removed: 1, more: false }),
            3 => {
                tracing::error!(%id, "a record that is due to be removed cannot be read, and was left");
                Ok(Swept::default())
            }
            // Someone else was there before.
            _ => Ok(Swept::default()),
        }
    }

    /// The lowest `limit` identities from `from` to `high`.
    async fn ids(&self, from: Bound, high: Option<RecordId>, limit: usize) -> Result<Vec<RecordId>, Failed> {
        let (low, high) = (from.as_low(), up_to(high));
        let buckets = (0..BUCKETS).map(|bucket| {
            let mut command = cmd("ZRANGEBYLEX");
            command.arg(self.0.keys.index(bucket, Index::Ids)).arg(&*low).arg(&*high);
            command.arg("LIMIT").arg(0).arg(limit);
            async move { ids_of(self.0.link.read(&command).await?) }
        });
        let mut ids: Vec<_> = try_join_all(buckets).await?.into_iter().flatten().collect();
        ids.sort_unstable();
        ids.truncate(limit);
        Ok(ids)
    }

    /// Of every bucket, from `first` on and around, the first `count` identities, all for -1, whose instant in an index has
    /// been reached.
    async fn reached(&self, first: usize, index: Index, count: i64) -> Result<Vec<RecordId>, Failed> {
        let args = [self.now_arg(), Arg::Number(count)];
        let buckets = (0..BUCKETS).map(|at| async move {
            let key = self.0.keys.index((first + at) % BUCKETS, index);
            match script::DUE.call(&self.0.link, &[key], &args).await? {
                Value::Array(mut both) if both.len() == 2 => ids_of(both.pop().unwrap_or(Value::Nil)),
                _ => Err(Failed::Nonsense),
            }
        });
        Ok(try_join_all(buckets).await?.into_iter().flatten().collect())
    }

    /// The records of these identities, as far as they are still there.
    async fn records(&self, ids: &[RecordId]) -> Result<Vec<Record>, Error> {
        let records = ids.iter().map(|id| async {
            let bytes: Option<Vec<u8>> = parse(self.0.link.read(cmd("GET").arg(self.0.keys.record(*id))).await?)?;
            Ok::<_, Error>(bytes.map(|bytes| value::decode(*id, &bytes)).transpose()?.map(|found| found.record))
        });
        Ok(try_join_all(records).await?.into_iter().flatten().collect())
    }

    async fn now(&self) -> Result<Timestamp, Failed> {
        let key = self.0.keys.index(0, Index::Ids);
        match script::DUE.call(&self.0.link, &[key], &[self.now_arg(), Arg::Number(0)]).await? {
            Value::Array(both) => match both.first() {
                Some(Value::Int(now)) => Ok(Timestamp::from_millis(*now)),
                _ => Err(Failed::Nonsense),
            },
            _ => Err(Failed::Nonsense),
        }
    }
}

/// Where a page begins.
#[derive(Debug, Clone, Copy)]
enum Bound {
    Lowest,
    From(RecordId),
    After(RecordId),
}

impl Bound {
    /// As `ZRANGEBYLEX` takes it.
    fn as_low(self) -> Vec<u8> {
        match self {
            Self::Lowest => b"-".to_vec(),
            Self::From(id) => [b"[", id.as_bytes().as_slice()].concat(),
            Self::After(id) => [b"(", id.as_bytes().as_slice()].concat(),
        }
    }
}

fn up_to(high: Option<RecordId>) -> Vec<u8> {
    high.map_or_else(|| b"+".to_vec(), |high| [b"[", high.as_bytes().as_slice()].concat())
}

fn ids_of(value: Value) -> Result<Vec<RecordId>, Failed> {
    let ids: Vec<Vec<u8>> = parse(value)?;
    ids.into_iter().map(|id| id.try_into().map(RecordId::from_bytes).map_err(|_| Failed::Nonsense)).collect()
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, Failed> {
    T::from_redis_value(value).map_err(|_| Failed::Nonsense)
}
