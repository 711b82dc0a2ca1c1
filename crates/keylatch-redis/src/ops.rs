//! The contract of a store, on Redis.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use redis::{Cmd, Value};

use super::Store;
use super::error::{self, Failed};
use super::link::{Call, Told};
use super::marks::{Counts, ENDED_KEEP_MS_MIN, Marks};
use super::script::{self, Arg, Lua, Read};
use super::value::{self, Header, KEEP_MS_MAX, StoredValue, Written, millis_of};
use keylatch_core::machine::{self, Change, Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch_core::packed;
use keylatch_core::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Page, PageRequest, Sweep, Swept,
};
use keylatch_core::{Clock, Lease, Record, RecordId, Scope, State, Timestamp};

/// How often a record is read again because another caller has changed it meanwhile. Each time, one of the callers has
/// succeeded.
const CHANGES_MAX: usize = 1_000;
/// Answers of at least this many bytes are removed at the end of their retention, through an index. A shorter answer
/// stays until its tombstone ends: an index entry would take as much memory.
const DUE_FROM_BYTES: usize = 512;

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
            if step.is_none()
                && let Some(applied) = self.renew_written(&lease, terms).await?
            {
                return Ok(applied);
            }
            let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
            let decide = |record: &Record, now: Timestamp| {
                machine::renew(record, &lease, terms, step, now).map_or(Change::None, Change::Write)
            };
            Box::pin(Target::new(self, lease.id).change(decide)).await
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            if let Some(applied) = self.complete_written(&lease, &completion).await? {
                return Ok(applied);
            }
            let decide = |record: &Record, now: Timestamp| {
                machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
            };
            Box::pin(Target::new(self, lease.id).change(decide)).await
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.0.written.take(&lease);
            Target::new(self, lease.id).change(|record, now| machine::release(record, &lease, end, now)).await
        })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| machine::resolve(record, &lease, &resolution, now);
            Target::new(self, lease.id).change(decide).await
        })
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let decide = |record: &Record, now: Timestamp| machine::forget(record, &lease, now);
            Target::new(self, lease.id).change(decide).await
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            // A record that only the primary has must not be returned, because it may be lost.
            let At { value, now } = Target::new(self, id).read(true).await?;
            Ok(At { value: value.map(|found| found.record), now })
        })
    }

    fn durability(&self) -> Durability {
        self.0.durability
    }

    /// One server's clock decides for each record. That of a replica which takes its place can be another: the manual says
    /// to keep them together.
    fn clock_uncertainty(&self) -> Duration {
        Duration::ZERO
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
    /// One native command: it wins the key if there is no record, and otherwise returns the existing record.
    async fn claim_record(&self, claim: &Claim) -> Result<At<Claimed>, Error> {
        let (call, new) = self.call_of_new(claim);
        let asked = Instant::now();
        let told = self.0.link.call(&call).await;
        // The rest is apart from this, and boxed where it waits again, so that the future of a claim stays small.
        match self.claimed(claim, new, told, asked)? {
            Attempt::Decided(at) => Ok(at),
            Attempt::WonSometime(new) => Box::pin(self.won_sometime(claim, new)).await,
            Attempt::Held(refused) => Box::pin(self.claim_of_held(claim, refused)).await,
        }
    }

    /// The command that claims a new key, and what it writes.
    fn call_of_new(&self, claim: &Claim) -> (Call, value::Value) {
        let target = Target::new(self, claim.id());
        // The server sets its times; the rest is known.
        let Claimed::Won(new) = machine::claim(None, claim, Timestamp::from_millis(0)) else {
            unreachable!("a key without a record is won")
        };
        let new = value::encode_new(&new, claim.terms);
        let mut command = Cmd::with_capacity(7, target.key.len() + new.bytes.len() + 24);
        command.arg("SET").arg(&target.key).arg(&new.bytes).arg("NX").arg("GET");
        let (name, keep) = self.end_after(new.keep_ms);
        command.arg(name).arg(keep);
        let marks =
            Marks { runs: true, counts: self.counts(new.keep_ms, claim.terms.free.is_some()), ..target.marks() };
        (Call { command, marks, waits: true }, new)
    }

    /// What the reply to the claim of a new key means.
    fn claimed(
        &self,
        claim: &Claim,
        new: value::Value,
        told: Result<Told, Failed>,
        asked: Instant,
    ) -> Result<Attempt, Error> {
        let told = match told {
            Ok(told) => told,
            Err(Failed::Refused(error)) if error::is_of_writes(&error) => {
                return Ok(Attempt::Held(Some(Failed::Refused(error))));
            }
            Err(failed) => return Err(failed.into()),
        };
        let id = claim.id();
        match (told.value, self.saw(id, told.now, asked)) {
            (Value::Nil, now) => {
                // Sent again, the claim is recognised by its owner, and its run is noted.
                told.marked.map_err(|error| Error::new(ErrorKind::NotKnown, error))?;
                Ok(match now {
                    Some(now) => Attempt::Decided(self.won(claim, new, now)),
                    None => Attempt::WonSometime(new),
                })
            }
            (Value::BulkString(bytes), Some(now)) => {
                let Some(StoredValue { record, .. }) = value::decode_final(id, &bytes)? else {
                    return Ok(Attempt::Held(None));
                };
                check(&record, claim)?;
                match machine::claim(Some(record), claim, now) {
                    Claimed::Held(record) => {
                        self.ended(&record, now);
                        Ok(Attempt::Decided(At { value: Claimed::Held(record), now }))
                    }
                    Claimed::Won(_) => Ok(Attempt::Held(None)),
                }
            }
            (Value::BulkString(_), None) => Ok(Attempt::Held(None)),
            _ => Err(Failed::Nonsense.into()),
        }
    }

    /// A new key was won, and `new` written, at `now`.
    fn won(&self, claim: &Claim, new: value::Value, now: Timestamp) -> At<Claimed> {
        self.0.written.keep(claim.id(), Written::new(new, now));
        At { value: machine::claim(None, claim, now), now }
    }

    /// The same, and the server has not told its time.
    async fn won_sometime(&self, claim: &Claim, new: value::Value) -> Result<At<Claimed>, Error> {
        let now = Target::new(self, claim.id()).read(false).await?.now;
        Ok(self.won(claim, new, now))
    }

    /// Claims a key that has a record. If there is none after all, returns `refused`, or claims again.
    async fn claim_of_held(&self, claim: &Claim, refused: Option<Failed>) -> Result<At<Claimed>, Error> {
        let target = Target::new(self, claim.id());
        for _ in 0..CHANGES_MAX {
            let At { value: found, now } = target.read(true).await?;
            let Some(StoredValue { record, header, since }) = found else {
                return match refused {
                    Some(refused) => Err(refused.into()),
                    // It was removed meanwhile.
                    None => Box::pin(self.claim_record(claim)).await,
                };
            };
            check(&record, claim)?;
            let value = machine::claim(Some(record.clone()), claim, now);
            match &value {
                Claimed::Won(won) if *won != record => {
                    if target.take(&header, won, now).await? {
                        return Ok(At { value, now });
                    }
                }
                // Sent again after a lost reply, and granted before. It is noted as running again, because it may not
                // have been noted then; and written unchanged, so that the replicas have it.
                Claimed::Won(won) => {
                    if target.take(&header, won, since.unwrap_or(now)).await? {
                        return Ok(At { value, now });
                    }
                }
                Claimed::Held(_) => {
                    self.ended(&record, now);
                    return Ok(At { value, now });
                }
            }
        }
        Err(contended())
    }
}

