//! The contract of a store, on Cassandra.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Store;
use super::error::Failed;
use super::gate::Turn;
use super::index::{Ended, Marked, Named, key_half, running_bucket, scope_bucket, scope_entry};
use super::link::Cas;
use super::runs::Run;
use super::value::{self, Found, Keep};
use keylatch_core::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch_core::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Page, PageRequest, Sweep, Swept,
};
use keylatch_core::{Lease, Owner, Record, RecordId, Scope, State, Timestamp};

/// How many statements of one call may fail before the call does.
const FAILURES_MAX: u32 = 5;
/// The first pause after a failure; each further one is twice as long. A random part is taken off, so that two callers
/// do not meet again.
const PAUSE: Duration = Duration::from_millis(20);

impl keylatch_core::store::Store for Store {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move { self.claim_record(&claim).await })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            let decide = |record: &Record, now: Timestamp| {
                machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
            };
            self.change(lease.id, self.0.runs.take(&lease), decide).await
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| {
                machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
            };
            self.change(lease.id, self.0.runs.take(&lease), decide).await
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| machine::release(record, &lease, end, now);
            self.change(lease.id, self.0.runs.take(&lease), decide).await
        })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| machine::resolve(record, &lease, &resolution, now);
            self.change(lease.id, None, decide).await
        })
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| machine::forget(record, &lease, now);
            self.change(lease.id, None, decide).await
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let mut patience = Patience::new(self);
            loop {
                match self.read_row(id).await {
                    Ok(At { value, now }) => return Ok(At { value: value.map(|found| found.record), now }),
                    Err(Read::Damaged(error)) => return Err(error),
                    Err(Read::Failed(failed)) => patience.after(failed).await?,
                }
            }
        })
    }

    fn durability(&self) -> Durability {
        if self.0.synced { Durability::Disk } else { Durability::Replica }
    }

    fn clock_uncertainty(&self) -> Duration {
        self.0.clock_uncertainty
    }
}

impl Sweep for Store {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(self.sweep_records(limit))
    }
}

impl Inspect for Store {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(self.list_records(page))
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(self.lapsed_records(after, limit))
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(self.count_records(scope, limit))
    }
}

// ---- Claims --------------------------------------------------------------------------------------------

impl Store {
    /// One transaction: it wins the key if there is no record, and otherwise returns the existing record.
    async fn claim_record(&self, claim: &Claim) -> Result<At<Claimed>, Error> {
        let id = claim.id();
        let mut patience = Patience::new(self);
        let mut turn = self.enter(id).await?;
        let mut marked = None;
        // What another call of this process has read since this one came. If others are at it, there is a record: it is
        // read first, because a transaction costs more.
        let mut known = turn.seen();
        let mut reads_first = turn.followed();
        loop {
            let looked = match known.take() {
                Some(found) => self.now().await.map(|now| At { value: found, now }).map_err(Read::Failed),
                None if reads_first => self.read_noted(id, &mut turn).await,
                None => match self.claim_absent(claim, &mut turn, &mut marked).await {
                    Ok(Ok(won)) => return Ok(won),
                    Ok(Err(held)) => Ok(held),
                    Err(failed) => Err(failed),
                },
            };
            let At { value: found, now } = match looked {
                Ok(looked) => looked,
                Err(Read::Damaged(error)) => return Err(error),
                Err(Read::Failed(failed)) => {
                    patience.after(failed).await?;
                    reads_first = true;
                    continue;
                }
            };
            let Some(found) = found else {
                reads_first = false;
                continue;
            };
            if !found.record.belongs_to(claim.scope(), claim.key()) {
                return Err(Error::new(ErrorKind::Corrupt, "a record of another scope or key has this identity"));
            }
            let won = match machine::claim(Some(found.record.clone()), claim, now) {
                Claimed::Held(record) => {
                    if marked.is_some() {
                        self.0.endings.push(Ended { id, owner: claim.owner, named: None });
                    }
                    return Ok(At { value: Claimed::Held(record), now });
                }
                Claimed::Won(won) => won,
            };
            // The claim's own record: it was granted before, and the reply was lost.
            let ours = won == found.record;
            let written = match self.mark(id, claim.owner, won.free_at, now, &mut marked).await {
                Ok(()) if ours => Ok(Some(found.revision)),
                Ok(()) => self.replace(&found, &won, now, &mut turn).await,
                Err(failed) => Err(failed),
            };
            match written {
                Ok(Some(revision)) => {
                    let named = marked.map_or(Named::Unknown, |marked| marked.named);
                    self.0.runs.keep(Run { found: Found { record: won.clone(), revision }, named });
                    return Ok(At { value: Claimed::Won(won), now });
                }
                Ok(None) => patience.contended().await?,
                Err(failed) => patience.after(failed).await?,
            }
            reads_first = true;
        }
    }

