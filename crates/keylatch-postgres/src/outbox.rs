//! The outbox, on PostgreSQL.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;

use super::Store;
use super::error::{Fault, Sent};
use super::ops::scalar;
use super::own::client::Param;
use super::rows::{damaged, get};
use keylatch_core::outbox::{
    Backlog, Event, EventId, Events, Fate, Outbox, Pending, Place, Published, Settled, Skip, Stuck, Why,
};
use keylatch_core::store::{Applied, At, Count, Error, PAGE_RECORDS_MAX};
use keylatch_core::{DecodeError, Lease, Timestamp};

/// The states of stuck events, which are also the fates that lead to them.
const REFUSED: i16 = 1;
const HELD: i16 = 2;
const SET_ASIDE: i16 = 3;
/// The fate of an event that goes.
const ACKNOWLEDGED: i16 = 0;

/// The two parameters of `keylatch.publish`; if there are no events, an empty text and null.
pub(super) fn pack(events: &Events) -> [Param; 2] {
    if events.is_empty() {
        return [Param::Text(String::new()), Param::Bytes(None)];
    }
    let (mut layout, mut packed) = (Vec::new(), Vec::new());
    for Published { id, event } in events.as_slice() {
        let headers = event.encode_headers();
        let length = |part: Option<&[u8]>| part.map_or(-1, |part| part.len().cast_signed() as i64);
        let (key, value) = (event.key().map(|key| &key[..]), event.value().map(|value| &value[..]));
        layout.extend([
            packed.len().cast_signed() as i64 + 1,
            event.topic().len().cast_signed() as i64,
            length(key),
            length(value),
            length(headers.as_deref()),
            event.key_hash().unwrap_or_default(),
        ]);
        packed.extend_from_slice(id.as_bytes());
        packed.extend_from_slice(event.topic().as_bytes());
        for part in [key, value, headers.as_deref()].into_iter().flatten() {
            packed.extend_from_slice(part);
        }
    }
    let layout: Vec<String> = layout.iter().map(i64::to_string).collect();
    [Param::Text(format!("{{{}}}", layout.join(","))), Param::Bytes(Some(packed))]
}

impl Outbox for Store {
    fn pending(&self, limit: usize, bytes: usize, skip: Skip) -> BoxFuture<'_, Result<Vec<Pending>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let seqs: Vec<i64> = skip.seqs.iter().map(|seq| seq.cast_signed()).collect();
            let query = || {
                shared
                    .query(&shared.statements.pending)
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
                    .bind(skip.topics.clone())
                    .bind(skip.keys.clone())
                    .bind(seqs.clone())
            };
            let rows = shared.links.rows(Sent::Harmless, query).await?;
            Ok(rows.iter().map(pending).collect::<Result<_, Fault>>()?)
        })
    }

    fn settle(&self, lease: Lease, settled: Vec<Settled>) -> BoxFuture<'_, Result<Applied, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let mut settled = settled;
            // Two relays cannot wait for each other.
            settled.sort_by_key(|settled| settled.place.seq);
            let seqs: Vec<i64> = settled.iter().map(|settled| settled.place.seq.cast_signed()).collect();
            let ids: Vec<Vec<u8>> = settled.iter().map(|settled| settled.place.id.as_bytes().to_vec()).collect();
            let (fates, reasons): (Vec<i16>, Vec<Option<String>>) = settled
                .iter()
                .map(|settled| match &settled.fate {
                    Fate::Acknowledged => (ACKNOWLEDGED, None),
                    Fate::Refused(reason) => (REFUSED, Some(reason.clone())),
                    Fate::Held => (HELD, None),
                    Fate::SetAside(reason) => (SET_ASIDE, Some(reason.clone())),
                })
                .unzip();
            let query = || {
                shared
                    .query(&shared.statements.settle)
                    .bind(lease.id.as_bytes().as_slice())
                    .bind(lease.epoch.as_u64().cast_signed())
                    .bind(lease.owner.as_bytes().as_slice())
                    .bind(seqs.clone())
                    .bind(ids.clone())
                    .bind(fates.clone())
                    .bind(reasons.clone())
            };
            Ok(shared.write(query).await?)
        })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.published.notified())
    }

    fn wake(&self) {
        self.shared.published.notify_one();
    }

    fn stuck(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<Stuck>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let after = after.map_or(-1, u64::cast_signed);
            let limit = i64::try_from(limit.min(PAGE_RECORDS_MAX)).unwrap_or(i64::MAX);
            let query = || shared.query(&shared.statements.stuck).bind(after).bind(limit);
            let rows = shared.links.rows(Sent::Harmless, query).await?;
            Ok(rows.iter().map(stuck).collect::<Result<_, Fault>>()?)
        })
    }

    fn retry(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let released = self.release_event(place, true).await?;
            self.wake();
            Ok(released)
        })
    }

    fn discard(&self, place: Place) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let released = self.release_event(place, false).await?;
            self.wake();
            Ok(released)
        })
    }

    fn backlog(&self, limit: u64) -> BoxFuture<'_, Result<At<Backlog>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let query = || shared.query(&shared.statements.backlog).bind(i64::try_from(limit).unwrap_or(i64::MAX));
            let rows = shared.links.rows(Sent::Harmless, query).await?;
            let row = rows.first().ok_or_else(|| damaged("a row is missing"))?;
            let count = |column| Ok::<_, Fault>(Count::up_to(get::<i64>(row, column)?.cast_unsigned(), limit));
            let value = Backlog {
                waiting: count("waiting")?,
                refused: count("refused")?,
                held: count("held")?,
                set_aside: count("set_aside")?,
                oldest: get::<Option<i64>>(row, "oldest")?.map(Timestamp::from_millis),
            };
            Ok(At { value, now: Timestamp::from_millis(get(row, "clock")?) })
        })
    }
}

