//! Places and dead letters as rows, and back.

use bytes::Bytes;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use keylatch_core::inbox::{DeadLetter, DeadLetterId, LastMessage, Place, PlaceName, Reason, Tried, Trouble};
use keylatch_core::store::{Error, ErrorKind};
use keylatch_core::{Epoch, Fingerprint, Owner, RecordId, Timestamp};

/// A row that is not what it should be: the column that is damaged.
#[derive(Debug, thiserror::Error)]
#[error("{table}: the column `{column}` is damaged, or of a later version of Keylatch")]
pub(super) struct Damaged {
    table: &'static str,
    column: &'static str,
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(ErrorKind::Corrupt, damaged)
    }
}

/// The columns of a row, read one after the other.
struct Columns<'r, 's> {
    row: &'r Row<'s>,
    table: &'static str,
    at: usize,
}

impl<'r, 's> Columns<'r, 's> {
    const fn new(row: &'r Row<'s>, table: &'static str) -> Self {
        Self { row, table, at: 0 }
    }

    fn next<T: FromSql>(&mut self, column: &'static str) -> Result<T, Damaged> {
        let value = self.row.get(self.at);
        self.at += 1;
        value.map_err(|_| self.damaged(column))
    }

    fn name(&mut self) -> Result<PlaceName, Damaged> {
        let (consumer, topic): (String, String) = (self.next("consumer")?, self.next("topic")?);
        let partition = self.next("partition")?;
        PlaceName::new(&consumer, &topic, partition).map_err(|_| self.damaged("consumer"))
    }

    fn instant(&mut self, column: &'static str) -> Result<Timestamp, Damaged> {
        self.next(column).map(Timestamp::from_millis)
    }

    fn damaged(&self, column: &'static str) -> Damaged {
        Damaged { table: self.table, column }
    }
}

/// Reads a row of `place_read.sql` or `places.sql`.
pub(super) fn place(row: &Row<'_>) -> Result<Place, Damaged> {
    let mut columns = Columns::new(row, "keylatch_place");
    let name = columns.name()?;
    let epoch = columns.next("epoch").map(|epoch: i64| Epoch::from_u64(epoch.unsigned_abs()))?;
    let owner = columns.next::<Option<[u8; 16]>>("owner")?.map(Owner::from_bytes);
    let next = columns.next("next")?;
    let last = (columns.next("last_offset")?, columns.next::<Option<[u8; 32]>>("last_digest")?);
    let after_crash = columns.next("after_crash")?;
    let tried = (columns.next("tried_offset")?, columns.next("tried_attempts")?);
    let changed_at = columns.instant("changed_at")?;
    let last = match last {
        (Some(offset), Some(digest)) => Some(LastMessage { offset, digest: Fingerprint::from_bytes(digest) }),
        (None, None) => None,
        _ => return Err(columns.damaged("last_digest")),
    };
    let tried = match tried {
        (Some(offset), Some(attempts)) => Some(Tried { offset, attempts }),
        (None, None) => None,
        _ => return Err(columns.damaged("tried_attempts")),
    };
    Ok(Place { name, epoch, owner, next, last, after_crash, tried, changed_at })
}

/// Reads a row of `dead_letters.sql`.
pub(super) fn dead_letter(row: &Row<'_>) -> Result<DeadLetter, Damaged> {
    let mut columns = Columns::new(row, "keylatch_dead_letter");
    let place = columns.name()?;
    let offset = columns.next("message_offset")?;
    let digest = columns.next("digest").map(Fingerprint::from_bytes)?;
    let reason = Reason::named(&columns.next::<String>("reason")?).ok_or_else(|| columns.damaged("reason"))?;
    let error: String = columns.next("error")?;
    let mut trouble = Trouble::new(digest, reason, &error, columns.next("attempts")?);
    trouble.trace = columns.next("trace")?;
    trouble.record = columns.next::<Option<[u8; 32]>>("record")?.map(RecordId::from_bytes);
    trouble.key = columns.next::<Option<Vec<u8>>>("key")?.map(Bytes::from);
    trouble.message = columns.next::<Option<Vec<u8>>>("message")?.map(Bytes::from);
    let wanted = columns.next("wanted")?;
    let buried_at = columns.instant("buried_at")?;
    Ok(DeadLetter { id: DeadLetterId { place, offset, digest }, trouble, wanted, buried_at })
}