    /// Claims a key as one that has no record. `Ok(Err(…))`: it has one.
    async fn claim_absent(
        &self,
        claim: &Claim,
        turn: &mut Turn<'_>,
        marked: &mut Option<Marked>,
    ) -> Result<Result<At<Claimed>, At<Option<Found>>>, Read> {
        let id = claim.id();
        let now = self.now().await.map_err(Read::Failed)?;
        let won = machine::claim(None, claim, now);
        let Claimed::Won(record) = &won else { unreachable!("a key without a record is won") };
        self.mark(id, claim.owner, record.free_at, now, marked).await.map_err(Read::Failed)?;
        let row = value::encode(record, self.0.compress_from_bytes);
        let asked = Instant::now();
        let columns = match self.0.link.claim(&self.0.names.row(id), &row).await.map_err(Read::Failed)? {
            Cas::Not(columns) => columns,
            Cas::Applied => {
                let found = Found { record: record.clone(), revision: row.revision };
                let named = marked.map_or(Named::Unknown, |marked| marked.named);
                self.0.runs.keep(Run { found: found.clone(), named });
                turn.saw(asked, Some(found));
                return Ok(Ok(At { value: won, now }));
            }
        };
        let now = self.now().await.map_err(Read::Failed)?;
        let found = value::decode(id, columns, now).map_err(|damaged| Read::Damaged(damaged.into()))?;
        turn.saw(asked, found.clone());
        Ok(Err(At { value: found, now }))
    }
}

// ---- Other writes ----------------------------------------------------------------------------------------

impl Store {
    /// Applies the change that `decide` returns to the record, or first to `run`, if this process has written that.
    ///
    /// A decision on the record as it was read is still right when it is written, if the record is unchanged: whether a
    /// lease is the record's does not depend on the time, and a lease that has ended stays ended until it is renewed.
    pub(super) async fn change(
        &self,
        id: RecordId,
        run: Option<Run>,
        decide: impl Fn(&Record, Timestamp) -> Change,
    ) -> Result<Applied, Error> {
        let mut patience = Patience::new(self);
        let mut turn = self.enter(id).await?;
        let mut run = run;
        // A write of this call whose fate is not known: its revision, and what it would have left.
        let mut tried: Option<(i64, Record)> = None;
        // The same of a removal, of which nothing is left to recognise.
        let mut tried_removal = false;
        loop {
            let named = run.as_ref().map_or(Named::Unknown, |run| run.named);
            let looked = match run.take() {
                Some(run) => self.now().await.map(|now| At { value: Some(run.found), now }).map_err(Read::Failed),
                None => self.read_noted(id, &mut turn).await,
            };
            let At { value: found, now } = match looked {
                Ok(looked) => looked,
                Err(Read::Damaged(error)) => return Err(error),
                Err(Read::Failed(failed)) => {
                    patience.after(failed).await?;
                    continue;
                }
            };
            let Some(found) = found else {
                return Ok(if tried_removal { Applied::Applied(now) } else { Applied::Lost });
            };
            if let Some((revision, next)) = tried.take_if(|(revision, _)| *revision == found.revision) {
                self.wrote(&found.record, &next, revision, named, now);
                return Ok(Applied::Applied(now));
            }
            let written = match decide(&found.record, now) {
                Change::None => return Ok(Applied::Lost),
                // A completion that is sent again finds its own outcome.
                Change::Write(next) if next == found.record => return Ok(Applied::Applied(now)),
                Change::Write(next) => match self.name(&found.record, &next, named, now).await {
                    Err(failed) => Err(failed),
                    Ok(named) => {
                        let (row, asked) = (value::encode(&next, self.0.compress_from_bytes), Instant::now());
                        tried = Some((row.revision, next.clone()));
                        let written = self.write_row(&found, &next, &row, now).await;
                        if let Ok(true) = written {
                            self.wrote(&found.record, &next, row.revision, named, now);
                            turn.saw(asked, Some(Found { record: next, revision: row.revision }));
                        }
                        written
                    }
                },
                Change::Remove => {
                    let removed = self.remove(&found, &mut turn).await;
                    tried_removal |= matches!(removed, Err(Failed::NotKnown(_)));
                    removed
                }
            };
            match written {
                Ok(true) => return Ok(Applied::Applied(now)),
                Ok(false) => patience.contended().await?,
                Err(failed) => patience.after(failed).await?,
            }
        }
    }