/// What became of the claim of a new key.
enum Attempt {
    Decided(At<Claimed>),
    /// Won, with this record. The server has not told when.
    WonSometime(value::Value),
    /// The key has a record; or the server refused to write one, for this reason, whether there is one or not.
    Held(Option<Failed>),
}

fn check(record: &Record, claim: &Claim) -> Result<(), Error> {
    if record.belongs_to(claim.scope(), claim.key()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "a record of another scope or key has this identity"))
}

// ---- Writes of what this process has written before ------------------------------------------------------

impl Store {
    /// Completes a run whose record this process has written, without a read; `None` if the record is not, or no
    /// longer, the one it wrote.
    async fn complete_written(&self, lease: &Lease, completion: &Completion) -> Result<Option<Applied>, Error> {
        let (Some(written), Some(now)) = (self.0.written.take(lease), self.now(lease.id)) else { return Ok(None) };
        let expires_at = now + completion.retention;
        let free_at = expires_at + completion.tombstone;
        let keep_ms = millis_of(now.until(free_at)).clamp(1, KEEP_MS_MAX);
        // A block, so that the future keeps only the call while it waits for the reply.
        let writing = {
            let packed = packed::pack(&completion.outcome, self.0.compress_from_bytes);
            let bytes = written.completed(expires_at, free_at, &packed);
            let target = Target::new(self, lease.id);
            let (due, counts) = (self.due_at(packed.len(), expires_at), self.counts(keep_ms, true));
            let marks = Marks { due, counts, ..target.marks() };
            target.write(&script::REPLACE, written.header(), self.end_of(now, keep_ms), &bytes, marks)
        };
        drop(written);
        let done = script::did(&writing.await?)?;
        if done && keep_ms >= ENDED_KEEP_MS_MIN {
            self.0.link.ended(lease.id);
        }
        Ok(done.then_some(Applied::Applied(now)))
    }

