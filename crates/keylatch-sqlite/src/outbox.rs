//! The outbox, on SQLite.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::Notify;

use super::Store;
use super::db::Db;
use super::error::Fault;
use keylatch_core::outbox::{Backlog, Event, EventId, Events, Fate, Outbox, Pending, Place, Settled, Skip, Stuck, Why};
use keylatch_core::store::{Applied, At, Count, Error, ErrorKind, PAGE_RECORDS_MAX};
use keylatch_core::{DecodeError, Lease, State, Timestamp, outbox};

const REFUSED: &str = "refused";
const HELD: &str = "held";
const SET_ASIDE: &str = "aside";

/// Writes events; the caller's transaction decides whether they stay.
pub(super) fn insert(conn: &Connection, events: &Events, now: Timestamp) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut insert = conn.prepare_cached(include_str!("sql/event_insert.sql"))?;
    for outbox::Published { id, event } in events.as_slice() {
        insert.execute(params![
            id.as_bytes(),
            event.topic(),
            event.key().map(|key| &key[..]),
            event.key_hash(),
            event.value().map(|value| &value[..]),
            event.encode_headers(),
            i64::try_from(event.bytes()).expect("an event is small"),
            now.as_millis(),
        ])?;
    }
    Ok(())
}

/// Wakes the relay after a commit with events.
pub(super) struct Published {
    relay: Arc<Notify>,
    any: bool,
}

impl Published {
    pub(super) const fn to(relay: Arc<Notify>) -> Self {
        Self { relay, any: false }
    }

    /// Writes events into the batch.
    pub(super) fn insert(&mut self, db: &Db, events: &Events) -> rusqlite::Result<()> {
        self.any = !events.is_empty();
        insert(db.conn(), events, db.now())
    }

    /// The batch is committed.
    pub(super) fn wake(&self) {
        if self.any {
            self.relay.notify_one();
        }
    }
}

impl Outbox for Store {
    fn pending(&self, limit: usize, bytes: usize, skip: Skip) -> BoxFuture<'_, Result<Vec<Pending>, Error>> {
        Box::pin(self.0.querier.call(move |db| pending(db, limit, bytes, &skip)))
    }

    fn settle(&self, lease: Lease, settled: Vec<Settled>) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(self.0.writer.call(move |db| settle(db, &lease, &settled)))
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.published.notified())
    }

    fn wake(&self) {
        self.0.published.notify_one();
    }

    fn stuck(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Stuck>, Error>> {
        Box::pin(self.0.querier.call(move |db| {
            let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
            let limit = i64::try_from(limit.min(PAGE_RECORDS_MAX)).expect("a page is small");
            let mut statement = db.prepare(include_str!("sql/event_stuck.sql"))?;
            let rows = statement.query_map(params![after, limit], |row| Ok(stuck(row)));
            let found: Vec<_> = db.done(rows.and_then(Iterator::collect))?;
            found.into_iter().collect::<Result<_, Error>>().map_err(Fault::Job)
        }))
    }

    fn retry(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        self.release_event(place, true)
    }

    fn discard(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        self.release_event(place, false)
    }

    fn backlog(&self, limit: u64) -> BoxFuture<'_, Result<At<Backlog>, Error>> {
        Box::pin(self.0.querier.call(move |db| {
            let rows_max = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut statement = db.prepare(include_str!("sql/event_backlog.sql"))?;
            let value = statement.query_row([rows_max], |row| {
                let count = |at| Ok::<_, rusqlite::Error>(Count::up_to(row.get::<_, i64>(at)?.unsigned_abs(), limit));
                Ok(Backlog {
                    waiting: count(0)?,
                    refused: count(1)?,
                    held: count(2)?,
                    set_aside: count(3)?,
                    oldest: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_millis),
                })
            });
            Ok(At { value: db.done(value)?, now: db.now() })
        }))
    }
}

impl Store {
    /// Sent again after a lost reply, it finds the event gone, and says so.
    fn release_event(&self, place: Place, again: bool) -> BoxFuture<'_, Result<bool, Error>> {
        let released = self.0.writer.call(move |db| release(db, place, again));
        Box::pin(async {
            let released = released.await?;
            self.wake();
            Ok(released)
        })
    }
}

fn pending(db: &Db, limit: usize, bytes_max: usize, skip: &Skip) -> Result<Vec<Pending>, Fault> {
    let topics: HashSet<&[u8]> = skip.topics.iter().map(String::as_bytes).collect();
    let keys: HashSet<i64> = skip.keys.iter().copied().collect();
    let seqs: HashSet<u64> = skip.seqs.iter().copied().collect();
    let mut statement = db.prepare(include_str!("sql/event_pending.sql"))?;
    let mut rows = db.done(statement.query([]))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = if found.len() < limit && bytes < bytes_max { db.done(rows.next())? } else { None } {
        let seq = number(row, 0)?;
        let key_hash: Option<i64> = db.done(row.get(7))?;
        let topic = db.done(row.get_ref(2))?.as_bytes().map_err(|_| damaged("its topic"))?;
        if topics.contains(topic) || key_hash.is_some_and(|key| keys.contains(&key)) || seqs.contains(&seq) {
            continue;
        }
        bytes += usize::try_from(number(row, 8)?).unwrap_or(usize::MAX);
        let (event, unreadable) = event(row).map_err(Fault::Job)?;
        found.push(Pending {
            seq,
            event,
            created_at: Timestamp::from_millis(db.done(row.get(6))?),
            blocked: db.done(row.get(9))?,
            unreadable,
        });
    }
    Ok(found)
}

