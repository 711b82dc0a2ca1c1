//! A store with an outbox that fails on demand, or makes a mistake: SQLite's, with something in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keylatch::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use keylatch::outbox::{Backlog, Fate, Outbox, Pending, Place, Settled, Skip, Stuck};
use keylatch::sqlite;
use keylatch::store::{
    Applied, At, Count, Cursor, Durability, Error, ErrorKind, Inspect, Page, PageRequest, Store, Sweep, Swept,
};
use keylatch::{Lease, Record, RecordId, Scope};
use parking_lot::Mutex;

/// Something that an outbox may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// Reads go on after the highest number that was read.
    CursorScans,
    /// Events are deleted when they are read.
    DeletesBeforeAcknowledgement,
}

/// A clone is the same store.
#[derive(Debug, Clone)]
pub(crate) struct Between(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: sqlite::Store,
    mistake: Option<Mistake>,
    read_to: AtomicU64,
    reads: AtomicUsize,
    failing_reads: AtomicUsize,
    /// How often a settling is not done, and then how often its reply is lost.
    unsettled: AtomicUsize,
    lost_replies: AtomicUsize,
    lease: Mutex<Option<Lease>>,
}

impl Between {
    pub(crate) fn new(store: sqlite::Store, mistake: Option<Mistake>) -> Self {
        Self(Arc::new(Inner {
            store,
            mistake,
            read_to: AtomicU64::new(0),
            reads: AtomicUsize::new(0),
            failing_reads: AtomicUsize::new(0),
            unsettled: AtomicUsize::new(0),
            lost_replies: AtomicUsize::new(0),
            lease: Mutex::default(),
        }))
    }

    /// The next reads fail, and the next settlings fail; after those, the next settlings are done, and their replies are
    /// lost.
    pub(crate) fn fails(&self, reads: usize, unsettled: usize, lost_replies: usize) {
        self.0.failing_reads.store(reads, Ordering::SeqCst);
        self.0.unsettled.store(unsettled, Ordering::SeqCst);
        self.0.lost_replies.store(lost_replies, Ordering::SeqCst);
    }

    /// How often the outbox was read.
    pub(crate) fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }
}

fn takes_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn failure<T>(kind: ErrorKind) -> Result<T, Error> {
    Err(Error::new(kind, "as the test wants"))
}

impl Outbox for Between {
    fn pending(&self, limit: usize, bytes: usize, skip: Skip) -> BoxFuture<'_, Result<Vec<Pending>, Error>> {
        Box::pin(async move {
            self.0.reads.fetch_add(1, Ordering::SeqCst);
            if takes_one(&self.0.failing_reads) {
                return failure(ErrorKind::Unavailable);
            }
            let mut pending = self.0.store.pending(limit, bytes, skip).await?;
            if self.0.mistake == Some(Mistake::CursorScans) {
                pending.retain(|pending| pending.seq > self.0.read_to.load(Ordering::SeqCst));
                self.0.read_to.fetch_max(pending.last().map_or(0, |last| last.seq), Ordering::SeqCst);
            }
            if self.0.mistake == Some(Mistake::DeletesBeforeAcknowledgement) {
                let gone = |pending: &Pending| Settled { place: pending.place(), fate: Fate::Acknowledged };
                let lease = self.0.lease.lock().expect("the relay has a lease");
                let _ = self.0.store.settle(lease, pending.iter().map(gone).collect()).await?;
            }
            Ok(pending)
        })
    }

    fn settle(&self, lease: Lease, settled: Vec<Settled>) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            if takes_one(&self.0.unsettled) {
                return failure(ErrorKind::Unavailable);
            }
            let applied = self.0.store.settle(lease, settled).await?;
            if takes_one(&self.0.lost_replies) { failure(ErrorKind::NotKnown) } else { Ok(applied) }
        })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        self.0.store.woken()
    }

    fn wake(&self) {
        self.0.store.wake();
    }

    fn stuck(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Stuck>, Error>> {
        self.0.store.stuck(after, limit)
    }

    fn retry(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        self.0.store.retry(place)
    }

    fn discard(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        self.0.store.discard(place)
    }

    fn backlog(&self, limit: u64) -> BoxFuture<'_, Result<At<Backlog>, Error>> {
        self.0.store.backlog(limit)
    }
}

impl Store for Between {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            let claimed = self.0.store.claim(claim).await?;
            if let Claimed::Won(record) = &claimed.value {
                *self.0.lease.lock() = Some(record.lease());
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
        self.0.store.renew(lease, terms, step)
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        self.0.store.complete(lease, completion)
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        self.0.store.release(lease, end)
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        self.0.store.resolve(lease, resolution)
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        self.0.store.forget(lease)
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        self.0.store.read(id)
    }

    fn durability(&self) -> Durability {
        self.0.store.durability()
    }

    fn clock_uncertainty(&self) -> Duration {
        self.0.store.clock_uncertainty()
    }
}

impl Sweep for Between {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        self.0.store.sweep(limit)
    }
}

impl Inspect for Between {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.0.store.list(page)
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        self.0.store.lapsed(after, limit)
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        self.0.store.count(scope, limit)
    }
}