    /// Renews a run whose record this process has written, without a read; `None` if the record is not, or no longer,
    /// the one it wrote.
    async fn renew_written(&self, lease: &Lease, terms: Terms) -> Result<Option<Applied>, Error> {
        let Some(written) = self.0.written.get(lease) else { return Ok(None) };
        let next = written.renewed(terms);
        let target = Target::new(self, lease.id);
        let marks =
            Marks { tells_time: true, counts: self.counts(next.keep_ms, terms.free.is_some()), ..target.marks() };
        let (end, asked) = (self.end_after(next.keep_ms), Instant::now());
        let told = target.write(&script::REPLACE, written.header(), end, &next.bytes, marks).await?;
        if !script::did(&told)? {
            return Ok(None);
        }
        self.0.written.replace(lease, &written, Written::again(next));
        let now = match self.saw(lease.id, told.now, asked) {
            Some(now) => now,
            None => Box::pin(target.read(false)).await?.now,
        };
        Ok(Some(Applied::Applied(now)))
    }
}

// ---- Time, and what stands beside a record -----------------------------------------------------------------

/// How old the latest known time of a server may be: clocks of two machines drift apart by less than 1 ms in this time.
const CLOCK_AGE_MAX: Duration = Duration::from_secs(5);

impl Store {
    /// The server's current time, if it is known.
    fn now(&self, id: RecordId) -> Option<Timestamp> {
        #[cfg(feature = "conformance")]
        if let Some(clock) = &self.0.clock {
            return Some(clock.now());
        }
        let (now, asked) = (*self.0.clocks[self.0.link.bucket_of(id)].lock())?;
        let age = asked.elapsed();
        (age < CLOCK_AGE_MAX).then(|| now + age)
    }

    /// Notes the server's time at some instant after `asked`, and returns what counts as now.
    pub(super) fn saw(&self, id: RecordId, now: Option<Timestamp>, asked: Instant) -> Option<Timestamp> {
        #[cfg(feature = "conformance")]
        if let Some(clock) = &self.0.clock {
            return Some(clock.now());
        }
        let mut seen = self.0.clocks[self.0.link.bucket_of(id)].lock();
        // Replies can overtake each other.
        if let Some(now) = now
            && seen.is_none_or(|(_, before)| before <= asked)
        {
            *seen = Some((now, asked));
        }
        now
    }

    /// The end of a key that is to stay this long from when the server writes it.
    fn end_after(&self, keep_ms: i64) -> (&'static str, i64) {
        #[cfg(feature = "conformance")]
        if let Some(clock) = &self.0.clock {
            return ("PXAT", clock.now().as_millis().saturating_add(keep_ms));
        }
        ("PX", keep_ms)
    }

    /// The same, counted from `now`, on the real or assumed clock of the server.
    fn end_of(&self, now: Timestamp, keep_ms: i64) -> (&'static str, i64) {
        if self.is_exact() { ("PXAT", now.as_millis().saturating_add(keep_ms)) } else { ("PX", keep_ms) }
    }

    /// Whether this store has its own clock instead of the server's. Then Redis does not remove its records; sweeps do,
    /// and find all of them through the index of due records.
    pub(super) fn is_exact(&self) -> bool {
        #[cfg(feature = "conformance")]
        return self.0.clock.is_some();
        #[cfg(not(feature = "conformance"))]
        false
    }

    /// When an answer of this many bytes is due in the index.
    pub(super) fn due_at(&self, bytes: usize, expires_at: Timestamp) -> Option<Timestamp> {
        (bytes >= DUE_FROM_BYTES || self.is_exact()).then_some(expires_at)
    }

    /// How a record that stays this long counts for its scope.
    fn counts(&self, keep_ms: i64, has_end: bool) -> Option<Counts> {
        if !self.0.counts_records {
            return None;
        }
        let now = self.now(RecordId::from_bytes([0; 32])).unwrap_or_else(|| Clock::system().now()).as_millis();
        Some(Counts { until: now.saturating_add(keep_ms), keep_ms: if has_end { keep_ms } else { 0 } })
    }

    /// Nobody begins a run of this record's key soon, so it can be removed from the set of running records.
    fn ended(&self, record: &Record, now: Timestamp) {
        let keep_ms = record.free_at.map_or(i64::MAX, |free_at| millis_of(now.until(free_at)));
        if matches!(record.state, State::Completed { .. }) && keep_ms >= ENDED_KEEP_MS_MIN {
            self.0.link.ended(record.id());
        }
    }
}

// ---- One record ------------------------------------------------------------------------------------------

/// One record and its keys.
pub(super) struct Target<'s> {
    store: &'s Store,
    pub(super) id: RecordId,
    key: Vec<u8>,
}

