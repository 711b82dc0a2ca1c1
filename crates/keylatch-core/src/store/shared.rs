//! A store behind an `Arc`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{Applied, At, Count, Cursor, Durability, Error, Inspect, Page, PageRequest, Store, Sweep, Swept};
use crate::machine::{Claim, Claimed, Completion, End, Resolution, Terms};
use crate::{Lease, Record, RecordId, Scope};

/// A store that is chosen at run time, or shared.
impl<S: Store + ?Sized> Store for Arc<S> {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        (**self).claim(claim)
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        (**self).renew(lease, terms, step)
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        (**self).complete(lease, completion)
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        (**self).release(lease, end)
    }

    fn resolve(&self, lease: Lease, resolution: Resolution) -> BoxFuture<'_, Result<Applied, Error>> {
        (**self).resolve(lease, resolution)
    }

    fn forget(&self, lease: Lease) -> BoxFuture<'_, Result<Applied, Error>> {
        (**self).forget(lease)
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        (**self).read(id)
    }

    fn durability(&self) -> Durability {
        (**self).durability()
    }

    fn clock_uncertainty(&self) -> Duration {
        (**self).clock_uncertainty()
    }
}

impl<S: Sweep + ?Sized> Sweep for Arc<S> {
    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        (**self).sweep(limit)
    }
}

impl<S: Inspect + ?Sized> Inspect for Arc<S> {
    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Page>, Error>> {
        (**self).list(page)
    }

    fn lapsed(&self, after: Option<Cursor>, limit: usize) -> BoxFuture<'_, Result<At<Page>, Error>> {
        (**self).lapsed(after, limit)
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<Count, Error>> {
        (**self).count(scope, limit)
    }
}
