//! The contract of an inbox, on PostgreSQL.
//!
//! A place is locked in the message that begins a batch's transaction, and moved in its last statement. Every other
//! change reads the place, asks the contract's pure functions, and writes the result if the place has not changed
//! meanwhile. Only [`take`](Inbox::take) is one statement, because it must not lose to an owner that is busy.

mod apply;
mod rows;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use keylatch_core::inbox::{
    self, Batch, BatchEnd, DeadLetter, DeadLetterId, DeadLettersRequest, Inbox, Listed, Order, Ownership, Place,
    PlaceName, Places, PlacesRequest, Reason, Sharing, Step, Trouble,
};
use keylatch_core::outbox::{Events, Outbox as _};
use keylatch_core::store::{Applied, At, Error, ErrorKind};
use keylatch_core::{Epoch, Owner, RecordId, Timestamp};
use sqlx::postgres::PgRow;

use super::error::{Fault, Sent};
use super::link::PgQuery;
use super::ops::{limit_of, scalar};
use super::options::HANDLER_PAUSE_MAX;
use super::outbox;
use super::own::client::Param;
use super::rows::{damaged, get};
use super::sql::Statement;
use super::tx::Postgres;
use super::{Shared, Store, span_ms};

impl Places for Store {
    fn place(&self, place: PlaceName) -> BoxFuture<'_, Result<At<Option<Place>>, Error>> {
        Box::pin(async move { Ok(self.shared.place(&place).await?) })
    }

    fn places(&self, page: PlacesRequest) -> BoxFuture<'_, Result<At<Listed<Place>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(PlaceName::of_cursor).transpose()?;
            let (consumer, topic, partition) = after_name(after.as_ref());
            let shared = &self.shared;
            let query = || {
                shared
                    .query(&shared.statements.places)
                    .bind(page.consumer.as_deref())
                    .bind(consumer)
                    .bind(topic)
                    .bind(partition)
                    .bind(limit_of(page.limit))
            };
            let At { value, now } = listed(&shared.links.rows(Sent::Harmless, query).await?, rows::place)?;
            Ok(At { value: Listed::new(value, page.limit, |place| place.name.cursor()), now })
        })
    }

    fn move_to(&self, place: PlaceName, seen: Option<Epoch>, next: i64) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Step { from: None, to: next, last: None }.check()?;
            // The owner may go on until this is written; the epoch alone says whether it is what was seen.
            let change = Change { any_next: true, ..Change::of(&place) };
            let moved = self.shared.change(change, |found, now| inbox::move_to(found, &place, seen, next, now));
            Ok(applied(moved.await?))
        })
    }

    fn dead_letters(&self, page: DeadLettersRequest) -> BoxFuture<'_, Result<At<Listed<DeadLetter>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(DeadLetterId::of_cursor).transpose()?;
            let (consumer, topic, partition) = after_name(after.as_ref().map(|after| &after.place));
            let of = page.place.as_ref();
            let shared = &self.shared;
            let query = || {
                shared
                    .query(&shared.statements.letters)
                    .bind(of.map(PlaceName::consumer).or(page.consumer.as_deref()))
                    .bind(of.map(PlaceName::topic))
                    .bind(of.map(PlaceName::partition))
                    .bind(page.offset_min)
                    .bind(page.wanted)
                    .bind(consumer)
                    .bind(topic)
                    .bind(partition)
                    .bind(after.as_ref().map_or(-1, |after| after.offset))
                    .bind(after.as_ref().map_or(&[][..], |after| after.digest.as_bytes()))
                    .bind(limit_of(page.limit))
                    .bind(page.reason.map(Reason::name))
                    .bind(page.error_text())
                    .bind(page.key.as_deref())
                    .bind(page.record.as_ref().map(|record| record.as_bytes().as_slice()))
                    .bind(page.from.map(Timestamp::as_millis))
                    .bind(page.until.map(Timestamp::as_millis))
            };
            let At { value, now } = listed(&shared.links.rows(Sent::Harmless, query).await?, rows::dead_letter)?;
            Ok(At { value: Listed::new(value, page.limit, |letter| letter.id.cursor()), now })
        })
    }

    fn remove(&self, place: PlaceName, seen: Epoch) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let query =
                || named(shared.query(&shared.statements.place_remove), &place).bind(seen.as_u64().cast_signed());
            Ok(shared.write(query).await?)
        })
    }

    fn sweep_dead_letters(&self, consumer: String, age: Duration, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let statement = &shared.statements.dead_letter_sweep;
            let query = || shared.query(statement).bind(consumer.as_str()).bind(span_ms(age)).bind(limit_of(limit));
            let removed: i64 = scalar(&shared.links.rows(Sent::Perhaps, query).await?)?;
            Ok(usize::try_from(removed).unwrap_or_default())
        })
    }

    fn order(&self, letter: DeadLetterId, order: Order) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let query = || match order {
                Order::Discard => shared.of_dead_letter(&shared.statements.dead_letter_discard, &letter),
                Order::Replay => shared.of_dead_letter(&shared.statements.dead_letter_want, &letter).bind(true),
                Order::Keep => shared.of_dead_letter(&shared.statements.dead_letter_want, &letter).bind(false),
            };
            Ok(scalar(&shared.links.rows(Sent::Perhaps, query).await?)?)
        })
    }
}

