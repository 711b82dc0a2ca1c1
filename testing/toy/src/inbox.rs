//! The contract of an inbox: places and dead letters, under the lock of the records. Whoever changes a place has the
//! turn of a transaction.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use keylatch_core::inbox::{
    self, Batch, BatchEnd, DeadLetter, DeadLetterId, DeadLettersRequest, Inbox, Listed, Order, Ownership, Place,
    PlaceName, Places, PlacesRequest, Sharing, Step, Triage, Trouble, Why,
};
use keylatch_core::outbox::Events;
use keylatch_core::store::{Applied, At, Cursor, Error, PAGE_RECORDS_MAX};
use keylatch_core::tx::{Ending, Misuse};
use keylatch_core::{Epoch, Owner, Timestamp};

use crate::{Mistake, State, Store, Texts, Written, store};

/// The dead letters, in their order.
pub(crate) type DeadLetters = BTreeMap<(PlaceName, i64, [u8; 32]), DeadLetter>;

fn name_of(letter: &DeadLetterId) -> (PlaceName, i64, [u8; 32]) {
    (letter.place.clone(), letter.offset, *letter.digest.as_bytes())
}

impl Places for Store {
    fn place(&self, place: PlaceName) -> BoxFuture<'_, Result<At<Option<Place>>, Error>> {
        let value = self.state.lock().places.get(&place).cloned();
        Box::pin(ready(Ok(At { value, now: self.clock.now() })))
    }

    fn places(&self, page: PlacesRequest) -> BoxFuture<'_, Result<At<Listed<Place>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(PlaceName::of_cursor).transpose()?;
            let is_wanted = |place: &Place| {
                after.as_ref().is_none_or(|after| place.name > *after)
                    && page.consumer.as_deref().is_none_or(|consumer| place.name.consumer() == consumer)
            };
            let state = self.state.lock();
            Ok(self.listed(state.places.values(), is_wanted, page.limit, |place| place.name.cursor()))
        })
    }

    fn move_to(&self, place: PlaceName, seen: Option<Epoch>, next: i64) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Step { from: None, to: next, last: None }.check()?;
            let name = place.clone();
            self.change_place(place, |place, now| inbox::move_to(place, &name, seen, next, now)).await
        })
    }

    fn dead_letters(&self, page: DeadLettersRequest) -> BoxFuture<'_, Result<At<Listed<DeadLetter>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(DeadLetterId::of_cursor).transpose()?.as_ref().map(name_of);
            let is_wanted = |letter: &DeadLetter| {
                after.as_ref().is_none_or(|after| name_of(&letter.id) > *after) && page.asks_for(letter)
            };
            let state = self.state.lock();
            Ok(self.listed(state.letters.values(), is_wanted, page.limit, |letter| letter.id.cursor()))
        })
    }

    fn remove(&self, place: PlaceName, seen: Epoch) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let _turn = self.transaction.lock().await;
            let (state, now) = (&mut *self.state.lock(), self.clock.now());
            if !inbox::may_remove(state.places.get(&place), seen) {
                return Ok(Applied::Lost);
            }
            state.places.remove(&place);
            Ok(Applied::Applied(now))
        })
    }

    fn sweep_dead_letters(&self, consumer: String, age: Duration, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        let (state, now) = (&mut *self.state.lock(), self.clock.now());
        let is_old = |letter: &DeadLetter| letter.buried_at + age < now;
        let of_consumer = state.letters.iter().filter(|(_, letter)| letter.id.place.consumer() == consumer);
        let due = of_consumer.filter(|(_, letter)| is_old(letter) && !letter.wanted);
        let due: Vec<_> = due.map(|(name, _)| name.clone()).take(limit).collect();
        due.iter().for_each(|name| drop(state.letters.remove(name)));
        Box::pin(ready(Ok(due.len())))
    }

    fn order(&self, letter: DeadLetterId, order: Order) -> BoxFuture<'_, Result<bool, Error>> {
        let letters = &mut self.state.lock().letters;
        let is_there = match (order, letters.get_mut(&name_of(&letter))) {
            (_, None) => false,
            (Order::Discard, Some(_)) => letters.remove(&name_of(&letter)).is_some(),
            (Order::Replay | Order::Keep, Some(letter)) => {
                letter.wanted = order == Order::Replay;
                true
            }
        };
        Box::pin(ready(Ok(is_there)))
    }
}