    /// Writes `next` in place of the record that was found. `None`: that has changed. Otherwise the new revision.
    async fn replace(
        &self,
        found: &Found,
        next: &Record,
        now: Timestamp,
        turn: &mut Turn<'_>,
    ) -> Result<Option<i64>, Failed> {
        let (row, asked) = (value::encode(next, self.0.compress_from_bytes), Instant::now());
        if !self.write_row(found, next, &row, now).await? {
            return Ok(None);
        }
        turn.saw(asked, Some(Found { record: next.clone(), revision: row.revision }));
        Ok(Some(row.revision))
    }

    async fn write_row(&self, found: &Found, next: &Record, row: &value::Row, now: Timestamp) -> Result<bool, Failed> {
        let bytes = row.outcome.as_ref().map_or(0, Vec::len);
        let keep = if self.is_exact() { Keep::FOREVER } else { Keep::of(next, bytes, now, self.0.margin) };
        // The answer's column ends by itself, and perhaps a little later than the answer.
        let had_outcome = matches!(found.record.state, State::Completed { .. });
        let condition = (&found.record.lease(), found.revision);
        let id = self.0.names.row(found.record.id());
        Ok(matches!(self.0.link.replace(&id, row, keep, condition, had_outcome).await?, Cas::Applied))
    }

    /// Removes the record that was found.
    pub(super) async fn remove(&self, found: &Found, turn: &mut Turn<'_>) -> Result<bool, Failed> {
        let lease = found.record.lease();
        let (id, asked) = (self.0.names.row(lease.id), Instant::now());
        match self.0.link.remove(&id, &lease, found.revision).await? {
            Cas::Not(()) => Ok(false),
            Cas::Applied => {
                turn.saw(asked, None);
                self.0.endings.push(Ended { id: lease.id, owner: lease.owner, named: None });
                Ok(true)
            }
        }
    }

    /// Notes what follows from a write that took effect.
    fn wrote(&self, previous: &Record, next: &Record, revision: i64, named: Named, now: Timestamp) {
        match &next.state {
            State::Running { .. } => {
                self.0.runs.keep(Run { found: Found { record: next.clone(), revision }, named });
            }
            State::Completed { .. } if matches!(previous.state, State::Running { .. }) => {
                // The scope named it for ever, because the end of its run was not known.
                let shorter = next.free_at.filter(|_| named == Named::Forever);
                let named = shorter.map(|free_at| (self.ttl(now, free_at), now));
                self.0.endings.push(Ended { id: next.id(), owner: next.owner, named });
            }
            State::Completed { .. } => {}
        }
    }
}

