//! The end of unknown outcomes: by an operator's word, or by a resolver that can find out.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Engine, Error};
use crate::machine::{self, Completion, End, Phase};
use crate::store::{Applied, PAGE_RECORDS_MAX};
use crate::{Outcome, Record, RecordId};

/// What became of a run whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It took effect, and this is its answer from now on.
    Completed(Outcome),
    /// It never took effect: the key is free, and a retry runs.
    ///
    /// Only for a run that cannot still be under way: a process that was paused and goes on would make it two.
    NeverHappened,
}

/// Finds out what became of a run, for example by asking the payment provider.
///
/// Asked at the next retry of the request, and by [`Engine::resolve_unknown`]. It may be asked by several processes
/// at once; the first resolution to be written counts.
pub trait Resolver: Debug + Send + Sync + 'static {
    /// What became of the run of `record`; `None` if that cannot be found out yet.
    fn resolve<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Option<Resolution>>;
}

/// Whether a resolution was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Resolved {
    /// It was.
    Applied,
    /// The record's outcome is not unknown: it is in this phase, and nothing was changed.
    NotUnknown(Phase),
}

impl Engine {
    /// Asks `resolver` about unknown outcomes, from now on.
    ///
    /// Returns a handle that shares everything else with this one.
    #[must_use]
    pub fn with_resolver(mut self, resolver: impl Resolver) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Writes an operator's word on the record `id`, if its outcome is unknown.
    ///
    /// # Errors
    ///
    /// If the store failed.
    pub async fn resolve(&self, id: RecordId, resolution: Resolution) -> Result<Resolved, Error> {
        let found = self.inner.store.read(id).await?;
        match (machine::phase(found.value.as_ref(), found.now), found.value) {
            (Phase::Unknown, Some(record)) => self.write(&record, resolution).await,
            (phase, _) => Ok(Resolved::NotUnknown(phase)),
        }
    }

    /// Asks the resolver about every run whose outcome is unknown, and writes what it finds out. Returns how many were
    /// resolved. For a task that runs now and then; without a resolver it does nothing.
    ///
    /// # Errors
    ///
    /// If the store failed.
    pub async fn resolve_unknown(&self) -> Result<usize, Error> {
        let (mut resolved, mut after) = (0, None);
        if self.resolver.is_none() {
            return Ok(0);
        }
        loop {
            let page = self.inner.store.lapsed(after, PAGE_RECORDS_MAX).await?;
            let Some(last) = page.value.last() else { return Ok(resolved) };
            after = Some(last.id());
            for record in &page.value {
                if machine::phase(Some(record), page.now) == Phase::Unknown && self.ask_resolver(record).await? {
                    resolved += 1;
                }
            }
        }
    }

    /// Asks the resolver about `record`, whose outcome is unknown, and says whether it is now resolved.
    pub(super) async fn ask_resolver(&self, record: &Record) -> Result<bool, Error> {
        let Some(resolver) = &self.resolver else { return Ok(false) };
        let Some(resolution) = resolver.resolve(record).await else { return Ok(false) };
        Ok(self.write(record, resolution).await? == Resolved::Applied)
    }

    /// Writes in the place of the owner that died, under its epoch: if it is still there after all, the first wins.
    async fn write(&self, record: &Record, resolution: Resolution) -> Result<Resolved, Error> {
        let (store, lease) = (&self.inner.store, record.lease());
        let applied = match resolution {
            Resolution::Completed(outcome) => {
                store.complete(lease, Completion::new(outcome, &self.inner.policy)).await?
            }
            Resolution::NeverHappened => store.release(lease, End::Free).await?,
        };
        Ok(match applied {
            Applied::Applied(_) => Resolved::Applied,
            Applied::Lost => Resolved::NotUnknown(Phase::Completed),
        })
    }
}
