//! The simplest store there is, with a bug on request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keylatch_core::conformance::Harness;
use keylatch_core::machine::{self, Change, Claim, Claimed, Completion, End, Phase, Resolution, Terms};
use keylatch_core::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Notes, PAGE_RECORDS_MAX, Page, PageRequest,
    State, Store, Sweep, Swept,
};
use keylatch_core::{Body, Clock, Key, Lease, Outcome, Record, RecordId, Scope, Timestamp};
use parking_lot::Mutex;

use crate::bug::Bug;

/// The store, and its harness.
#[derive(Debug, Clone)]
pub(crate) struct Broken(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bug: Option<Bug>,
    /// Whether it lists backwards, in short pages and empty ones, and counts only half. A store may do all of that.
    loose: bool,
    clock: Clock,
    records: Mutex<BTreeMap<RecordId, Record>>,
    busy: AtomicBool,
}

const MS: Duration = Duration::from_millis(1);

impl Broken {
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        Self::empty(bug, false, Clock::manual(Timestamp::from_millis(1_700_000_000_000)))
    }

    /// A store without a bug that uses every freedom of the contract.
    pub(crate) fn loose() -> Self {
        Self::empty(None, true, Clock::manual(Timestamp::from_millis(1_700_000_000_000)))
    }

    fn empty(bug: Option<Bug>, loose: bool, clock: Clock) -> Self {
        Self(Arc::new(Inner { bug, loose, clock, records: Mutex::default(), busy: AtomicBool::new(false) }))
    }

    fn has(&self, bug: Bug) -> bool {
        self.0.bug == Some(bug)
    }

    /// Applies the change that `decide` returns for a record.
    fn change(&self, lease: Lease, decide: impl FnOnce(&Record, Timestamp) -> Change) -> Result<Applied, Error> {
        let mut records = self.0.records.lock();
        let now = self.0.clock.now();
        let Some(record) = records.get(&lease.id) else { return Ok(Applied::Lost) };
        match decide(record, now) {
            Change::None => return Ok(Applied::Lost),
            Change::Write(record) => drop(records.insert(lease.id, record)),
            Change::Remove => drop(records.remove(&lease.id)),
        }
        Ok(Applied::Applied(now))
    }

    /// The lease as the store compares it.
    fn compared(&self, lease: Lease, record: &Record, epoch: Bug, owner: Bug) -> Lease {
        Lease {
            epoch: if self.has(epoch) { record.epoch } else { lease.epoch },
            owner: if self.has(owner) { record.owner } else { lease.owner },
            ..lease
        }
    }

    /// The identity under which a claim looks up its record.
    fn id(&self, claim: &Claim) -> RecordId {
        if self.has(Bug::OperationIgnored) {
            let scope = Scope::new(claim.scope().caller()).expect("a valid scope");
            return RecordId::of(&scope, claim.key());
        }
        if self.has(Bug::KeyCaseIgnored) {
            let key = Key::new(&claim.key().as_str().to_lowercase()).expect("a valid key");
            return RecordId::of(claim.scope(), &key);
        }
        claim.id()
    }

    /// The result of a claim, with the bugs that a claim can have.
    fn decide(&self, previous: Option<Record>, mut claim: Claim, now: Timestamp) -> Claimed {
        let phase = machine::phase(previous.as_ref(), now);
        let mut now = now;
        if let Some(record) = &previous {
            let ours = record.owner == claim.owner;
            let completed = matches!(record.state, State::Completed { .. });
            if self.has(Bug::OwnerForgotten) && ours {
                return Claimed::Held(record.clone());
            }
            if self.has(Bug::OwnerRememberedForGood) && ours && completed {
                return Claimed::Won(record.clone());
            }
            if self.has(Bug::FingerprintIgnored) {
                claim.fingerprint = record.fingerprint;
            }
            if self.has(Bug::RepeatedClaimRenews) && ours && !completed {
                let renewed = machine::renew(record, &record.lease(), claim.terms, None, now);
                return Claimed::Won(renewed.expect("the lease is its own"));
            }
        }
        now = match self.0.bug {
            Some(Bug::ClaimTooEarly) if previous.is_some() => now + MS,
            Some(Bug::FreeTooEarly) if phase == Phase::Tombstone => now + MS,
            Some(Bug::ClaimTooLate) if previous.is_some() => Timestamp::from_millis(now.as_millis() - 1),
            _ => now,
        };
        let before = previous.clone();
        let mut claimed = machine::claim(previous, &claim, now);
        if let (Claimed::Won(record), Some(before)) = (&mut claimed, before) {
            let anew = record.owner != before.owner;
            if self.has(Bug::EpochStays) {
                record.epoch = before.epoch;
            }
            if let (State::Running { notes, .. }, State::Running { notes: older, .. }) =
                (&mut record.state, before.state)
            {
                match self.0.bug {
                    Some(Bug::NotesLostInTakeover) if anew => *notes = Notes::default(),
                    Some(Bug::NotesOutliveRequest) if anew => *notes = older,
                    _ => {}
                }
            }
        }
        if let (true, Claimed::Won(record)) = (self.has(Bug::SpansWrapAround), &mut claimed) {
            record.free_at = claim.terms.free.map(|span| {
                let millis = u64::try_from(span.as_millis() & u128::from(u64::MAX)).expect("masked");
                Timestamp::from_millis(now.as_millis().wrapping_add_unsigned(millis))
            });
        }
        claimed
    }

    /// What is stored instead of `outcome`.
    fn stored(&self, mut outcome: Outcome) -> Outcome {
        match (self.0.bug, &outcome.body) {
            (Some(Bug::HeadersSorted), _) => outcome.headers.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str())),
            (Some(Bug::EmptyBodyIsNotRetained), Body::Kept(body)) if body.is_empty() => {
                outcome.body = Body::NotRetained { digest: None };
            }
            (Some(Bug::DigestLost), Body::NotRetained { .. }) => outcome.body = Body::NotRetained { digest: None },
            _ => {}
        }
        outcome
    }

    /// A page of the records that `wanted` selects.
    fn page(
        &self,
        after: Option<&Cursor>,
        limit: usize,
        wanted: impl Fn(&Record, Timestamp) -> bool,
    ) -> Result<Page, Error> {
        if self.0.loose {
            return self.loose_page(after, limit, wanted);
        }
        let after = after.map(Cursor::id).transpose()?;
        let now = self.0.clock.now();
        let at_most = if self.has(Bug::PageTooLong) { limit } else { limit.min(PAGE_RECORDS_MAX) };
        let records = self.0.records.lock();
        let past = |id: &RecordId| {
            after.is_none_or(|after| *id > after || (self.has(Bug::PageStartsWithAfter) && *id == after))
        };
        let found = records.iter().filter(|(id, record)| past(id) && wanted(record, now)).take(at_most);
        let mut page = Page::by_id(found.map(|(_, record)| record.clone()).collect(), limit);
        match (self.0.bug, page.records.first()) {
            (Some(Bug::PagesEndEarly), _) => page.next = None,
            (Some(Bug::PageGoesOnAfterItsFirst), Some(first)) => {
                page.next = page.next.map(|_| Cursor::after(first.id()));
            }
            _ => {}
        }
        Ok(page)
    }

    /// Backwards, at most two at a time, and every other page is empty.
    fn loose_page(
        &self,
        after: Option<&Cursor>,
        limit: usize,
        wanted: impl Fn(&Record, Timestamp) -> bool,
    ) -> Result<Page, Error> {
        let before = match after.map(|after| after.as_bytes().split_first()) {
            None => None,
            Some(Some((b'?', id))) => {
                return Ok(Page { records: Vec::new(), next: Cursor::new([b"!", id].concat()).ok() });
            }
            Some(Some((b'!', id))) => Some(id),
            Some(_) => return Err(Error::new(ErrorKind::Refused, "that is no cursor")),
        };
        let now = self.0.clock.now();
        let records = self.0.records.lock();
        let found = records.iter().rev().filter(|(id, record)| {
            before.is_none_or(|before| id.as_bytes().as_slice() < before) && wanted(record, now)
        });
        let records: Vec<_> = found.map(|(_, record)| record.clone()).take(limit.min(2)).collect();
        let next = records.last().and_then(|last| Cursor::new([b"?", last.id().as_bytes().as_slice()].concat()).ok());
        Ok(Page { records, next })
    }

    fn check(&self, id: RecordId, record: &Record, unless: Bug) -> Result<(), Error> {
        if record.id() == id || self.has(unless) || self.has(Bug::OperationIgnored) || self.has(Bug::KeyCaseIgnored) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "another record lies there"))
    }
}

