//! What the store has of a key, and what it means for a request.

use std::time::{Duration, Instant};

use super::flight::{Flight, Leader};
use super::{Answer, Error, Final, Inner, Refused, Request};
use crate::machine::{self, Claim, Decision, Terms};
use crate::store::{self, At, ErrorKind};
use crate::{Name, Owner, Record, RecordId, Timestamp};

impl Inner {
    /// The terms of a run of `flight`.
    pub(super) fn terms(&self, flight: &Flight) -> Terms {
        Terms::of(self.guarantee, flight.policy()).with_clock_uncertainty(self.store.clock_uncertainty())
    }

    pub(super) fn claim(&self, leader: &Leader, request: &Request, owner: Owner) -> Claim {
        let Request { scope, key, fingerprint, .. } = request.clone();
        let name = Name::identified(leader.id(), scope, key);
        Claim { name, fingerprint, guarantee: self.guarantee, owner, terms: self.terms(leader.flight()) }
    }

    /// Until when a lease that was requested at `asked` cannot have been taken over.
    pub(super) fn held_until(&self, asked: Instant) -> Instant {
        surely(asked, self.lease)
    }

    /// The answer to `request` if it does not wait for the end of `flight`, or is a different request; `None` if
    /// `flight` turns out to have lost its lease, so that it says nothing about the key any more.
    ///
    /// Only a flight whose lease has not ended is known to hold the key, until its end is sent to the store. Any other
    /// flight may not have asked the store yet, may lose to another process, or may die before its transaction commits.
    /// So the record decides; and if there is none, nothing final can be said.
    pub(super) async fn beside<T>(
        &self,
        id: RecordId,
        flight: &Flight,
        request: &Request,
    ) -> Result<Option<Answer<T>>, Error> {
        if flight.is_running() && flight.holds(Instant::now()) {
            let same = flight.fingerprint() == request.fingerprint;
            return Ok(Some(if same { Refused::InProgress } else { Refused::Mismatch }.into()));
        }
        let found = match self.found(id, request).await {
            // The store knows no more than this process.
            Err(Error::Store(error)) if error.retryable() && flight.lease().is_some() => {
                return Ok(Some(Refused::InProgress.into()));
            }
            found => found?,
        };
        let lease = flight.lease();
        let own = lease.is_some() && lease == found.as_ref().map(|found| found.record.lease());
        if lease.is_some() && !own && !flight.is_ending() {
            flight.lose();
            return Ok(None);
        }
        let answer = found.and_then(|found| self.answer_in(*found, request));
        Ok(Some(match answer {
            // Its run is alive, even if its lease has ended.
            Some(Answer::Refused(Refused::Unknown)) if own => Refused::InProgress.into(),
            Some(answer) => answer,
            None => Refused::InProgress.into(),
        }))
    }

    /// What the record means for a request that may not claim the key; `None` if the key is free or can be taken over.
    pub(super) async fn recorded<T>(&self, id: RecordId, request: &Request) -> Result<Option<Answer<T>>, Error> {
        Ok(self.found(id, request).await?.and_then(|found| self.answer_in(*found, request)))
    }

    /// The record for `request`.
    async fn found(&self, id: RecordId, request: &Request) -> Result<Option<Box<HeldRecord>>, Error> {
        let asked = Instant::now();
        let At { value, now } = self.store.read(id).await?;
        let Some(record) = value else { return Ok(None) };
        check_owner(&record, request)?;
        Ok(Some(HeldRecord::new(At { value: record, now }, asked)))
    }

    pub(super) fn answer_in<T>(&self, found: HeldRecord, request: &Request) -> Option<Answer<T>> {
        let HeldRecord { record, now, asked } = found;
        match machine::decide(Some(&record), request.fingerprint, now) {
            Decision::Run => None,
            Decision::Wait(_) => Some(Refused::InProgress.into()),
            Decision::Mismatch => Some(Refused::Mismatch.into()),
            Decision::Unknown => Some(Refused::Unknown.into()),
            Decision::Expired => Some(Refused::Expired.into()),
            Decision::Replay(_) => Final::of(record, now, asked).map(|found| {
                self.keep(RecordId::of(&request.scope, &request.key), &found);
                Answer::Replayed(found)
            }),
        }
    }

    /// Keeps a final outcome for the waiting requests and for later ones.
    pub(super) fn remember(&self, leader: &Leader, found: &Final) {
        self.keep(leader.id(), found);
        leader.end_with(found.clone());
    }

    /// Keeps a final outcome for later requests: in this process, and where other regions look for it.
    pub(super) fn keep(&self, id: RecordId, found: &Final) {
        self.cache.keep(id, found);
        if let Some(copies) = self.shared.get() {
            copies.copy(found.record(self.guarantee), found.valid_until());
        }
    }

    /// Whether a final outcome is kept anywhere for later requests.
    pub(super) fn keeps(&self) -> bool {
        self.cache.keeps() || self.shared.get().is_some()
    }
}

/// `span` after `instant`, as far as the clock goes.
pub(super) fn later(instant: Instant, span: Duration) -> Instant {
    /// Longer than any process lives, and within the range of every clock.
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    instant + span.min(FAR)
}

/// An instant by which at most `span` has passed on a store's clock that was read after `asked`.
pub(crate) fn surely(asked: Instant, span: Duration) -> Instant {
    /// What rounding may leave out when a store's clock is read.
    const PRECISION: Duration = Duration::from_millis(1);
    later(asked, span.saturating_sub(PRECISION))
}

/// A store that returns the record of another key is damaged: that answer must not reach this request.
pub(super) fn check_owner(record: &Record, request: &Request) -> Result<(), Error> {
    if record.belongs_to(&request.scope, &request.key) {
        return Ok(());
    }
    let why = "a record of another scope or key is stored under this identity";
    Err(store::Error::new(ErrorKind::Corrupt, why).into())
}

/// A record that another owner holds, as a drive found it.
pub(super) struct HeldRecord {
    pub(super) record: Record,
    pub(super) now: Timestamp,
    /// When it was requested, on this process's clock: no later than `now` was read.
    pub(super) asked: Instant,
}

impl HeldRecord {
    pub(super) fn new(found: At<Record>, asked: Instant) -> Box<Self> {
        Box::new(Self { record: found.value, now: found.now, asked })
    }
}