impl<'s> Target<'s> {
    pub(super) fn new(store: &'s Store, id: RecordId) -> Self {
        Self { store, id, key: store.0.keys.record(id) }
    }

    fn marks(&self) -> Marks {
        Marks::of(self.id)
    }

    /// Reads it; if `waits`, returns only what the required replicas have.
    pub(super) async fn read(&self, waits: bool) -> Result<At<Option<StoredValue>>, Error> {
        let asked = Instant::now();
        let told = script::READ.call(&self.store.0.link, &[&self.key], &[], self.marks(), waits).await?;
        let Read { now, record } = Read::of(told.value).ok_or(Failed::Nonsense)?;
        let now = self.store.saw(self.id, Some(now), asked).unwrap_or(now);
        let value = record.map(|(bytes, end)| value::decode(self.id, &bytes, end)).transpose()?;
        Ok(At { value, now })
    }

    /// Runs a script that writes `bytes` in place of the record that has `header`.
    fn write(
        &self,
        script: &Lua,
        header: &Header,
        (name, end): (&'static str, i64),
        bytes: &[u8],
        marks: Marks,
    ) -> impl Future<Output = Result<Told, Failed>> + use<'s> {
        let args = [Arg::from(header), Arg::Bytes(name.as_bytes()), Arg::Number(end), Arg::Bytes(bytes)];
        script.call(&self.store.0.link, &[&self.key], &args, marks, true)
    }

    /// Writes a claim that was won, in place of the record that has `header`; its times count from `since`.
    async fn take(&self, header: &Header, won: &Record, since: Timestamp) -> Result<bool, Error> {
        let store = self.store;
        let value = value::encode(won, header, since, store.0.compress_from_bytes);
        let marks = Marks { runs: true, counts: store.counts(value.keep_ms, won.free_at.is_some()), ..self.marks() };
        let end = ("PXAT", since.as_millis().saturating_add(value.keep_ms));
        let told = self.write(&script::TAKE, header, end, &value.bytes, marks).await?;
        let done = script::did(&told)?;
        if done {
            told.marked.map_err(|error| Error::new(ErrorKind::NotKnown, error))?;
            store.0.written.keep(self.id, Written::new(value, won.created_at));
        }
        Ok(done)
    }

    /// Writes `next`, which was decided at `now`, in place of the record that was found.
    pub(super) async fn replace(&self, found: &StoredValue, next: &Record, now: Timestamp) -> Result<bool, Error> {
        let store = self.store;
        // Unchanged spans count from when they did before.
        let since = if *next == found.record { found.since.unwrap_or(now) } else { now };
        let value = value::encode(next, &found.header, since, store.0.compress_from_bytes);
        let mut marks = Marks { counts: store.counts(value.keep_ms, next.free_at.is_some()), ..self.marks() };
        if let State::Completed { outcome, expires_at } = &next.state {
            match outcome {
                Some(_) => marks.due = store.due_at(value.bytes.len(), *expires_at),
                None => marks.due = next.free_at.map(|at| at.max(*expires_at)).filter(|_| store.is_exact()),
            }
            marks.frees = true;
        }
        let end = ("PXAT", since.as_millis().saturating_add(value.keep_ms));
        Ok(script::did(&self.write(&script::REPLACE, &found.header, end, &value.bytes, marks).await?)?)
    }

    /// Removes the record that was found.
    pub(super) async fn remove(&self, found: &StoredValue) -> Result<bool, Error> {
        let marks = Marks { frees: true, ..self.marks() };
        let link = &self.store.0.link;
        let told = script::REMOVE.call(link, &[&self.key], &[Arg::from(&found.header)], marks, true).await?;
        let done = script::did(&told)?;
        if done {
            self.store.uncount(self.id).await?;
        }
        Ok(done)
    }

    /// Applies the change that `decide` returns.
    ///
    /// A decision on the record as it was read is still right when it is written, if the record is unchanged: whether a
    /// lease is the record's does not depend on the time, and a lease that has ended stays ended until it is renewed.
    async fn change(&self, decide: impl Fn(&Record, Timestamp) -> Change) -> Result<Applied, Error> {
        for _ in 0..CHANGES_MAX {
            let At { value: found, now } = self.read(false).await?;
            let Some(found) = found else { return Ok(Applied::Lost) };
            let done = match decide(&found.record, now) {
                Change::None => return Ok(Applied::Lost),
                // A completion that is sent again finds its own outcome.
                Change::Write(next) if next == found.record && !self.store.0.link.waits() => true,
                Change::Write(next) => self.replace(&found, &next, now).await?,
                Change::Remove => self.remove(&found).await?,
            };
            if done {
                return Ok(Applied::Applied(now));
            }
        }
        Err(contended())
    }
}

fn contended() -> Error {
    Error::new(ErrorKind::Unavailable, "too many requests are changing the record at once")
}