impl Inbox for Store {
    fn sharing(&self) -> Sharing {
        Sharing::Group
    }

    fn take(&self, place: PlaceName, owner: Owner) -> BoxFuture<'_, Result<At<Place>, Error>> {
        Box::pin(async move { Ok(self.shared.take(&place, owner).await?) })
    }

    fn apply(&self, batch: Batch<Postgres>) -> BoxFuture<'_, Result<BatchEnd, Error>> {
        Box::pin(async move {
            batch.check()?;
            Ok(self.shared.apply(batch).await?)
        })
    }

    fn advance(&self, ownership: Ownership, step: Step) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            step.check()?;
            let change = Change::of(&ownership.place);
            let moved = self.shared.change(change, |place, now| inbox::advance(place?, &ownership, &step, now));
            Ok(applied(moved.await?))
        })
    }

    fn give_back(&self, ownership: Ownership) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let change = Change::of(&ownership.place);
            Ok(applied(self.shared.change(change, |place, now| inbox::give_back(place?, &ownership, now)).await?))
        })
    }

    fn begin_try(&self, ownership: Ownership, offset: i64) -> BoxFuture<'_, Result<Option<u32>, Error>> {
        Box::pin(async move {
            let change = Change::of(&ownership.place);
            let began = self.shared.change(change, |place, now| inbox::begin_try(place?, &ownership, offset, now));
            Ok(began.await?.and_then(|At { value, .. }| value.tried).map(|tried| tried.attempts))
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
            let letter = Some(Letter { offset, trouble: &trouble, events: &events });
            let change = Change { letter, ..Change::of(&ownership.place) };
            let buried = self.shared.change(change, |place, now| match &step {
                Some(step) => inbox::advance(place?, &ownership, step, now),
                None => place.filter(|place| place.is_of(&ownership)).cloned(),
            });
            let buried = applied(buried.await?);
            if !events.is_empty() {
                self.wake();
            }
            Ok(buried)
        })
    }
}

/// A change of a place that was read.
#[derive(Debug, Clone, Copy)]
struct Change<'c> {
    place: &'c PlaceName,
    /// Whether it counts wherever the place is by then.
    any_next: bool,
    /// The dead letter that is written with it.
    letter: Option<Letter<'c>>,
}

/// A dead letter, and the events that are written if it is.
#[derive(Debug, Clone, Copy)]
struct Letter<'c> {
    offset: i64,
    trouble: &'c Trouble,
    events: &'c Events,
}

impl<'c> Change<'c> {
    const fn of(place: &'c PlaceName) -> Self {
        Self { place, any_next: false, letter: None }
    }
}

/// How often a place may change between reading and writing it: only its owner and operators change it.
const CHANGES_MAX: usize = 16;

/// How much longer a place is waited for than a transaction may pause: the server needs a moment to end it.
const WAIT_MARGIN: Duration = Duration::from_secs(2);

impl Shared {
    async fn take(&self, place: &PlaceName, owner: Owner) -> Result<At<Place>, Fault> {
        let query = || named(self.query(&self.statements.take_place), place).bind(owner.as_bytes().as_slice());
        let rows = self.patiently(query).await?;
        let At { value, now } = listed(&rows, rows::place)?;
        let value = value.into_iter().next().ok_or_else(|| damaged("a row is missing"))?;
        Ok(At { value, now })
    }

    async fn place(&self, place: &PlaceName) -> Result<At<Option<Place>>, Fault> {
        let query = || named(self.query(&self.statements.place_read), place);
        let At { value, now } = listed(&self.links.rows(Sent::Harmless, query).await?, rows::place)?;
        Ok(At { value: value.into_iter().next(), now })
    }

    /// Writes what `decide` makes of a place, and returns it; `None` if that is nothing.
    async fn change(
        &self,
        change: Change<'_>,
        decide: impl Fn(Option<&Place>, Timestamp) -> Option<Place>,
    ) -> Result<Option<At<Place>>, Fault> {
        for _ in 0..CHANGES_MAX {
            let At { value: found, now } = self.place(change.place).await?;
            let Some(changed) = decide(found.as_ref(), now) else { return Ok(None) };
            let is_there = found.as_ref() == Some(&changed) && change.letter.is_none();
            if is_there || self.replace(change, found.as_ref(), &changed, now).await? {
                return Ok(Some(At { value: changed, now }));
            }
        }
        Err(Fault::new(ErrorKind::Unavailable, "the place changed on every try"))
    }

