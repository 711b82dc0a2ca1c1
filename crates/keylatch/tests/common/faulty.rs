//! A store that fails on demand: the memory store, with faults in front of it and behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keylatch::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Page, PageRequest, Store, Sweep, Swept,
};
use keylatch::{Lease, Record, RecordId, Scope, memory};
use parking_lot::Mutex;

use super::{Gate, until};

/// A method of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Claim,
    Renew,
    Complete,
    Release,
    Resolve,
    Forget,
    Read,
    Count,
    Sweep,
    Other,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The store never gets the call.
    Unavailable,
    /// The store executes the call, and its reply is lost.
    ReplyLost,
    /// The store does not execute the call, and never replies.
    RequestLost,
    /// A record exists but cannot be read.
    Corrupt,
    /// The returned record belongs to another key: it is the first record in the store.
    Misplaced,
    /// It waits until [`Faulty::gate`] is opened.
    Held,
    /// The store executes the call, and its reply waits until [`Faulty::gate`] is opened.
    ReplyHeld,
    /// For a completion: the store replies at once that it is done, and executes it when [`Faulty::gate`] is opened.
    Early,
}

/// The memory store with faults. A clone is the same store.
#[derive(Debug, Clone)]
pub(crate) struct Faulty(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: memory::Store,
    durability: Durability,
    clock_uncertainty: Mutex<Duration>,
    gate: Gate,
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    /// The faults of the next calls. The next one is last.
    next: HashMap<Op, Vec<Fault>>,
    /// The faults of all calls.
    always: HashMap<Op, Fault>,
    calls: HashMap<Op, usize>,
    /// The last claim whose call was lost.
    lost_claim: Option<Claim>,
    /// The records whose renewals hang.
    hung: HashSet<RecordId>,
    /// How often each record was renewed.
    renewed: HashMap<RecordId, usize>,
}

impl Faulty {
    pub(crate) fn new(store: memory::Store) -> Self {
        Self::with_durability(store, Durability::Process)
    }

    /// A store that claims to be durable, so that the engine keeps a cache.
    pub(crate) fn with_durability(store: memory::Store, durability: Durability) -> Self {
        let clock_uncertainty = Mutex::default();
        Self(Arc::new(Inner { store, durability, clock_uncertainty, gate: Gate::closed(), plan: Mutex::default() }))
    }

    /// From now on its clock is uncertain by this much.
    pub(crate) fn has_clock_uncertainty(&self, uncertainty: Duration) {
        *self.0.clock_uncertainty.lock() = uncertainty;
    }

    /// The next calls of `op` have these faults, in this order.
    pub(crate) fn next(&self, op: Op, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: Vec<_> = faults.into_iter().collect();
        faults.reverse();
        self.0.plan.lock().next.insert(op, faults);
    }

    /// All calls of `op` have this fault, until [`is_mended`](Self::is_mended).
    pub(crate) fn always(&self, op: Op, fault: Fault) {
        self.0.plan.lock().always.insert(op, fault);
    }

    /// The renewals of this record hang.
    pub(crate) fn hang_renewals_of(&self, id: RecordId) {
        self.0.plan.lock().hung.insert(id);
    }

    pub(crate) fn is_hung(&self, id: RecordId) -> bool {
        self.0.plan.lock().hung.contains(&id)
    }

    /// How often this record was renewed.
    pub(crate) fn renewals_of(&self, id: RecordId) -> usize {
        self.0.plan.lock().renewed.get(&id).copied().unwrap_or(0)
    }

    /// Every call fails, until [`is_mended`](Self::is_mended).
    pub(crate) fn goes_down(&self) {
        let all =
            [Op::Claim, Op::Renew, Op::Complete, Op::Release, Op::Resolve, Op::Read, Op::Count, Op::Sweep, Op::Other];
        all.into_iter().for_each(|op| self.always(op, Fault::Unavailable));
    }

    pub(crate) fn is_mended(&self) {
        let mut plan = self.0.plan.lock();
        plan.always.clear();
        plan.next.clear();
    }

    /// The last claim whose call was lost reaches the store after all.
    pub(crate) async fn lost_claim_arrives(&self) -> Claimed {
        let claim = self.0.plan.lock().lost_claim.take().expect("a claim was lost");
        self.0.store.claim(claim).await.expect("the memory store claims").value
    }

