//! The steps of a request on its way to its answer.

use std::time::Instant;

use super::flight::{Elsewhere, End, Flight, Leader};
use super::patience::Patience;
use super::recorded::check_owner;
use super::{Answer, Engine, Error, Final, HeldRecord, Quota, Refused, Request};
use crate::RecordId;
use crate::machine::{self, Decision};
use crate::recent::{Parts, What};

/// A request that looks for its answer.
pub(super) struct Search<'e> {
    engine: &'e Engine,
    request: &'e Request,
    /// The parts of the request, if someone wants to know what differs in a request that is refused.
    parts: Option<&'e Parts>,
    id: RecordId,
    caller: u64,
    patience: Patience<'e>,
}

impl<'e> Search<'e> {
    pub(super) fn new(engine: &'e Engine, request: &'e Request, parts: Option<&'e Parts>) -> Self {
        let (id, caller) = (RecordId::of(&request.scope, &request.key), request.scope.caller_hash());
        Self { engine, request, parts, id, caller, patience: Patience::new(&engine.inner, request) }
    }

    pub(super) fn request(&self) -> &'e Request {
        self.request
    }

    /// Notes what the request got, if anyone wants to know. What ran here has been noted by its run.
    pub(super) fn saw<T>(&self, answer: &Result<Answer<T>, Error>) {
        let Some(recent) = self.engine.inner.recent.get() else { return };
        let what = match answer {
            Ok(Answer::Ran(_)) => return,
            Ok(Answer::Replayed(_)) => What::Replayed,
            Ok(Answer::Refused(Refused::InProgress)) => What::InProgress,
            Ok(Answer::Refused(Refused::Mismatch)) => What::Mismatch { differs: None },
            Ok(Answer::Refused(Refused::Unknown)) => What::Unknown,
            Ok(Answer::Refused(Refused::Expired)) => What::Expired,
            Ok(Answer::Refused(Refused::Quota(_))) => What::Quota,
            Err(_) => What::Failed,
        };
        recent.answered(self.id, (self.request.fingerprint, self.parts), what, self.patience.waited());
    }

    /// The answer in the cache of this process.
    pub(super) fn cached<T>(&self) -> Option<Answer<T>> {
        self.engine.inner.cache.find(&self.id, self.request).map(|found| found.answer(self.request))
    }

    /// Joins the runs of this process.
    pub(super) fn join(&self) -> Result<Leader, Elsewhere> {
        let Self { engine: Engine { inner, policy, .. }, request, parts, .. } = self;
        inner.flights.join(self.id, self.caller, (request.fingerprint, parts.copied()), *policy)
    }

    /// The answer of a request that does not lead; `None` if it has to look again.
    pub(super) async fn elsewhere<T>(&mut self, elsewhere: Elsewhere) -> Result<Option<Answer<T>>, Error> {
        match elsewhere {
            Elsewhere::Follow(flight) => self.follow(&flight).await,
            Elsewhere::Refused(quota) => self.refused(quota).await.map(Some),
        }
    }

    /// The answer of a request that has no place to run: it can still be replayed.
    async fn refused<T>(&self, quota: Quota) -> Result<Answer<T>, Error> {
        let inner = &self.engine.inner;
        let place = inner.flights.wait(self.caller);
        let recorded = if place.is_some() { inner.recorded(self.id, self.request).await? } else { None };
        Ok(recorded.unwrap_or(Refused::Quota(quota).into()))
    }

    async fn follow<T>(&mut self, flight: &Flight) -> Result<Option<Answer<T>>, Error> {
        let Self { engine: Engine { inner, .. }, request, id, .. } = *self;
        if flight.fingerprint() == request.fingerprint {
            // If another owner may have taken over, the answer may already be in the store.
            if !flight.holds(Instant::now()) {
                match inner.beside(id, flight, request).await? {
                    Some(Answer::Refused(Refused::InProgress)) => {}
                    decided => return Ok(decided),
                }
            }
            match self.patience.follow(flight).await {
                Some(End::Final(ended)) => return Ok(Some(ended.answer(request))),
                Some(End::Failed | End::Elsewhere) => return Ok(None),
                None => {}
            }
        }
        inner.beside(id, flight, request).await
    }

    /// The answer of a request whose key is held, by this record if it can be seen; `None` if it may try again.
    pub(super) async fn held<T>(
        &mut self,
        leader: &Leader,
        may_run: bool,
        held: Option<Box<HeldRecord>>,
    ) -> Result<Option<Answer<T>>, Error> {
        let in_progress = Ok(Some(Refused::InProgress.into()));
        let Some(held) = held else {
            return if self.patience.pause().await { Ok(None) } else { in_progress };
        };
        check_owner(&held.record, self.request)?;
        match machine::decide(Some(&held.record), self.request.fingerprint, held.now) {
            Decision::Run if may_run && self.patience.spend_try() => Ok(None),
            Decision::Run => in_progress,
            Decision::Replay(_) => Ok(Final::of(held.record, held.now, held.asked).map(|found| {
                self.engine.inner.remember(leader, &found);
                Answer::Replayed(found)
            })),
            Decision::Unknown
                if self.patience.spend_try() && self.engine.ask_resolver(&held.record).await?.is_some() =>
            {
                Ok(None)
            }
            Decision::Mismatch => Ok(Some(Refused::Mismatch.into())),
            Decision::Unknown => Ok(Some(Refused::Unknown.into())),
            Decision::Expired => Ok(Some(Refused::Expired.into())),
            Decision::Wait(_) if self.patience.pause().await => Ok(None),
            Decision::Wait(_) => in_progress,
        }
    }
}