// ---- Entries of the indexes --------------------------------------------------------------------------------

impl Store {
    /// Writes the entries of a claim, unless they were written a short while ago.
    async fn mark(
        &self,
        id: RecordId,
        owner: Owner,
        free_at: Option<Timestamp>,
        now: Timestamp,
        marked: &mut Option<Marked>,
    ) -> Result<(), Failed> {
        let named = Named::of(free_at);
        if marked.is_some_and(|marked| marked.at.elapsed() < self.0.index_kept / 2 && marked.named.covers(named)) {
            return Ok(());
        }
        let at = Instant::now();
        let (space, bucket) = (self.0.names.space(), running_bucket(id));
        let running = (space, bucket, id.as_bytes().as_slice(), owner.as_bytes().as_slice(), now.as_millis());
        let ttl = free_at.map_or(0, |free_at| self.ttl(now, free_at));
        self.0.link.mark(running, scope_entry(&self.0.names, id, ttl, now)).await?;
        *marked = Some(Marked { at, named });
        Ok(())
    }

    /// Makes sure that the scope names the record as long as it needs after a write.
    async fn name(&self, previous: &Record, next: &Record, named: Named, now: Timestamp) -> Result<Named, Failed> {
        let end = match next.state {
            State::Running { .. } => next.free_at,
            State::Completed { expires_at, .. } => next.free_at.map(|free_at| free_at.max(expires_at)),
        };
        let needed = Named::of(end);
        let was_ended = matches!(previous.state, State::Completed { .. });
        if named.covers(needed) || was_ended {
            return Ok(named);
        }
        let ttl = end.map_or(0, |end| self.ttl(now, end));
        self.0.link.write(&self.0.link.mark_scope, scope_entry(&self.0.names, next.id(), ttl, now)).await?;
        Ok(needed)
    }

    /// From `now` to `end`, as a time to live.
    fn ttl(&self, now: Timestamp, end: Timestamp) -> value::Ttl {
        if self.is_exact() { 0 } else { value::ttl(now, end, self.0.margin) }
    }

    /// Removes an entry that names no running claim, if it was written long ago.
    pub(super) async fn clean_running(&self, id: RecordId, owner: &[u8], written: i64, now: Timestamp) {
        if self.is_old(written, now) {
            let place = (written, self.0.names.space(), running_bucket(id), id.as_bytes().as_slice(), owner);
            self.cleaned(self.0.link.write(&self.0.link.clean_running, place).await);
        }
    }

    /// Removes an entry that names no record, if it was written long ago.
    pub(super) async fn clean_scope(&self, id: RecordId, written: i64, now: Timestamp) {
        if self.is_old(written, now) {
            let key = key_half(id);
            let scope = self.0.names.scope(&id.scope_digest());
            let place = (written, scope, scope_bucket(&key), key.as_slice());
            self.cleaned(self.0.link.write(&self.0.link.clean_scope, place).await);
        }
    }

    fn cleaned(&self, cleaned: Result<(), Failed>) {
        if let Err(error) = cleaned {
            tracing::debug!(?error, "an entry of an index was not removed; the next reader tries again");
        }
    }

    /// Whether no claim can still be on its way between this entry, written then in microseconds, and its transaction.
    fn is_old(&self, written: i64, now: Timestamp) -> bool {
        let written = Timestamp::from_millis(written / 1_000);
        !self.is_exact() && written.until(now) >= self.0.index_kept
    }
}

// ---- Reads, time and patience ------------------------------------------------------------------------------

/// Why a record was not read.
pub(super) enum Read {
    Failed(Failed),
    Damaged(Error),
}

impl From<Read> for Error {
    fn from(read: Read) -> Self {
        match read {
            Read::Failed(failed) => failed.into(),
            Read::Damaged(error) => error,
        }
    }
}