    /// The store behind the faults, for the test to look into.
    pub(crate) fn faultless(&self) -> &memory::Store {
        &self.0.store
    }

    /// The gate that held calls wait for.
    pub(crate) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// Waits until `op` was called this often.
    pub(crate) async fn called(&self, op: Op, times: usize) {
        until("the store is asked", async || self.calls(op) >= times).await;
    }

    /// How often `op` was called.
    pub(crate) fn calls(&self, op: Op) -> usize {
        self.0.plan.lock().calls.get(&op).copied().unwrap_or(0)
    }

    async fn call<T>(
        &self,
        op: Op,
        done: impl Future<Output = Result<T, Error>>,
        misplaced: impl FnOnce(At<Record>) -> T,
    ) -> Result<T, Error> {
        let fault = {
            let mut plan = self.0.plan.lock();
            *plan.calls.entry(op).or_default() += 1;
            plan.next.get_mut(&op).and_then(Vec::pop).or_else(|| plan.always.get(&op).copied())
        };
        match fault {
            None => done.await,
            Some(Fault::Unavailable) => Err(Error::new(ErrorKind::Unavailable, "planned")),
            Some(Fault::RequestLost) => Err(Error::new(ErrorKind::NotKnown, "planned")),
            Some(Fault::Corrupt) => Err(Error::new(ErrorKind::Corrupt, "planned")),
            Some(Fault::Misplaced) => {
                let mut page = self.0.store.list(PageRequest { limit: 1, ..PageRequest::default() }).await?;
                Ok(misplaced(At { value: page.value.records.pop().expect("there is a record"), now: page.now }))
            }
            Some(Fault::Held) => {
                self.0.gate.pass().await;
                done.await
            }
            Some(Fault::ReplyHeld) => {
                let done = done.await;
                self.0.gate.pass().await;
                done
            }
            Some(Fault::Early) => panic!("only completions can be early"),
            Some(Fault::ReplyLost) => {
                done.await?;
                Err(Error::new(ErrorKind::NotKnown, "planned"))
            }
        }
    }
}

fn no_record<T>(_: At<Record>) -> T {
    panic!("only claims and reads of one record can be misplaced")
}

impl Store for Faulty {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            let lost = claim.clone();
            let claimed = self.call(Op::Claim, self.0.store.claim(claim), |At { value, now }| At {
                value: Claimed::Held(value),
                now,
            });
            let claimed = claimed.await;
            if claimed.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotKnown) {
                self.0.plan.lock().lost_claim = Some(lost);
            }
            claimed
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            if self.0.plan.lock().hung.contains(&lease.id) {
                std::future::pending::<()>().await;
            }
            let renewed = self.call(Op::Renew, self.0.store.renew(lease, terms, step), no_record).await?;
            *self.0.plan.lock().renewed.entry(lease.id).or_default() += 1;
            Ok(renewed)
        })
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        let early = self.0.plan.lock().always.get(&Op::Complete) == Some(&Fault::Early);
        if !early {
            return Box::pin(self.call(Op::Complete, self.0.store.complete(lease, completion), no_record));
        }
        Box::pin(async move {
            *self.0.plan.lock().calls.entry(Op::Complete).or_default() += 1;
            let this = self.clone();
            drop(tokio::spawn(async move {
                this.0.gate.pass().await;
                this.0.store.complete(lease, completion).await
            }));
            Ok(Applied::Applied(self.0.store.read(lease.id).await?.now))
        })
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.call(Op::Release, self.0.store.release(lease, end), no_record))
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.call(Op::Resolve, self.0.store.resolve(lease, resolution), no_record))
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.call(Op::Forget, self.0.store.forget(lease), no_record))
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        Box::pin(self.call(Op::Read, self.0.store.read(id), |At { value, now }| At { value: Some(value), now }))
    }

    fn durability(&self) -> Durability {
        self.0.durability
    }

    fn clock_uncertainty(&self) -> Duration {
        *self.0.clock_uncertainty.lock()
    }
}

impl Sweep for Faulty {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        Box::pin(self.call(Op::Sweep, self.0.store.sweep(limit), no_record))
    }
}

impl Inspect for Faulty {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(self.call(Op::Other, self.0.store.list(page), no_record))
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        Box::pin(self.call(Op::Other, self.0.store.lapsed(after, limit), no_record))
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        Box::pin(self.call(Op::Count, self.0.store.count(scope, limit), no_record))
    }
}