impl Inbox for Store {
    fn sharing(&self) -> Sharing {
        Sharing::OneProcess
    }

    fn take(&self, place: PlaceName, owner: Owner) -> BoxFuture<'_, Result<At<Place>, Error>> {
        Box::pin(async move {
            let _turn = self.transaction.lock().await;
            let (state, now) = (&mut *self.state.lock(), self.clock.now());
            let taken = inbox::take(state.places.get(&place), &place, owner, now);
            state.places.insert(place, taken.clone());
            Ok(At { value: taken, now })
        })
    }

    fn apply(&self, batch: Batch<Texts>) -> BoxFuture<'_, Result<BatchEnd, Error>> {
        Box::pin(async move {
            batch.check()?;
            self.apply_batch(batch).await
        })
    }

    fn advance(&self, ownership: Ownership, step: Step) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            step.check()?;
            let place = ownership.place.clone();
            self.change_place(place, |place, now| inbox::advance(place?, &ownership, &step, now)).await
        })
    }

    fn give_back(&self, ownership: Ownership) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let place = ownership.place.clone();
            let given = |place: &Place, now| match inbox::give_back(place, &ownership, now) {
                Some(_) if self.makes(Mistake::ReturnIsForgotten) => Some(place.clone()),
                given => given,
            };
            self.change_place(place, |place, now| given(place?, now)).await
        })
    }

    fn begin_try(&self, ownership: Ownership, offset: i64) -> BoxFuture<'_, Result<Option<u32>, Error>> {
        Box::pin(async move {
            let _turn = self.transaction.lock().await;
            let (state, now) = (&mut *self.state.lock(), self.clock.now());
            let place = state.places.get(&ownership.place);
            let Some(tried) = place.and_then(|place| inbox::begin_try(place, &ownership, offset, now)) else {
                return Ok(None);
            };
            let attempts = tried.tried.map(|tried| tried.attempts);
            let counted =
                if self.makes(Mistake::TryIsCountedAfterwards) { &mut state.tried } else { &mut state.places };
            counted.insert(ownership.place, tried);
            Ok(attempts)
        })
    }

    fn bury(
        &self,
        ownership: Ownership,
        offset: i64,
        trouble: Trouble,
        step: Option<Step>,
        events: Events,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            step.map_or(Ok(()), |step| step.check())?;
            let _turn = self.transaction.lock().await;
            let (state, now) = (&mut *self.state.lock(), self.clock.now());
            let place = state.places.get(&ownership.place);
            let passed = place.and_then(|place| match &step {
                Some(step) => inbox::advance(place, &ownership, step, now),
                None => place.is_of(&ownership).then(|| place.clone()),
            });
            if passed.is_none() && !self.makes(Mistake::DeadLetterCommitsAlone) {
                return Ok(Applied::Lost);
            }
            let id = DeadLetterId { place: ownership.place.clone(), offset, digest: trouble.digest };
            let letter = DeadLetter { id, trouble, wanted: false, buried_at: now };
            if let Entry::Vacant(vacant) = state.letters.entry(name_of(&letter.id)) {
                vacant.insert(letter);
                state.queue.extend(&events, now);
                self.published.notify_one();
            } else if self.makes(Mistake::BurialRepeatsItsEvents) {
                state.queue.extend(&events, now);
            }
            let Some(passed) = passed else { return Ok(Applied::Lost) };
            state.places.insert(ownership.place, passed);
            Ok(Applied::Applied(now))
        })
    }
}

impl Store {
    /// Writes what `decide` makes of the place, unless that is nothing.
    async fn change_place(
        &self,
        name: PlaceName,
        decide: impl FnOnce(Option<&Place>, Timestamp) -> Option<Place>,
    ) -> Result<Applied, Error> {
        let _turn = self.transaction.lock().await;
        let (state, now) = (&mut *self.state.lock(), self.clock.now());
        let Some(changed) = decide(state.places.get(&name), now) else { return Ok(Applied::Lost) };
        state.places.insert(name, changed);
        Ok(Applied::Applied(now))
    }

    fn listed<'a, T: Clone + 'a>(
        &self,
        all: impl Iterator<Item = &'a T>,
        is_wanted: impl Fn(&T) -> bool,
        limit: usize,
        cursor: impl FnOnce(&T) -> Cursor,
    ) -> At<Listed<T>> {
        let items = all.filter(|item| is_wanted(item)).take(limit.min(PAGE_RECORDS_MAX)).cloned().collect();
        At { value: Listed::new(items, limit, cursor), now: self.clock.now() }
    }