impl Store {
    /// Sent again after a lost reply, it finds the event gone, and says so.
    async fn release_event(&self, place: Place, again: bool) -> Result<bool, Fault> {
        let shared = &self.shared;
        let query = || {
            shared
                .query(&shared.statements.release_event)
                .bind(place.seq.cast_signed())
                .bind(place.id.as_bytes().as_slice())
                .bind(again)
        };
        scalar(&shared.links.rows(Sent::Perhaps, query).await?)
    }
}

fn pending(row: &PgRow) -> Result<Pending, Fault> {
    let (event, unreadable) = event(row)?;
    Ok(Pending {
        seq: get::<i64>(row, "seq")?.cast_unsigned(),
        event,
        created_at: Timestamp::from_millis(get(row, "created_at")?),
        blocked: get(row, "blocked")?,
        unreadable,
    })
}

fn stuck(row: &PgRow) -> Result<Stuck, Fault> {
    let reason = || Ok::<_, Fault>(get::<Option<String>>(row, "reason")?.unwrap_or_default());
    Ok(Stuck {
        seq: get::<i64>(row, "seq")?.cast_unsigned(),
        event: event(row)?.0,
        created_at: Timestamp::from_millis(get(row, "created_at")?),
        stuck_at: Timestamp::from_millis(get(row, "stuck_at")?),
        why: match get::<i16>(row, "state")? {
            REFUSED => Why::Refused(reason()?),
            HELD => Why::Held,
            SET_ASIDE => Why::SetAside(reason()?),
            _ => return Err(damaged("an event has a state that this version does not know; upgrade this process")),
        },
    })
}

/// The event in a row, and why its id or its headers cannot be read, if so.
fn event(row: &PgRow) -> Result<(Published, Option<DecodeError>), Fault> {
    let (id, damaged) = EventId::decode(get(row, "id")?);
    let bytes = |column| Ok::<_, Fault>(get::<Option<Vec<u8>>>(row, column)?.map(Bytes::from));
    let headers: Option<&[u8]> = get(row, "headers")?;
    let (event, unreadable) = Event::decode(get(row, "topic")?, bytes("key")?, bytes("value")?, headers);
    Ok((Published { id, event }, damaged.or(unreadable)))
}