impl Store for Broken {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            if self.has(Bug::CancelledClaimHoldsTheStore) {
                if self.0.busy.swap(true, Ordering::AcqRel) {
                    return Err(Error::new(ErrorKind::Unavailable, "the store is busy"));
                }
                tokio::task::yield_now().await;
                self.0.busy.store(false, Ordering::Release);
            }
            let id = self.id(&claim);
            let seen = self.0.records.lock().get(&id).cloned();
            if self.has(Bug::ClaimInTwoSteps) {
                tokio::task::yield_now().await;
            }
            let mut records = self.0.records.lock();
            let mut previous = if self.has(Bug::ClaimInTwoSteps) { seen } else { records.get(&id).cloned() };
            match &previous {
                Some(record) if self.has(Bug::MisplacedIsAbsent) && record.id() != id => previous = None,
                Some(record) => self.check(id, record, Bug::MisplacedIsAbsent)?,
                None => {}
            }
            let now = self.0.clock.now();
            let claimed = self.decide(previous, claim, now);
            if let Claimed::Won(record) = &claimed {
                records.insert(id, record.clone());
            }
            let now = if self.has(Bug::ClockOfTheCaller) { Clock::system().now() } else { now };
            Ok(At { value: claimed, now })
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.change(lease, |record, now| {
                let lease = self.compared(lease, record, Bug::RenewIgnoresEpoch, Bug::RenewIgnoresOwner);
                let step = step.as_ref().map(|(name, result)| (name.as_str(), result));
                let from = match record.state {
                    State::Running { lease_ends_at, .. } if self.has(Bug::RenewFromLeaseEnd) => lease_ends_at,
                    _ => now,
                };
                let renewed = machine::renew(record, &lease, terms, step, from).map(|mut renewed| {
                    if let (true, Some((name, result)), State::Running { notes, .. }) =
                        (self.has(Bug::StepNotedTwice), step, &mut renewed.state)
                    {
                        notes.steps.push((name.to_owned(), result.clone()));
                    }
                    renewed
                });
                renewed.map_or(Change::None, Change::Write)
            })
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.change(lease, |record, now| {
                let lease = self.compared(lease, record, Bug::CompleteIgnoresEpoch, Bug::CompleteIgnoresOwner);
                let completion =
                    Completion { outcome: self.stored((*completion.outcome).clone()).into(), ..completion };
                let completed = matches!(record.state, State::Completed { outcome: Some(_), .. });
                let ours = record.lease() == lease;
                if completed && ours && self.has(Bug::SecondOutcomeIsApplied) {
                    return Change::Write(record.clone());
                }
                if completed && ours && self.has(Bug::SecondOutcomeReplaces) {
                    let expires_at = now + completion.retention;
                    let state = State::Completed { outcome: Some(completion.outcome), expires_at };
                    return Change::Write(Record { state, ..record.clone() });
                }
                machine::complete(record, &lease, &completion, now).map_or(Change::None, Change::Write)
            })
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.change(lease, |record, now| {
                let lease = self.compared(lease, record, Bug::ReleaseIgnoresEpoch, Bug::ReleaseIgnoresOwner);
                let completed = matches!(record.state, State::Completed { .. });
                if completed && record.lease() == lease && self.has(Bug::ReleaseFreesCompleted) {
                    return Change::Remove;
                }
                let end = match end {
                    End::Unknown if self.has(Bug::UnknownIsFreed) => End::Free(Duration::ZERO),
                    End::Free(_) if self.has(Bug::FreeForgetsEpoch) => End::Free(Duration::ZERO),
                    end => end,
                };
                machine::release(record, &lease, end, now)
            })
        })
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.change(lease, |record, now| {
                let lease = self.compared(lease, record, Bug::ResolveIgnoresEpoch, Bug::ResolveIgnoresOwner);
                if self.has(Bug::ResolveIgnoresLease) {
                    return match &resolution {
                        Resolution::Completed(completion) => {
                            machine::complete(record, &lease, completion, now).map_or(Change::None, Change::Write)
                        }
                        Resolution::NeverHappened(keep) => machine::release(record, &lease, End::Free(*keep), now),
                    };
                }
                let late = Duration::from_millis(u64::from(self.has(Bug::ResolveTooEarly)));
                machine::resolve(record, &lease, &resolution, now + late)
            })
        })
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            self.change(lease, |record, now| {
                let lease = self.compared(lease, record, Bug::ForgetIgnoresEpoch, Bug::ForgetIgnoresOwner);
                let (change, ours) = (machine::forget(record, &lease, now), record.lease() == lease);
                match (self.0.bug, &record.state, change) {
                    (Some(Bug::ForgetRemoves), _, Change::Write(_)) => Change::Remove,
                    (Some(Bug::ForgetFrees), _, Change::Write(next)) => {
                        Change::Write(Record { free_at: Some(now), ..next })
                    }
                    (Some(Bug::ForgetProlongs), _, Change::Write(next)) => {
                        Change::Write(Record { free_at: next.free_at.map(|end| end + MS), ..next })
                    }
                    (Some(Bug::ForgetKeepsTheAnswer), State::Completed { outcome, .. }, Change::Write(next)) => {
                        let state = State::Completed { outcome: outcome.clone(), expires_at: now };
                        Change::Write(Record { state, ..next })
                    }
                    (Some(Bug::ForgetEndsRuns), State::Running { .. }, _) if ours => {
                        let state = State::Completed { outcome: None, expires_at: now };
                        Change::Write(Record { state, takeover_at: None, ..record.clone() })
                    }
                    (Some(Bug::ForgetSucceedsOnce), State::Completed { outcome: None, .. }, _) => Change::None,
                    (_, _, change) => change,
                }
            })
        })
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(async move {
            let value = self.0.records.lock().get(&id).cloned();
            if let Some(record) = &value {
                self.check(id, record, Bug::MisplacedIsRead)?;
            }
            Ok(At { value, now: self.0.clock.now() })
        })
    }

    fn durability(&self) -> Durability {
        if self.has(Bug::DurableInNameOnly) { Durability::Disk } else { Durability::Process }
    }

    fn clock_uncertainty(&self) -> Duration {
        if self.0.loose { MS } else { Duration::ZERO }
    }
}

