//! The contract of a store, in three parts: [`Store`] has the conditional writes, [`Sweep`] cleans up, and [`Inspect`]
//! gives read access to many records.
//!
//! A store compares; the [machine](crate::machine) decides. Whoever implements these runs the conformance suite (feature
//! `conformance`), which is the contract in executable form.

mod error;
mod page;
mod shared;
mod swept;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
pub use crate::outcome::DecodeError;
pub use crate::record::{Name, Notes, Owner, State};
use crate::{Lease, Record, RecordId, Scope, Timestamp};
pub use error::{Error, ErrorKind};
pub use page::{CURSOR_BYTES_MAX, Count, Cursor, InvalidCursor, PAGE_RECORDS_MAX, Page, PageRequest};
pub use swept::Swept;

/// A store of records.
///
/// # What the engine relies on
///
/// - **Each write is one atomic step**, also against every other process on the same store, and is durable
///   to the degree that [`durability`](Self::durability) states before its future yields `Ok`.
/// - **Time is the store's.** Each answer carries the store's now. A store never uses a caller's clock.
/// - **A write takes effect only if epoch and owner match** the record; otherwise it changes nothing and
///   says [`Applied::Lost`].
/// - **Each call can be sent again** with the same arguments after an error, and then has no further effect.
/// - **A future may be dropped at any point.** The write then happened or did not; the store stays usable.
/// - **A record names its scope and key**, and a store that reads one under another identity reports
///   [`ErrorKind::Corrupt`], never the record.
///
/// # What an implementor must never do
///
/// Decide policy: no retention, takeover rule or guarantee belongs in SQL or Lua. Answer `Ok` for a write that
/// may be lost in the crash that [`durability`](Self::durability) claims to survive. Treat a record that cannot
/// be read as absent: that is a second run.
///
/// No method has a default body, so that a forgotten one does not compile.
///
/// A store can be chosen at run time: an `Arc<dyn Store>` is a store.
pub trait Store: Sweep + Inspect {
    /// Wins the key for `claim`, or returns the existing record.
    ///
    /// Won if there is no record; or `free_at` is reached; or `takeover_at` is reached and the fingerprint is
    /// the same; or the running record's owner is already the claim's. See [`machine::claim`](crate::machine::claim).
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>>;

    /// Renews a running record's lease on `terms`, and notes a finished step.
    fn renew(&self, lease: Lease, terms: Terms, step: Option<(String, Bytes)>)
    -> BoxFuture<'_, Result<Applied, Error>>;

    /// Writes the outcome of a running record. Sent again, it finds its own outcome, changes nothing and succeeds; if
    /// it finds another outcome, it is lost.
    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Ends a running record without an outcome.
    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Writes what became of a run whose outcome is unknown. Unlike the owner's own writes, it changes nothing unless the
    /// lease has ended on the store's clock: the owner may have renewed it since the caller read the record. See
    /// [`machine::resolve`](crate::machine::resolve).
    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Takes the answer of a completed record away and leaves its tombstone, which keeps its own end. Unlike the owner's own
    /// writes, it is an operator's: `lease` is that of the record that the operator saw, so a later record is left alone.
    /// Sent again, it changes nothing and succeeds. See [`machine::forget`](crate::machine::forget).
    ///
    /// A store that keeps copies of answers elsewhere says `Ok` only once none of them is given any longer.
    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>>;

    /// Reads one record.
    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>>;

    /// What an acknowledged write survives.
    fn durability(&self) -> Durability;

    /// How far apart two readings of the store's clock can be at one instant, on two of its machines or before and after
    /// a failover. Zero where one clock decides.
    ///
    /// In the store, every lease ends this much later than its owner believes: so nobody takes over a run that is still
    /// held. See [`Terms::with_clock_uncertainty`].
    fn clock_uncertainty(&self) -> Duration;
}

/// Cleaning up.
///
/// A store whose database removes records by itself cleans what is left over.
pub trait Sweep: Debug + Send + Sync + 'static {
    /// Takes the answers from expired records and removes those past their tombstone, `limit` records at most. It may stop
    /// before that, so that other writes need not wait for it; [`Swept::more`] says whether to call it again.
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>>;
}

/// Read access to many records: for operators, for the limit of a scope, and to find the runs that nobody works on.
///
/// Nothing that concerns one request rests on it, so an index may name a record that is gone: it is passed over. Pages come
/// in an order of the store's own. A record that is there from the first page to the last is on exactly one of them; one
/// that comes or goes meanwhile is on one of them or on none.
pub trait Inspect: Debug + Send + Sync + 'static {
    /// Reads a page of records.
    ///
    /// A cursor that the store cannot read is [`ErrorKind::Refused`].
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>>;

    /// Reads a page of running records whose lease has ended: what nobody is working on. There are few, so an index on them
    /// is small.
    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>>;

    /// Counts the records of `scope`, and no further than `limit`.
    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>>;
}

/// A value, and the store's clock when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// The store's now.
    pub now: Timestamp,
}

/// Whether a conditional write changed the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a write that was lost means that another owner has the record"]
pub enum Applied {
    /// It changed the record, at this time.
    Applied(Timestamp),
    /// Epoch or owner no longer match, the record is final, or it is gone; or, for a resolution, the outcome is not
    /// unknown; or there is no answer to forget. Nothing was changed.
    Lost,
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: it lives in the process.
    Process,
    /// A crash of the process, and perhaps not one of the machine or a failover.
    Replica,
    /// A crash of the machine: it was synced to disk.
    Disk,
}