    /// Writes `changed`, with the dead letter, if the place is still as it was found.
    async fn replace(
        &self,
        Change { place, any_next, letter }: Change<'_>,
        found: Option<&Place>,
        changed: &Place,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let attempts = |place: &Place| place.tried.map(|tried| i64::from(tried.attempts));
        let query = || {
            let query = named(self.query(&self.statements.change_place), place)
                .bind(found.map(|found| found.epoch.as_u64().cast_signed()))
                .bind(found.and_then(|found| found.owner.as_ref()).map(|owner| owner.as_bytes().as_slice()))
                .bind(any_next)
                .bind(found.and_then(|found| found.next))
                .bind(found.and_then(attempts))
                .bind(changed.epoch.as_u64().cast_signed())
                .bind(changed.owner.as_ref().map(|owner| owner.as_bytes().as_slice()))
                .bind(changed.next)
                .bind(changed.last.map(|last| last.offset))
                .bind(changed.last.as_ref().map(|last| last.digest.as_bytes().as_slice()))
                .bind(changed.after_crash)
                .bind(changed.tried.map(|tried| tried.offset))
                .bind(attempts(changed));
            // A place that a dead letter leaves as it is was changed before now.
            let query = query.bind(if letter.is_some() { now.as_millis() } else { changed.changed_at.as_millis() });
            let trouble = letter.map(|letter| letter.trouble);
            let query = query
                .bind(letter.map(|letter| letter.offset))
                .bind(trouble.map(|trouble| trouble.digest.as_bytes().as_slice()))
                .bind(trouble.map(|trouble| trouble.reason.name()))
                .bind(trouble.map(|trouble| trouble.error.as_str()))
                .bind(trouble.map(|trouble| i64::from(trouble.attempts)))
                .bind(trouble.and_then(|trouble| trouble.trace.as_deref()))
                .bind(trouble.and_then(|trouble| trouble.record.as_ref()).map(|record| record.as_bytes().as_slice()))
                .bind(trouble.and_then(|trouble| trouble.key.as_deref()))
                .bind(trouble.and_then(|trouble| trouble.message.as_deref()));
            let events = letter.map_or_else(Events::default, |letter| letter.events.clone());
            outbox::pack(&events).into_iter().fold(query, Param::bind)
        };
        scalar(&self.patiently(query).await?)
    }

    /// Runs a statement that may have to wait for the transaction that an owner has open: as long as the server lets
    /// that one pause.
    async fn patiently<'q>(&self, query: impl Fn() -> PgQuery<'q>) -> Result<Vec<PgRow>, Fault> {
        let wait_max = self.options.handler_pause_max.unwrap_or(HANDLER_PAUSE_MAX) + WAIT_MARGIN;
        let began = Instant::now();
        loop {
            match self.links.rows(Sent::Perhaps, &query).await {
                Err(fault) if fault.has_code("55P03") && began.elapsed() < wait_max => {}
                Err(fault) if fault.has_code("55P03") => {
                    let what = "a transaction has had the place for too long; pg_locks and pg_stat_activity show which";
                    return Err(Fault::new(ErrorKind::Unavailable, what));
                }
                done => return done,
            }
        }
    }

    /// A query about one dead letter.
    fn of_dead_letter<'q>(
        &self,
        statement: &Statement,
        DeadLetterId { place, offset, digest }: &DeadLetterId,
    ) -> PgQuery<'q> {
        named(self.query(statement), place).bind(*offset).bind(digest.as_bytes().to_vec())
    }
}

/// The query with the name of a place as its next parameters.
fn named<'q>(query: PgQuery<'q>, place: &PlaceName) -> PgQuery<'q> {
    query.bind(place.consumer().to_owned()).bind(place.topic().to_owned()).bind(place.partition())
}

fn applied(changed: Option<At<Place>>) -> Applied {
    changed.map_or(Applied::Lost, |At { now, .. }| Applied::Applied(now))
}

/// What was read. If there is nothing, there is one row of nulls.
fn listed<T>(rows: &[PgRow], decode: impl Fn(&PgRow) -> Result<Option<T>, Fault>) -> Result<At<Vec<T>>, Fault> {
    let first = rows.first().ok_or_else(|| damaged("a row is missing"))?;
    let now = Timestamp::from_millis(get(first, "clock")?);
    let value = rows.iter().filter_map(|row| decode(row).transpose()).collect::<Result<_, _>>()?;
    Ok(At { value, now })
}

/// The name after which a page begins; without one, what comes before every name.
fn after_name(after: Option<&PlaceName>) -> (&str, &str, i32) {
    after.map_or(("", "", -1), |after| (after.consumer(), after.topic(), after.partition()))
}

fn record_id(bytes: &[u8]) -> Result<RecordId, Fault> {
    bytes.try_into().map(RecordId::from_bytes).map_err(|_| damaged("an identity has the wrong length"))
}
