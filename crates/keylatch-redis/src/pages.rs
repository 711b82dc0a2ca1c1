//! Calls that cover many records: pages, counts, sweeps.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::future::try_join_all;
use redis::{Cmd, FromRedisValue, Value, cmd};

use super::Store;
use super::error::Failed;
use super::keys::BUCKETS;
use super::marks::{Marks, time_of};
use super::ops::Target;
use super::script;
use super::value::StoredValue;
use keylatch_core::machine::{self, Change};
use keylatch_core::store::{At, Count, Cursor, Error, ErrorKind, PAGE_RECORDS_MAX, Page, PageRequest, Swept};
use keylatch_core::{Record, RecordId, Scope, State, Timestamp};

/// How many records are requested at once.
const BATCH: usize = 256;
/// How many identities of running records a sweep checks at most; the next sweep continues from there. There can be
/// many whose outcome is unknown, and these are never removed.
const TIDIED_MAX: usize = 10_000;

impl Store {
    /// There is no index of all records: the server goes through its keys, and the lowest identities that belong to the
    /// page are kept.
    pub(super) async fn list_records(&self, page: PageRequest) -> Result<At<Page>, Error> {
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        let mut after = page.after.as_ref().map(Cursor::id).transpose()?;
        let now = self.server_now().await?;
        if limit == 0 {
            return Ok(At { value: Page::default(), now });
        }
        let range = page.scope.as_ref().map(RecordId::range);
        let mut records: Vec<Record> = Vec::new();
        // If records are removed between the two steps, later ones take their places.
        while records.len() < limit {
            let wanted = limit - records.len();
            let mut ids = BTreeSet::new();
            let mut found = |key: Vec<u8>| {
                let Some(id) = self.0.keys.id_of(&key) else { return };
                let belongs =
                    after.is_none_or(|after| id > after) && range.is_none_or(|(low, high)| low <= id && id <= high);
                if belongs && ids.insert(id) && ids.len() > wanted {
                    ids.pop_last();
                }
            };
            self.0.link.scan(self.0.keys.pattern(), &mut found).await?;
            after = ids.last().copied();
            let ids: Vec<_> = ids.into_iter().collect();
            records.extend(self.records(&ids).await?.into_iter().map(|found| found.record));
            if ids.len() < wanted {
                break;
            }
        }
        Ok(At { value: Page::by_id(records, limit), now })
    }

    /// Checks all running records, and removes from the set those that no longer run.
    pub(super) async fn lapsed_records(&self, after: Option<Cursor>, limit: usize) -> Result<At<Page>, Error> {
        let after = after.as_ref().map(Cursor::id).transpose()?;
        let limit = limit.min(PAGE_RECORDS_MAX);
        let now = self.server_now().await?;
        let members = (0..BUCKETS).map(|bucket| async move {
            let ids = ids_of(self.0.link.ask(cmd("SMEMBERS").arg(self.0.keys.running(bucket))).await?)?;
            Ok::<_, Failed>(ids.into_iter().map(move |id| (id, bucket)))
        });
        let mut ids: Vec<_> = try_join_all(members).await?.into_iter().flatten().collect();
        ids.retain(|(id, _)| after.is_none_or(|after| *id > after));
        ids.sort_unstable();
        let mut records: Vec<Record> = Vec::new();
        for members in ids.chunks(BATCH) {
            let mut ids: Vec<_> = members.iter().map(|(id, _)| *id).collect();
            // After a server was moved into a Cluster, one can stand in two.
            ids.dedup();
            ids.retain(|id| records.last().is_none_or(|last| *id > last.id()));
            let found = self.records(&ids).await?;
            let runs = |id: &RecordId| {
                found
                    .iter()
                    .any(|found| found.record.id() == *id && matches!(found.record.state, State::Running { .. }))
            };
            self.tidy(members.iter().filter(|(id, _)| !runs(id)).copied()).await?;
            let lapsed = |found: &StoredValue| match found.record.state {
                State::Running { lease_ends_at, .. } => lease_ends_at <= now,
                State::Completed { .. } => false,
            };
            records.extend(found.into_iter().filter(lapsed).map(|found| found.record).take(limit - records.len()));
            if records.len() == limit {
                break;
            }
        }
        Ok(At { value: Page::by_id(records, limit), now })
    }

