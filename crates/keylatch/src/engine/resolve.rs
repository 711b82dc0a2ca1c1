//! Resolves unknown outcomes: by an operator, or by a resolver that can find out.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{Engine, Error};
use crate::machine::{self, Completion, Phase};
use crate::store::{Applied, At, PAGE_RECORDS_MAX};
use crate::{Outcome, Record, RecordId};

/// What became of a run whose outcome was unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It took effect, and this is its answer from now on.
    Completed(Outcome),
    /// It never took effect: the key is free, and a retry runs.
    ///
    /// Only for a run that cannot still be running: a process that was paused and continues would cause a second
    /// effect.
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
#[non_exhaustive]
pub enum Resolved {
    /// A resolution was written.
    Applied,
    /// No resolution was written, because the outcome is not unknown, or no longer. This is the current phase of the
    /// record: [`Phase::Running`] if its owner is alive and has renewed its lease, [`Phase::Free`] or
    /// [`Phase::Completed`] if another resolution was first.
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

    /// Writes an operator's resolution of the record `id`, if its outcome is unknown. It is not unknown if its run is
    /// running in this engine, even if its lease has ended.
    ///
    /// The store checks this again when it writes the resolution: if the owner has come back and renewed its lease, its
    /// run continues.
    ///
    /// # Errors
    ///
    /// If the store failed.
    pub async fn resolve(&self, id: RecordId, resolution: Resolution) -> Result<Resolved, Error> {
        let found = self.inner.store.read(id).await?;
        match (machine::phase(found.value.as_ref(), found.now), found.value) {
            (Phase::Unknown, Some(record)) if self.inner.flights.has(&record) => {
                Ok(Resolved::NotUnknown(Phase::Running))
            }
            (Phase::Unknown, Some(record)) => self.write(&record, resolution).await,
            (phase, _) => Ok(Resolved::NotUnknown(phase)),
        }
    }

    /// Asks the resolver about every run whose outcome is unknown, and writes what it finds out. Returns how many were
    /// resolved. Call it at intervals. Without a resolver it does nothing.
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
            let At { value: page, now } = self.inner.store.lapsed(after, PAGE_RECORDS_MAX).await?;
            for record in &page.records {
                if machine::phase(Some(record), now) == Phase::Unknown
                    && self.ask_resolver(record).await? == Some(Resolved::Applied)
                {
                    resolved += 1;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(resolved);
            }
        }
    }

    /// Asks the resolver about `record`, whose outcome is unknown, and writes what it says; `None` if that is nothing.
    /// It is not asked about a run that is running here: its lease has ended, but the run is alive.
    pub(super) async fn ask_resolver(&self, record: &Record) -> Result<Option<Resolved>, Error> {
        let Some(resolver) = self.resolver.as_ref().filter(|_| !self.inner.flights.has(record)) else {
            return Ok(None);
        };
        let Some(resolution) = resolver.resolve(record).await else { return Ok(None) };
        Ok(Some(self.write(record, resolution).await?))
    }

    /// Writes under the lease of the owner that is presumed dead: if it is still alive, nothing is written.
    async fn write(&self, record: &Record, resolution: Resolution) -> Result<Resolved, Error> {
        let store = &self.inner.store;
        let resolution = match resolution {
            Resolution::Completed(outcome) => machine::Resolution::Completed(Completion::new(outcome, &self.policy)),
            Resolution::NeverHappened => machine::Resolution::NeverHappened(self.policy.keep()),
        };
        match store.resolve(record.lease(), resolution).await? {
            Applied::Applied(_) => Ok(Resolved::Applied),
            Applied::Lost => {
                let found = store.read(record.id()).await?;
                Ok(Resolved::NotUnknown(machine::phase(found.value.as_ref(), found.now)))
            }
        }
    }
}
