//! The contract of a cache in front of a store.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::store::Error;
use crate::{Record, RecordId};

/// A place for copies of final outcomes.
///
/// It may lose copies at any time. It must never return one record for another: a record names its scope and key, and
/// an implementor checks on every read that they belong to the requested identity.
pub trait Cache: Debug + Send + Sync + 'static {
    /// The copy under `id`, if there is one.
    fn find(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Keeps a copy of `record` for about this long, unless there is a copy, or an operator's [`forget`](Self::forget).
    fn keep(&self, record: Record, keep: Duration) -> BoxFuture<'_, Result<(), Error>>;

    /// Removes the copy under `id`, and keeps no other one for about this long: a process that has read the answer before
    /// it was taken from the store may be about to copy it.
    ///
    /// It is done when the future yields `Ok`, for every process that shares the cache.
    fn forget(&self, id: RecordId, block: Duration) -> BoxFuture<'_, Result<(), Error>>;
}