    pub(super) async fn count_records(&self, scope: Scope, limit: u64) -> Result<Count, Error> {
        if !self.0.counts_records {
            if !self.0.said_that_nothing_counts.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    limit,
                    "the records of a scope are not counted in Redis, so their limit does not apply; see \
                     Options::with_counts"
                );
            }
            return Ok(Count::AtLeast(0));
        }
        let scope = *scope.digest();
        let counts = self.0.link.buckets().map(|bucket| async move {
            let key = self.0.keys.scope(bucket, scope);
            let told = script::COUNT.call(&self.0.link, &[&key], &[], Marks::NONE, false).await?;
            parse::<u64>(told.value)
        });
        Ok(Count::up_to(try_join_all(counts).await?.into_iter().sum(), limit))
    }

    /// A removed record no longer counts.
    pub(super) async fn uncount(&self, id: RecordId) -> Result<(), Failed> {
        if self.0.counts_records {
            let key = self.0.keys.scope(self.0.link.bucket_of(id), id.scope_digest());
            self.0.link.ask(cmd("ZREM").arg(key).arg(&id.as_bytes()[16..])).await?;
        }
        Ok(())
    }

    /// Removes the long answers that are due, and from the set of running records those that no longer run. Redis
    /// removes records by itself.
    pub(super) async fn sweep_records(&self, limit: usize) -> Result<Swept, Error> {
        let from = self.0.sweep_from.fetch_add(1, Ordering::Relaxed);
        let mut swept = Swept::default();
        self.sweep_running(from, limit, &mut swept).await?;
        let now = self.server_now().await?;
        // Only one or two of them have anything, except on a Cluster.
        let due = self.lengths(|bucket| {
            let mut count = cmd("ZCOUNT");
            count.arg(self.0.keys.due(bucket)).arg("-inf").arg(now.as_millis());
            count
        });
        for bucket in turned(due.await?, from) {
            while swept.total() < limit {
                let batch = BATCH.min(limit - swept.total());
                let mut command = cmd("ZRANGEBYSCORE");
                command.arg(self.0.keys.due(bucket)).arg("-inf").arg(now.as_millis());
                let due = ids_of(self.0.link.ask(command.arg("LIMIT").arg(0).arg(batch)).await?)?;
                if due.is_empty() {
                    break;
                }
                let before = swept.total();
                for one in try_join_all(due.iter().map(|id| self.sweep_due(*id, bucket))).await? {
                    swept += one;
                }
                // Others may be doing the same.
                if swept.total() == before && due.len() < batch {
                    break;
                }
            }
        }
        Ok(swept.within(limit))
    }

    async fn sweep_running(&self, from: usize, limit: usize, swept: &mut Swept) -> Result<(), Error> {
        let running = self.lengths(|bucket| {
            let mut count = cmd("SCARD");
            count.arg(self.0.keys.running(bucket));
            count
        });
        let mut looked_at = 0;
        for bucket in turned(running.await?, from) {
            loop {
                if looked_at >= TIDIED_MAX || swept.total() >= limit {
                    return Ok(());
                }
                let cursor = self.0.tidied[bucket].load(Ordering::Relaxed);
                let mut command = cmd("SSCAN");
                command.arg(self.0.keys.running(bucket)).arg(cursor).arg("COUNT").arg(BATCH);
                let (next, ids): (u64, Value) = parse(self.0.link.ask(&command).await?)?;
                let ids = ids_of(ids)?;
                looked_at += ids.len().max(1);
                if self.is_exact() {
                    for id in ids.iter().take(limit - swept.total()) {
                        *swept += self.sweep_record(*id).await?;
                    }
                }
                self.tidy(ids.into_iter().map(|id| (id, bucket))).await?;
                self.0.tidied[bucket].store(next, Ordering::Relaxed);
                if next == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes from the set of running records those that do not run.
    async fn tidy(&self, members: impl Iterator<Item = (RecordId, usize)>) -> Result<(), Error> {
        let tidied = members.map(|(id, bucket)| async move {
            let (record, running) = (self.0.keys.record(id), self.0.keys.running(bucket));
            let keys = [&*record, running];
            script::TIDY.call(&self.0.link, &keys, &[id.as_bytes().into()], Marks::NONE, false).await
        });
        try_join_all(tidied).await?;
        Ok(())
    }

    /// Does what is due with a record, and removes it from the index of due records.
    async fn sweep_due(&self, id: RecordId, bucket: usize) -> Result<Swept, Error> {
        let swept = match self.sweep_record(id).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(%error, "a record whose answer is to be removed cannot be read; it was left as it is");
                Swept::default()
            }
            swept => swept?,
        };
        let next = if self.is_exact() { Box::pin(self.due_next(id)).await } else { None };
        let mut command = match next {
            Some(at) => {
                let mut add = cmd("ZADD");
                add.arg(self.0.keys.due(bucket)).arg(at.as_millis());
                add
            }
            None => {
                let mut remove = cmd("ZREM");
                remove.arg(self.0.keys.due(bucket));
                remove
            }
        };
        self.0.link.ask(command.arg(id.as_bytes())).await?;
        Ok(swept)
    }

    /// When a record that no server removes is due next.
    async fn due_next(&self, id: RecordId) -> Option<Timestamp> {
        let At { value, now } = Target::new(self, id).read(false).await.ok()?;
        machine::due_at(&value?.record).filter(|at| *at > now)
    }

    /// The machine's result for a record.
    async fn sweep_record(&self, id: RecordId) -> Result<Swept, Error> {
        let target = Target::new(self, id);
        let At { value: Some(found), now } = target.read(false).await? else { return Ok(Swept::default()) };
        let (tombstoned, removed) = match machine::sweep(&found.record, now) {
            Change::None => (false, false),
            Change::Write(next) => (target.replace(&found, &next, now).await?, false),
            Change::Remove => (false, target.remove(&found).await?),
        };
        Ok(Swept { tombstoned: tombstoned.into(), removed: removed.into(), more: false })
    }

    /// What is there of each bucket, as the command of each counts it.
    async fn lengths(&self, command: impl Fn(usize) -> Cmd) -> Result<Vec<u64>, Failed> {
        let lengths = (0..BUCKETS).map(|bucket| {
            let command = command(bucket);
            async move { parse(self.0.link.ask(&command).await?) }
        });
        try_join_all(lengths).await
    }

    /// The records of these identities that still exist.
    async fn records(&self, ids: &[RecordId]) -> Result<Vec<StoredValue>, Error> {
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let read = ids.iter().map(|id| async { Target::new(self, *id).read(false).await });
            records.extend(try_join_all(read).await?.into_iter().filter_map(|at| at.value));
        }
        Ok(records)
    }

    async fn server_now(&self) -> Result<Timestamp, Failed> {
        let asked = Instant::now();
        let now = time_of(&self.0.link.ask(&cmd("TIME")).await?);
        self.saw(RecordId::from_bytes([0; 32]), now, asked).ok_or(Failed::Nonsense)
    }
}

/// The buckets that have something, from `first` on and around.
fn turned(lengths: Vec<u64>, first: usize) -> impl Iterator<Item = usize> {
    (0..BUCKETS).map(move |at| (first + at) % BUCKETS).filter(move |bucket| lengths[*bucket] > 0)
}

fn ids_of(value: Value) -> Result<Vec<RecordId>, Failed> {
    let ids: Vec<Vec<u8>> = parse(value)?;
    ids.into_iter().map(|id| id.try_into().map(RecordId::from_bytes).map_err(|_| Failed::Nonsense)).collect()
}

fn parse<T: FromRedisValue>(value: Value) -> Result<T, Failed> {
    T::from_redis_value(value).map_err(|_| Failed::Nonsense)
}