/// Reads the place of this name.
pub(super) fn read(conn: &Connection, name: &PlaceName) -> rusqlite::Result<Option<Result<Place, Damaged>>> {
    let mut statement = conn.prepare_cached(include_str!("../sql/place_read.sql"))?;
    statement.query_row(params![name.consumer(), name.topic(), name.partition()], |row| Ok(place(row))).optional()
}

/// Writes the place.
pub(super) fn write(conn: &Connection, place: &Place) -> rusqlite::Result<()> {
    let Place { name, epoch, owner, next, last, after_crash, tried, changed_at } = place;
    conn.prepare_cached(include_str!("../sql/place_write.sql"))?.execute(params![
        name.consumer(),
        name.topic(),
        name.partition(),
        epoch.as_u64().cast_signed(),
        owner.as_ref().map(Owner::as_bytes),
        next,
        last.map(|last| last.offset),
        last.as_ref().map(|last| last.digest.as_bytes()),
        after_crash,
        tried.map(|tried| tried.offset),
        tried.map(|tried| tried.attempts),
        changed_at.as_millis(),
    ])?;
    Ok(())
}

/// Removes the place.
pub(super) fn remove(conn: &Connection, name: &PlaceName) -> rusqlite::Result<usize> {
    let mut statement = conn.prepare_cached(include_str!("../sql/place_delete.sql"))?;
    statement.execute(params![name.consumer(), name.topic(), name.partition()])
}

/// Writes the dead letter, unless it is there; returns whether it did.
pub(super) fn bury(conn: &Connection, letter: &DeadLetter) -> rusqlite::Result<bool> {
    let DeadLetter { id: DeadLetterId { place, offset, digest }, trouble, buried_at, .. } = letter;
    let mut statement = conn.prepare_cached(include_str!("../sql/dead_letter_write.sql"))?;
    let written = statement.execute(params![
        place.consumer(),
        place.topic(),
        place.partition(),
        offset,
        digest.as_bytes(),
        trouble.reason.name(),
        trouble.error,
        trouble.attempts,
        trouble.trace,
        trouble.record.as_ref().map(RecordId::as_bytes),
        trouble.key.as_deref(),
        trouble.message.as_deref(),
        buried_at.as_millis(),
    ])?;
    Ok(written > 0)
}

/// Runs a statement about one dead letter, with more parameters or without; returns how many rows it changed.
pub(super) fn of_dead_letter(
    conn: &Connection,
    sql: &str,
    letter: &DeadLetterId,
    more: &[bool],
) -> rusqlite::Result<usize> {
    let DeadLetterId { place, offset, digest } = letter;
    let (consumer, topic, partition) = (place.consumer(), place.topic(), place.partition());
    let mut statement = conn.prepare_cached(sql)?;
    match more {
        [] => statement.execute(params![consumer, topic, partition, offset, digest.as_bytes()]),
        [wanted, ..] => statement.execute(params![consumer, topic, partition, offset, digest.as_bytes(), wanted]),
    }
}

/// Whether the dead letter is there.
pub(super) fn exists(conn: &Connection, letter: &DeadLetterId) -> rusqlite::Result<bool> {
    let DeadLetterId { place, offset, digest } = letter;
    let mut statement = conn.prepare_cached(include_str!("../sql/dead_letter_exists.sql"))?;
    let letter = params![place.consumer(), place.topic(), place.partition(), offset, digest.as_bytes()];
    statement.query_row(letter, |row| row.get(0))
}