impl Sweep for Broken {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(async move {
            let mut records = self.0.records.lock();
            let now = self.0.clock.now() + if self.has(Bug::SweepTooEarly) { MS } else { Duration::ZERO };
            let limit = if self.has(Bug::SweepWithoutLimit) { usize::MAX } else { limit };
            let mut swept = Swept::default();
            let changes = records.iter().map(|(id, record)| {
                let lapsed = matches!(record.state, State::Running { lease_ends_at, .. } if lease_ends_at <= now);
                let free = machine::phase(Some(record), now) == Phase::Free;
                let change = machine::sweep(record, now);
                match (self.0.bug, change) {
                    (Some(Bug::SweepTakesRunning), Change::None) if lapsed => (*id, Change::Remove),
                    (Some(Bug::SweepForgetsTombstone), Change::Write(_)) => (*id, Change::Remove),
                    (Some(Bug::SweepForgetsEpoch), Change::None) if free => (*id, Change::Remove),
                    (_, change) => (*id, change),
                }
            });
            let changes: Vec<_> = changes.filter(|(_, change)| *change != Change::None).take(limit).collect();
            for (id, change) in changes {
                match change {
                    Change::Write(record) => {
                        swept.tombstoned += 1;
                        records.insert(id, record);
                    }
                    Change::Remove | Change::None => {
                        swept.removed += 1;
                        records.remove(&id);
                    }
                }
            }
            Ok(match self.0.bug {
                Some(Bug::SweepHidesMore) => swept,
                Some(Bug::SweepNeverEnds) => Swept { more: true, ..swept },
                _ => swept.within(limit),
            })
        })
    }
}