impl Store {
    /// Reads a record as the latest transaction left it, after finishing what others have left behind.
    pub(super) async fn read_row(&self, id: RecordId) -> Result<At<Option<Found>>, Read> {
        let columns = self.0.link.read(&self.0.names.row(id)).await.map_err(Read::Failed)?;
        let now = self.now().await.map_err(Read::Failed)?;
        let value = value::decode(id, columns, now).map_err(|damaged| Read::Damaged(damaged.into()))?;
        Ok(At { value, now })
    }

    async fn read_noted(&self, id: RecordId, turn: &mut Turn<'_>) -> Result<At<Option<Found>>, Read> {
        let asked = Instant::now();
        let looked = self.read_row(id).await?;
        turn.saw(asked, looked.value.clone());
        Ok(looked)
    }

    pub(super) async fn enter(&self, id: RecordId) -> Result<Turn<'_>, Error> {
        let turn = self.0.gates.enter(id, self.0.call_max).await;
        turn.map_err(|_| Error::new(ErrorKind::Unavailable, "earlier calls for this key still wait for Cassandra"))
    }

    pub(super) async fn now(&self) -> Result<Timestamp, Failed> {
        #[cfg(feature = "conformance")]
        if let Some(clock) = &self.0.manual {
            return Ok(clock.now());
        }
        self.0.clock.now(&self.0.link).await
    }

    /// Whether this store has its own clock instead of the cluster's. Then nothing ends by itself.
    pub(super) fn is_exact(&self) -> bool {
        #[cfg(feature = "conformance")]
        return self.0.manual.is_some();
        #[cfg(not(feature = "conformance"))]
        false
    }
}

/// How long a call goes on.
struct Patience {
    until: Instant,
    failures: u32,
    changes: u32,
    /// A statement of this call may have taken effect.
    unsure: Option<String>,
}

impl Patience {
    fn new(store: &Store) -> Self {
        Self { until: Instant::now() + store.0.call_max, failures: 0, changes: 0, unsure: None }
    }

    /// Pauses after a failure, or returns it if it was one too many.
    async fn after(&mut self, failed: Failed) -> Result<(), Error> {
        if let Failed::Refused(_) = failed {
            return Err(failed.into());
        }
        self.failures += 1;
        if self.failures >= FAILURES_MAX || Instant::now() >= self.until {
            return Err(match (failed, self.unsure.take()) {
                (Failed::NotSent(_) | Failed::GaveUp(_), Some(unsure)) => Failed::NotKnown(unsure).into(),
                (failed, _) => failed.into(),
            });
        }
        if let Failed::NotKnown(text) = failed {
            self.unsure = Some(text);
        }
        self.pause(self.failures).await;
        Ok(())
    }

    /// Pauses after someone else has changed the record, which means that their call has succeeded.
    async fn contended(&mut self) -> Result<(), Error> {
        if Instant::now() >= self.until {
            let text = "too many requests are changing the record at once";
            let kind = if self.unsure.is_some() { ErrorKind::NotKnown } else { ErrorKind::Unavailable };
            return Err(Error::new(kind, text));
        }
        self.changes += 1;
        // The first few at once.
        self.pause(self.changes.saturating_sub(2)).await;
        Ok(())
    }

    async fn pause(&self, nth: u32) {
        if nth == 0 {
            return;
        }
        let [part, ..] = *Owner::random().as_bytes();
        let longest = PAUSE * 2_u32.pow(nth.min(4) - 1);
        tokio::time::sleep(longest.mul_f64(0.5 + f64::from(part) / 512.0)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a read meets says nothing of the write before it.
    #[tokio::test]
    async fn a_read_that_fails_after_an_unsure_write_leaves_it_unsure() {
        for failed in [Failed::NotSent, Failed::GaveUp, Failed::NotKnown] {
            let unsure = Some("a time-out".to_owned());
            let mut patience = Patience { until: Instant::now(), failures: 0, changes: 0, unsure };
            let error = patience.after(failed("of a read".to_owned())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotKnown, "{error}");
        }
    }
}