fn settle(db: &Db, lease: &Lease, settled: &[Settled]) -> Result<Applied, Fault> {
    let found = db.find(lease.id)?.map(|found| found.record);
    let ours = found.is_some_and(|record| {
        record.epoch == lease.epoch && record.owner == lease.owner && matches!(record.state, State::Running { .. })
    });
    if !ours {
        return Ok(Applied::Lost);
    }
    let now = db.now();
    let mut delete = db.prepare(include_str!("sql/event_delete.sql"))?;
    for Settled { place, fate } in settled {
        let (seq, id) = (seq_of(*place), place.id.as_bytes());
        let (state, reason) = match fate {
            Fate::Acknowledged => (None, None),
            Fate::Refused(reason) => (Some(REFUSED), Some(reason)),
            Fate::Held => (Some(HELD), None),
            Fate::SetAside(reason) => (Some(SET_ASIDE), Some(reason)),
        };
        if let Some(state) = state {
            let mut stick = db.prepare(include_str!("sql/event_stick.sql"))?;
            if whole(stick.execute(params![seq, id, state, now.as_millis(), reason]))? == 0 {
                continue;
            }
        }
        whole(delete.execute(params![seq, id]))?;
    }
    Ok(Applied::Applied(now))
}

fn release(db: &Db, place: Place, again: bool) -> Result<bool, Fault> {
    let (seq, id) = (seq_of(place), place.id.as_bytes());
    if again {
        whole(db.prepare(include_str!("sql/event_unstick.sql"))?.execute(params![seq, id]))?;
    }
    let mut remove = db.prepare(include_str!("sql/event_remove.sql"))?;
    let removed = remove.query_row(params![seq, id], |row| {
        let topic = String::from_utf8_lossy(row.get_ref(0)?.as_bytes()?).into_owned();
        let key: (String, Option<Vec<u8>>, Option<i64>) = (topic, row.get(1)?, row.get(2)?);
        Ok((key, row.get::<_, String>(3)?))
    });
    let Some(((topic, key, key_hash), state)) = whole(removed.optional())? else { return Ok(false) };
    if state == REFUSED && key_hash.is_some() {
        let params = params![key_hash, topic, key];
        whole(db.prepare(include_str!("sql/event_unhold.sql"))?.execute(params))?;
        whole(db.prepare(include_str!("sql/event_unheld.sql"))?.execute(params))?;
    }
    Ok(true)
}

/// The result of one of several statements that only count together: if one fails, the batch does.
fn whole<T>(result: rusqlite::Result<T>) -> Result<T, Fault> {
    result.map_err(Fault::Batch)
}

fn seq_of(place: Place) -> i64 {
    // No event has a higher number.
    i64::try_from(place.seq).unwrap_or(i64::MAX)
}

fn stuck(row: &Row<'_>) -> Result<Stuck, Error> {
    let reason =
        || row.get::<_, Option<String>>(9).map(Option::unwrap_or_default).map_err(|_| unreadable("its reason"));
    let instant = |at, what| row.get(at).map(Timestamp::from_millis).map_err(|_| unreadable(what));
    Ok(Stuck {
        seq: row.get::<_, i64>(0).map_err(|_| unreadable("its number"))?.unsigned_abs(),
        event: event(row)?.0,
        created_at: instant(6, "when it was written")?,
        stuck_at: instant(8, "when it got stuck")?,
        why: match row.get_ref(7).ok().and_then(|state| state.as_str().ok()) {
            Some(REFUSED) => Why::Refused(reason()?),
            Some(HELD) => Why::Held,
            Some(SET_ASIDE) => Why::SetAside(reason()?),
            _ => return Err(unreadable("its state, which this version does not know; upgrade this process")),
        },
    })
}

/// The event in a row, and why its id, its topic or its headers cannot be read, if so.
fn event(row: &Row<'_>) -> Result<(outbox::Published, Option<DecodeError>), Error> {
    let bytes = |at, what| row.get::<_, Option<Vec<u8>>>(at).map_err(|_| unreadable(what));
    let id = row.get_ref(1).ok().and_then(|id| id.as_blob().ok()).ok_or_else(|| unreadable("its id"))?;
    let (id, damaged) = EventId::decode(id);
    let (key, value) = (bytes(3, "its key")?.map(Bytes::from), bytes(4, "its value")?.map(Bytes::from));
    let topic = row.get_ref(2).ok().and_then(|topic| topic.as_bytes().ok()).ok_or_else(|| unreadable("its topic"))?;
    // SQLite does not check that a text is UTF-8.
    let damaged = damaged.or_else(|| str::from_utf8(topic).err().map(|_| DecodeError::Malformed));
    let topic = String::from_utf8_lossy(topic).into_owned();
    let (event, unreadable) = Event::decode(topic, key, value, bytes(5, "its headers")?.as_deref());
    Ok((outbox::Published { id, event }, damaged.or(unreadable)))
}

fn number(row: &Row<'_>, at: usize) -> Result<u64, Fault> {
    row.get::<_, i64>(at).map(i64::unsigned_abs).map_err(|_| damaged("a number"))
}

fn damaged(what: &str) -> Fault {
    Fault::Job(unreadable(what))
}

fn unreadable(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an event of the outbox cannot be read: {what}"))
}