impl Inspect for Broken {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let range = page.scope.as_ref().filter(|_| !self.has(Bug::PageOfAllScopes)).map(RecordId::range);
            let misplaced = self.0.records.lock().iter().any(|(id, record)| {
                let within = range.is_none_or(|(low, high)| low <= *id && *id <= high);
                within && self.check(*id, record, Bug::MisplacedIsListed).is_err()
            });
            if misplaced {
                return Err(Error::new(ErrorKind::Corrupt, "another record lies there"));
            }
            let wanted = |record: &Record, _| {
                let all = page.scope.is_none() || self.has(Bug::PageOfAllScopes);
                all || page.scope.as_ref() == Some(&record.scope)
            };
            Ok(At { value: self.page(page.after.as_ref(), page.limit, wanted)?, now: self.0.clock.now() })
        })
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(async move {
            let wanted = |record: &Record, now| match record.state {
                State::Running { lease_ends_at, .. } if self.has(Bug::LapsedTooLate) => lease_ends_at < now,
                State::Running { lease_ends_at, .. } => lease_ends_at <= now,
                State::Completed { .. } => self.has(Bug::LapsedWithCompleted),
            };
            Ok(At { value: self.page(after.as_ref(), limit, wanted)?, now: self.0.clock.now() })
        })
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(async move {
            let records = self.0.records.lock();
            let counts = |record: &&Record| record.scope == scope || self.has(Bug::CountOfAllScopes);
            let count = records.values().filter(counts).count() as u64;
            Ok(match self.0.bug {
                _ if self.0.loose => Count::AtLeast((count / 2).min(limit)),
                Some(Bug::CountWithoutLimit) => Count::AtLeast(count),
                Some(Bug::CountIsSureOfItsLimit) => Count::Exactly(count.min(limit)),
                _ => Count::up_to(count, limit),
            })
        })
    }
}

impl Harness for Broken {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { self.store() })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(Self::empty(self.0.bug, self.0.loose, self.0.clock.clone())) as Arc<dyn Store> })
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut records = self.0.records.lock();
            let record = records.get(&from).cloned().expect("there is a record to misplace");
            records.insert(to, record);
        })
    }
}
