//! Calls that cover many records: pages, counts, sweeps.

use std::collections::{HashSet, VecDeque};

use futures_util::future::try_join_all;
use parking_lot::Mutex;

use super::Store;
use super::error::Failed;
use super::index::{RUNNING_BUCKETS, SCOPE_BUCKETS, key_half, running_bucket, scope_bucket};
use super::scan::{Row, Scan};
use super::value::{self, Columns, Damaged, Found};
use keylatch_core::machine::{self, Change};
use keylatch_core::store::{Applied, At, Count, Cursor, Error, ErrorKind, PAGE_RECORDS_MAX, Page, PageRequest, Swept};
use keylatch_core::{Record, RecordId, Scope, State, Timestamp};

/// How many entries are read at once.
const BATCH: i32 = 128;
/// How many records are read at the same time.
const READS_AT_ONCE: usize = 16;
/// How many partitions are read from at the same time.
const BUCKETS_AT_ONCE: i32 = 16;
/// How many entries or rows one call looks at, at most. A page ends there, and the next one goes on.
const LOOKED_AT_MAX: usize = 10_000;

/// An entry of a claim that may be running: identity, owner, and when it was written, in microseconds.
type RunningEntry = (Vec<u8>, Vec<u8>, Option<i64>);
/// The same, read.
type Entry = (RecordId, Vec<u8>, i64);
/// A record that was looked at, if there is one.
type Looked = Result<Option<Found>, Damaged>;

/// A way through the claims that may be running, in the order of their entries.
struct Walk {
    /// The last that was looked at.
    after: Option<RecordId>,
    /// Whether the first partition is read from there on.
    resumes: bool,
    /// The first partition that was not read from.
    bucket: i32,
    /// What was read, and not looked at.
    ahead: VecDeque<Vec<Entry>>,
    looked_at: usize,
    /// Whether a record that cannot be read is passed over, and not an error. Its entry stays.
    passes_damaged: bool,
}

impl Walk {
    fn after(after: Option<RecordId>) -> Self {
        let bucket = after.map_or(0, running_bucket);
        Self { after, resumes: after.is_some(), bucket, ahead: VecDeque::new(), looked_at: 0, passes_damaged: false }
    }
}

/// The cursor after a token.
fn cursor(token: i64) -> Cursor {
    Cursor::new(token.to_be_bytes()).expect("eight bytes are short")
}

fn token(cursor: &Cursor) -> Result<i64, Error> {
    let bytes = cursor.as_bytes().try_into().map(i64::from_be_bytes);
    bytes.map_err(|_| Error::new(ErrorKind::Refused, "the cursor is not one of a list of all records of this store"))
}

impl Store {
    pub(super) async fn list_records(&self, page: PageRequest) -> Result<At<Page>, Error> {
        let limit = page.limit.min(PAGE_RECORDS_MAX);
        let now = self.now().await?;
        if limit == 0 {
            return Ok(At { value: Page::default(), now });
        }
        let after = page.after.as_ref();
        let value = match &page.scope {
            Some(scope) => self.page_of_scope(scope, after.map(Cursor::id).transpose()?, limit, now).await?,
            None => self.page_of_all(after.map(token).transpose()?, limit, now).await?,
        };
        Ok(At { value, now })
    }

    /// In the order of the rows in the table. Cursors are tokens.
    async fn page_of_all(&self, after: Option<i64>, limit: usize, now: Timestamp) -> Result<Page, Error> {
        let (mut scan, mut records, mut looked_at) = (Scan::of(self, after), Vec::new(), 0);
        while let Some(rows) = scan.next().await? {
            looked_at += rows.len();
            for Row { token, key, columns } in rows {
                // Another store's, if it is in the same keyspace.
                let Some(id) = self.0.names.id_of(&key) else { continue };
                let found = value::decode(id, columns, now)?;
                records.extend(found.map(|found| found.record));
                if records.len() == limit {
                    return Ok(Page { records, next: Some(cursor(token)) });
                }
            }
            if looked_at >= LOOKED_AT_MAX {
                return Ok(Page { records, next: Some(cursor(scan.is_at())) });
            }
        }
        Ok(Page { records, next: None })
    }

