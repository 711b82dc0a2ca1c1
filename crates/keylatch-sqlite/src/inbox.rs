//! The contract of an inbox, on SQLite: each write reads the place, asks the contract's pure functions, and writes the
//! result, in one job of the writer.

mod apply;
mod rows;

use std::panic::resume_unwind;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rusqlite::{ToSql, params};
use tokio::sync::oneshot;

use super::Store;
use super::db::Db;
use super::error::{BatchFailed, Fault};
use super::lent::Failure;
use super::outbox::{self, Published};
use super::tx::Sqlite;
use apply::{Apply, Reply};
use keylatch_core::inbox::{
    self, Batch, BatchEnd, DeadLetter, DeadLetterId, DeadLettersRequest, Inbox, Listed, Order, Ownership, Place,
    PlaceName, Places, PlacesRequest, Reason, Sharing, Step, Trouble,
};
use keylatch_core::outbox::{Events, Outbox as _};
use keylatch_core::store::{Applied, At, Error, PAGE_RECORDS_MAX};
use keylatch_core::{Epoch, Owner, RecordId, Timestamp};

impl Places for Store {
    fn place(&self, place: PlaceName) -> BoxFuture<'_, Result<At<Option<Place>>, Error>> {
        Box::pin(self.0.reader.call(move |db| Ok(At { value: find(db, &place)?, now: db.now() })))
    }

    fn places(&self, page: PlacesRequest) -> BoxFuture<'_, Result<At<Listed<Place>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(PlaceName::of_cursor).transpose()?;
            let places = move |db: &mut Db| {
                let (consumer, topic, partition) = after_name(after.as_ref());
                let limit = limit_of(page.limit);
                let params: [&dyn ToSql; 5] = [&page.consumer, &consumer, &topic, &partition, &limit];
                let items = list(db, include_str!("sql/places.sql"), &params, rows::place)?;
                Ok(At { value: Listed::new(items, page.limit, |place| place.name.cursor()), now: db.now() })
            };
            self.0.querier.call(places).await
        })
    }

    fn move_to(&self, place: PlaceName, seen: Option<Epoch>, next: i64) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            Step { from: None, to: next, last: None }.check()?;
            let name = place.clone();
            self.change(place, move |place, now| inbox::move_to(place, &name, seen, next, now)).await
        })
    }

    fn dead_letters(&self, page: DeadLettersRequest) -> BoxFuture<'_, Result<At<Listed<DeadLetter>>, Error>> {
        Box::pin(async move {
            let after = page.after.as_ref().map(DeadLetterId::of_cursor).transpose()?;
            let letters = move |db: &mut Db| {
                let of = page.place.as_ref();
                let consumer = of.map(PlaceName::consumer).or(page.consumer.as_deref());
                let (topic, partition) = (of.map(PlaceName::topic), of.map(PlaceName::partition));
                let (after_consumer, after_topic, after_partition) =
                    after_name(after.as_ref().map(|after| &after.place));
                let after_offset = after.as_ref().map_or(-1, |after| after.offset);
                let after_digest = after.as_ref().map_or(&[][..], |after| after.digest.as_bytes());
                let limit = limit_of(page.limit);
                let (reason, error) = (page.reason.map(Reason::name), page.error_text());
                let params: [&dyn ToSql; 17] = [
                    &consumer,
                    &topic,
                    &partition,
                    &page.offset_min,
                    &page.wanted,
                    &after_consumer,
                    &after_topic,
                    &after_partition,
                    &after_offset,
                    &after_digest,
                    &limit,
                    &reason,
                    &error,
                    &page.key.as_deref(),
                    &page.record.as_ref().map(RecordId::as_bytes),
                    &page.from.map(Timestamp::as_millis),
                    &page.until.map(Timestamp::as_millis),
                ];
                let items = list(db, include_str!("sql/dead_letters.sql"), &params, rows::dead_letter)?;
                Ok(At { value: Listed::new(items, page.limit, |letter| letter.id.cursor()), now: db.now() })
            };
            self.0.querier.call(letters).await
        })
    }

    fn remove(&self, place: PlaceName, seen: Epoch) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            if !inbox::may_remove(find(db, &place)?.as_ref(), seen) {
                return Ok(Applied::Lost);
            }
            db.done(rows::remove(db.conn(), &place))?;
            Ok(Applied::Applied(db.now()))
        }))
    }

    fn sweep_dead_letters(&self, consumer: String, age: Duration, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            let mut statement = db.prepare(include_str!("sql/dead_letter_sweep.sql"))?;
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let before = db.now().as_millis().saturating_sub(age_ms);
            db.done(statement.execute(params![consumer, before, limit_of(limit)]))
        }))
    }

    fn order(&self, letter: DeadLetterId, order: Order) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            let changed = match order {
                Order::Discard => {
                    rows::of_dead_letter(db.conn(), include_str!("sql/dead_letter_delete.sql"), &letter, &[])
                }
                Order::Replay | Order::Keep => {
                    let wanted = order == Order::Replay;
                    rows::of_dead_letter(db.conn(), include_str!("sql/dead_letter_want.sql"), &letter, &[wanted])
                }
            };
            Ok(db.done(changed)? > 0)
        }))
    }
}

impl Inbox for Store {
    fn sharing(&self) -> Sharing {
        Sharing::OneProcess
    }