    async fn apply_batch(&self, batch: Batch<Texts>) -> Result<BatchEnd, Error> {
        let _turn = self.transaction.lock().await;
        let triage = match self.triage(&batch)? {
            Ok(triage) => triage,
            Err(end) => return Ok(end),
        };
        let Batch { ownership, step, letter, parts } = batch;
        if self.makes(Mistake::PlaceMovesAlone) {
            self.pass(&mut self.state.lock(), &ownership, step.as_ref());
        }
        let mut written = Written::default();
        let mut completed = Vec::new();
        for (part, triaged) in parts.into_iter().zip(triage.parts) {
            if triaged.fresh.is_empty() {
                continue;
            }
            let failed = |why| Ok(BatchEnd::Failed { at: Some(triaged.first), why });
            let (start, fresh) = (part.start, triaged.fresh);
            let (ending, returned) = self.lend(written, |handle| start(handle, fresh)).await;
            written = match (ending, returned) {
                (Ending::Commit(_), Some(written)) if written.failed => return failed(Why::Misused(Misuse::Failed)),
                (Ending::Commit(completion), Some(written)) => {
                    completed.extend(triaged.entered.into_iter().map(|entered| (entered, completion.clone())));
                    written
                }
                (Ending::Commit(_), None) => return failed(Why::Misused(Misuse::NotReturned)),
                (Ending::RecordOnly(_) | Ending::RollBack, _) => {
                    let state = &mut *self.state.lock();
                    if let Some(tried) = state.tried.remove(&ownership.place) {
                        state.places.insert(ownership.place, tried);
                    }
                    return failed(Why::Ended);
                }
            };
        }
        let (state, now) = (&mut *self.state.lock(), self.clock.now());
        // A claim on a lease may have come in between.
        if completed.iter().any(|(entered, _)| state.records.get(&entered.record().id()) != entered.previous()) {
            return Ok(BatchEnd::Held { at: 0, record: None });
        }
        for (entered, completion) in completed {
            state.records.insert(entered.record().id(), entered.completed(&completion, now));
        }
        state.texts.extend(written.texts);
        state.queue.extend(&written.events, now);
        if !self.makes(Mistake::PlaceMovesAlone) {
            self.pass(state, &ownership, step.as_ref());
        }
        if let Some(letter) = letter {
            state.letters.remove(&name_of(&letter));
        }
        if !written.events.is_empty() {
            self.published.notify_one();
        }
        Ok(BatchEnd::Applied { known: triage.known })
    }

    /// Which messages are applied, or how the batch ends before any is.
    fn triage(&self, batch: &Batch<Texts>) -> Result<Result<Triage, BatchEnd>, Error> {
        let state = self.state.lock();
        let place = state.places.get(&batch.ownership.place);
        let is_there = place.is_some_and(|place| {
            (place.is_of(&batch.ownership) || self.makes(Mistake::EpochNotChecked))
                && (batch.step.is_none_or(|step| step.from == place.next) || self.makes(Mistake::OffsetNotChecked))
        });
        if !is_there {
            return Ok(Err(BatchEnd::Lost(place.cloned())));
        }
        if batch.letter.as_ref().is_some_and(|letter| !state.letters.contains_key(&name_of(letter))) {
            return Ok(Err(BatchEnd::NoDeadLetter));
        }
        let mut found = HashMap::new();
        for id in batch.claims().map(keylatch_core::machine::Claim::id) {
            if let Some(record) = state.records.get(&id).filter(|_| !self.makes(Mistake::IdsAreNotLookedUp)) {
                found.insert(id, store::own(id, record)?.clone());
            }
        }
        Ok(Triage::of(batch, &found, self.clock.now()))
    }

    /// Moves the place, which is the owner's unless a mistake says otherwise.
    fn pass(&self, state: &mut State, ownership: &Ownership, step: Option<&Step>) {
        let Some((step, place)) = step.zip(state.places.get_mut(&ownership.place)) else { return };
        let owned = Place { owner: Some(ownership.owner), epoch: ownership.epoch, next: step.from, ..place.clone() };
        let passed = inbox::advance(&owned, ownership, step, self.clock.now());
        *place = passed.unwrap_or_else(|| unreachable!("it stands where the step begins"));
    }
}