    /// In the order of the entries.
    async fn page_of_scope(
        &self,
        scope: &Scope,
        after: Option<RecordId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Page, Error> {
        let mut records: Vec<Record> = Vec::new();
        let mut looked_at = 0;
        let mut after = after.map(key_half);
        for bucket in after.map_or(0, |after| scope_bucket(&after))..SCOPE_BUCKETS {
            loop {
                let entries =
                    self.scope_entries(scope, bucket, after.take().as_ref().map(<[u8; 16]>::as_slice)).await?;
                let is_last = entries.len() < BATCH as usize;
                looked_at += entries.len();
                let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
                for (found, (id, written)) in self.look_at(&ids, now).await?.into_iter().zip(&entries) {
                    match found? {
                        Some(found) if records.len() < limit => records.push(found.record),
                        Some(_) => {}
                        None => self.clean_scope(*id, *written, now).await,
                    }
                }
                if records.len() >= limit {
                    return Ok(Page::by_id(records, limit));
                }
                if is_last {
                    break;
                }
                let last = ids[ids.len() - 1];
                if looked_at >= LOOKED_AT_MAX {
                    return Ok(Page { records, next: Some(Cursor::after(last)) });
                }
                after = Some(key_half(last));
            }
        }
        Ok(Page { records, next: None })
    }

    /// The entries of a scope in one partition, each with when it was written, in microseconds.
    async fn scope_entries(
        &self,
        scope: &Scope,
        bucket: i32,
        after: Option<&[u8]>,
    ) -> Result<Vec<(RecordId, i64)>, Failed> {
        let link = &self.0.link;
        let values = (self.0.names.scope(scope.digest()), bucket, after.unwrap_or_default(), BATCH);
        let entries: Vec<(Vec<u8>, Option<i64>)> = link.rows(&link.list_scope, values).await?;
        let identity = |(key, written): (Vec<u8>, Option<i64>)| {
            let id = [scope.digest().as_slice(), &key].concat().try_into();
            let id = id.map_err(|_| Failed::Nonsense("an entry of a scope that names no record"))?;
            Ok((RecordId::from_bytes(id), written.unwrap_or(i64::MAX)))
        };
        entries.into_iter().map(identity).collect()
    }

    pub(super) async fn lapsed_records(&self, after: Option<Cursor>, limit: usize) -> Result<At<Page>, Error> {
        let after = after.as_ref().map(Cursor::id).transpose()?;
        let limit = limit.min(PAGE_RECORDS_MAX);
        let now = self.now().await?;
        let mut page = Page::default();
        if limit == 0 {
            return Ok(At { value: page, now });
        }
        let mut walk = Walk::after(after);
        while let Some(seen) = self.step(&mut walk, now).await? {
            for Found { record, .. } in seen {
                let State::Running { lease_ends_at, .. } = record.state else { continue };
                if lease_ends_at <= now {
                    page.records.push(record);
                }
                if page.records.len() == limit {
                    page.next = page.records.last().map(|last| Cursor::after(last.id()));
                    return Ok(At { value: page, now });
                }
            }
            if walk.looked_at >= LOOKED_AT_MAX {
                page.next = walk.after.map(Cursor::after);
                break;
            }
        }
        Ok(At { value: page, now })
    }

    /// Looks at the next claims that may be running, and returns their records, if any; `None` at the end. Removes old
    /// entries that are wrong.
    async fn step(&self, walk: &mut Walk, now: Timestamp) -> Result<Option<Vec<Found>>, Error> {
        if walk.ahead.is_empty() {
            let buckets = walk.bucket..RUNNING_BUCKETS.min(walk.bucket + BUCKETS_AT_ONCE);
            if buckets.is_empty() {
                return Ok(None);
            }
            let resume = walk.after.filter(|_| std::mem::take(&mut walk.resumes));
            let after = |bucket| resume.filter(|_| bucket == walk.bucket);
            let reads = buckets.clone().map(|bucket| self.running_entries(bucket, after(bucket)));
            walk.ahead.extend(try_join_all(reads.collect::<Vec<_>>()).await?);
            walk.bucket = buckets.end;
        }
        let Some(entries) = walk.ahead.pop_front() else { return Ok(Some(Vec::new())) };
        walk.looked_at += entries.len();
        // A key can have several: of the run, and of those before.
        let mut ids: Vec<_> = entries.iter().map(|(id, ..)| *id).collect();
        ids.dedup();
        let looked = self.look_at(&ids, now).await?;
        for (id, owner, written) in &entries {
            let names_a_run = match ids.binary_search(id).ok().and_then(|at| looked[at].as_ref().ok()) {
                Some(Some(Found { record, .. })) => {
                    matches!(record.state, State::Running { .. }) && record.owner.as_bytes().as_slice() == owner
                }
                Some(None) => false,
                // It cannot be read.
                None => true,
            };
            if !names_a_run {
                self.clean_running(*id, owner, *written, now).await;
            }
        }
        if let Some(last) = ids.last() {
            walk.after = Some(*last);
            if entries.len() == BATCH as usize {
                walk.ahead.push_front(self.running_entries(running_bucket(*last), Some(*last)).await?);
            }
        }
        let mut found = Vec::new();
        for looked in looked {
            match looked {
                Ok(there) => found.extend(there),
                Err(error) if walk.passes_damaged => {
                    tracing::error!(%error, "a record cannot be read; it was left as it is");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(found))
    }

    async fn running_entries(&self, bucket: i32, after: Option<RecordId>) -> Result<Vec<Entry>, Failed> {
        let link = &self.0.link;
        let after = after.map_or(Vec::new(), |after| after.as_bytes().to_vec());
        let values = (self.0.names.space(), bucket, after, BATCH);
        let entries: Vec<RunningEntry> = link.rows(&link.list_running, values).await?;
        let identity = |(id, owner, written): RunningEntry| {
            let id = id.try_into().map_err(|_| Failed::Nonsense("an entry of a run that names no record"))?;
            Ok((RecordId::from_bytes(id), owner, written.unwrap_or(i64::MAX)))
        };
        entries.into_iter().map(identity).collect()
    }

    /// The records with these identities, in their order, as a majority has them.
    async fn look_at(&self, ids: &[RecordId], now: Timestamp) -> Result<Vec<Looked>, Failed> {
        let mut looked = Vec::with_capacity(ids.len());
        for ids in ids.chunks(READS_AT_ONCE) {
            let reads: Vec<_> = ids.iter().map(|id| self.look_at_one(*id)).collect();
            let read = try_join_all(reads).await?;
            looked.extend(ids.iter().zip(read).map(|(id, columns)| value::decode(*id, columns, now)));
        }
        Ok(looked)
    }

    async fn look_at_one(&self, id: RecordId) -> Result<Columns, Failed> {
        let link = &self.0.link;
        Ok(link.rows::<Columns>(&link.look, (self.0.names.row(id),)).await?.pop().unwrap_or_default())
    }

    /// Counts the entries of a scope that have a record: there are at least so many.
    pub(super) async fn count_records(&self, scope: Scope, limit: u64) -> Result<Count, Error> {
        let link = &self.0.link;
        let (mut counted, mut looked_at) = (0, 0);
        for bucket in 0..SCOPE_BUCKETS {
            let mut after = None;
            loop {
                if counted >= limit || looked_at >= LOOKED_AT_MAX {
                    return Ok(Count::AtLeast(counted.min(limit)));
                }
                let entries = self.scope_entries(&scope, bucket, after.as_ref().map(<[u8; 16]>::as_slice)).await?;
                looked_at += entries.len();
                let rows: Vec<_> = entries.iter().map(|(id, _)| self.0.names.row(*id)).collect();
                let there: Vec<(Vec<u8>, Option<i64>)> = link.rows(&link.exist, (rows,)).await?;
                counted += there.iter().filter(|(_, epoch)| epoch.is_some()).count() as u64;
                let Some((last, _)) = entries.last().filter(|_| entries.len() == BATCH as usize) else { break };
                after = Some(key_half(*last));
            }
        }
        Ok(Count::AtLeast(counted.min(limit)))
    }

    /// Completed records end by themselves. What is left are runs that nobody took over until their key became free,
    /// and old entries that name nothing.
    pub(super) async fn sweep_records(&self, limit: usize) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        if limit == 0 {
            return Ok(swept);
        }
        let now = self.now().await?;
        // From where the last sweep ended, and then from the start.
        let from = self.0.swept_to.lock().take();
        let mut to = self.sweep_running(from, limit, now, &mut swept).await?;
        if from.is_some() && to.is_none() {
            to = self.sweep_running(None, limit, now, &mut swept).await?;
        }
        *self.0.swept_to.lock() = to;
        if self.is_exact() {
            self.sweep_all(limit, now, &mut swept).await?;
        }
        Ok(swept.within(limit))
    }

    /// Sweeps the claims that may be running, after this one. If it stops before their end, the last that it looked at.
    async fn sweep_running(
        &self,
        from: Option<RecordId>,
        limit: usize,
        now: Timestamp,
        swept: &mut Swept,
    ) -> Result<Option<RecordId>, Error> {
        let mut walk = Walk { passes_damaged: true, ..Walk::after(from) };
        while let Some(seen) = self.step(&mut walk, now).await? {
            for found in seen {
                if swept.total() < limit && machine::sweep(&found.record, now) != Change::None {
                    *swept += self.sweep_record(found.record.id()).await?;
                }
            }
            if swept.total() >= limit || walk.looked_at >= LOOKED_AT_MAX {
                return Ok(walk.after);
            }
        }
        Ok(None)
    }

    /// The same for a store whose records do not end by themselves.
    async fn sweep_all(&self, limit: usize, now: Timestamp, swept: &mut Swept) -> Result<(), Error> {
        let mut scan = Scan::of(self, None);
        let mut seen = HashSet::new();
        while let Some(rows) = scan.next().await? {
            for Row { key, columns, .. } in rows {
                let Some(id) = self.0.names.id_of(&key) else { continue };
                let Ok(Some(found)) = value::decode(id, columns, now) else { continue };
                if swept.total() < limit && seen.insert(id) && machine::sweep(&found.record, now) != Change::None {
                    *swept += self.sweep_record(id).await?;
                }
            }
            if swept.total() >= limit {
                break;
            }
        }
        Ok(())
    }

    /// The machine's result for a record.
    async fn sweep_record(&self, id: RecordId) -> Result<Swept, Error> {
        let swept = Mutex::new((0, 0));
        let decide = |record: &Record, now: Timestamp| {
            let change = machine::sweep(record, now);
            *swept.lock() = match change {
                Change::None => (0, 0),
                Change::Write(_) => (1, 0),
                Change::Remove => (0, 1),
            };
            change
        };
        match self.change(id, None, decide).await? {
            Applied::Applied(_) => {
                let (tombstoned, removed) = swept.into_inner();
                Ok(Swept { tombstoned, removed, more: false })
            }
            Applied::Lost => Ok(Swept::default()),
        }
    }
}