    fn take(&self, place: PlaceName, owner: Owner) -> BoxFuture<'_, Result<At<Place>, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            let (found, now) = (find(db, &place)?, db.now());
            let taken = inbox::take(found.as_ref(), &place, owner, now);
            write(db, found.as_ref(), &taken)?;
            Ok(At { value: taken, now })
        }))
    }

    /// The handlers of a batch run on the writer's thread from their start, and must not await anything but their `Tx`.
    fn apply(&self, batch: Batch<Sqlite>) -> BoxFuture<'_, Result<BatchEnd, Error>> {
        Box::pin(async move {
            batch.check()?;
            let (reply, replied) = oneshot::channel();
            let published = Published::to(self.0.published.clone());
            self.0.writer.send::<Error>(Apply::new(batch, published, reply)).await?;
            let Ok(Reply { result, left }) = replied.await else { return Err(BatchFailed::unanswered().into()) };
            drop(left);
            match result {
                Ok(end) => Ok(end),
                Err(Failure::Store(error)) => Err(error),
                Err(Failure::Panic(panic)) => resume_unwind(panic),
            }
        })
    }

    fn advance(&self, ownership: Ownership, step: Step) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            step.check()?;
            let place = ownership.place.clone();
            self.change(place, move |place, now| inbox::advance(place?, &ownership, &step, now)).await
        })
    }

    fn give_back(&self, ownership: Ownership) -> BoxFuture<'_, Result<Applied, Error>> {
        let place = ownership.place.clone();
        Box::pin(self.change(place, move |place, now| inbox::give_back(place?, &ownership, now)))
    }

    fn begin_try(&self, ownership: Ownership, offset: i64) -> BoxFuture<'_, Result<Option<u32>, Error>> {
        Box::pin(self.0.writer.call(move |db| {
            let found = find(db, &ownership.place)?;
            let now = db.now();
            let trying = found.as_ref().and_then(|place| inbox::begin_try(place, &ownership, offset, now));
            let Some(trying) = trying else { return Ok(None) };
            write(db, found.as_ref(), &trying)?;
            Ok(trying.tried.map(|tried| tried.attempts))
        }))
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
            let publishes = !events.is_empty();
            let buried = move |db: &mut Db| -> Result<_, Fault> {
                let found = find(db, &ownership.place)?;
                let now = db.now();
                let Some(place) = found.filter(|place| place.is_of(&ownership)) else { return Ok(Applied::Lost) };
                let moved = match &step {
                    Some(step) => inbox::advance(&place, &ownership, step, now),
                    None => Some(place.clone()),
                };
                let Some(moved) = moved else { return Ok(Applied::Lost) };
                let id = DeadLetterId { place: ownership.place.clone(), offset, digest: trouble.digest };
                let letter = DeadLetter { id, trouble, wanted: false, buried_at: now };
                let is_new = db.done(rows::bury(db.conn(), &letter))?;
                // Nothing of it stays without the rest.
                if is_new {
                    outbox::insert(db.conn(), &events, now).map_err(Fault::Batch)?;
                }
                if moved != place {
                    rows::write(db.conn(), &moved).map_err(Fault::Batch)?;
                }
                Ok(Applied::Applied(now))
            };
            let buried = self.0.writer.call(buried).await?;
            if publishes {
                self.wake();
            }
            Ok(buried)
        })
    }
}

impl Store {
    /// Writes what `decide` makes of the place, unless that is nothing.
    fn change(
        &self,
        name: PlaceName,
        decide: impl FnOnce(Option<&Place>, Timestamp) -> Option<Place> + Send + 'static,
    ) -> impl Future<Output = Result<Applied, Error>> + Send {
        self.0.writer.call(move |db| {
            let (found, now) = (find(db, &name)?, db.now());
            let Some(changed) = decide(found.as_ref(), now) else { return Ok(Applied::Lost) };
            write(db, found.as_ref(), &changed)?;
            Ok(Applied::Applied(now))
        })
    }
}

fn find(db: &Db, name: &PlaceName) -> Result<Option<Place>, Fault> {
    let found = db.done(rows::read(db.conn(), name))?.transpose();
    found.map_err(|damaged| Fault::Job(damaged.into()))
}

/// Writes the place, unless it is as it was.
fn write(db: &Db, previous: Option<&Place>, place: &Place) -> Result<(), Fault> {
    if previous == Some(place) {
        return Ok(());
    }
    db.done(rows::write(db.conn(), place))
}

fn list<T>(
    db: &Db,
    sql: &str,
    params: &[&dyn ToSql],
    decode: impl Fn(&rusqlite::Row<'_>) -> Result<T, rows::Damaged>,
) -> Result<Vec<T>, Fault> {
    let mut statement = db.prepare(sql)?;
    let rows = statement.query_map(params, |row| Ok(decode(row)));
    let found: Vec<_> = db.done(rows.and_then(Iterator::collect))?;
    let items = found.into_iter().collect::<Result<_, _>>();
    items.map_err(|damaged: rows::Damaged| Fault::Job(damaged.into()))
}

/// The name after which a page begins; without one, what comes before every name.
fn after_name(after: Option<&PlaceName>) -> (&str, &str, i32) {
    after.map_or(("", "", -1), |after| (after.consumer(), after.topic(), after.partition()))
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit.min(PAGE_RECORDS_MAX)).expect("a page is small")
}
