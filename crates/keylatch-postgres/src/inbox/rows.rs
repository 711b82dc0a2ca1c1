//! Places and dead letters in rows.

use bytes::Bytes;
use keylatch_core::inbox::{DeadLetter, DeadLetterId, LastMessage, Place, PlaceName, Reason, Tried, Trouble};
use keylatch_core::{Epoch, Fingerprint, Owner, Timestamp};
use sqlx::postgres::PgRow;

use super::record_id;
use crate::error::Fault;
use crate::rows::{damaged, get};

/// The place in a row; `None` if there are nulls.
pub(super) fn place(row: &PgRow) -> Result<Option<Place>, Fault> {
    let Some(name) = name(row)? else { return Ok(None) };
    let last = match (get(row, "last_offset")?, get::<Option<&[u8]>>(row, "last_digest")?) {
        (Some(offset), Some(digest)) => Some(LastMessage { offset, digest: fingerprint(digest)? }),
        (None, None) => None,
        _ => return Err(damaged("half of the last message of a place is missing")),
    };
    let tried = match (get(row, "tried_offset")?, get(row, "tried_attempts")?) {
        (Some(offset), Some(attempts)) => Some(Tried { offset, attempts: attempts_of(attempts)? }),
        (None, None) => None,
        _ => return Err(damaged("half of the tries of a place is missing")),
    };
    let owner = get::<Option<&[u8]>>(row, "owner")?.map(|owner| {
        owner.try_into().map(Owner::from_bytes).map_err(|_| damaged("the owner of a place has the wrong length"))
    });
    Ok(Some(Place {
        name,
        epoch: Epoch::from_u64(get::<i64>(row, "epoch")?.cast_unsigned()),
        owner: owner.transpose()?,
        next: get(row, "next")?,
        last,
        after_crash: get(row, "after_crash")?,
        tried,
        changed_at: Timestamp::from_millis(get(row, "changed_at")?),
    }))
}

/// The dead letter in a row; `None` if there are nulls.
pub(super) fn dead_letter(row: &PgRow) -> Result<Option<DeadLetter>, Fault> {
    let Some(place) = name(row)? else { return Ok(None) };
    let digest = fingerprint(get(row, "digest")?)?;
    let reason = Reason::named(get(row, "reason")?);
    let reason = reason.ok_or_else(|| damaged("its reason is not known to this version; upgrade this process"))?;
    let mut trouble = Trouble::new(digest, reason, get(row, "error")?, attempts_of(get(row, "attempts")?)?);
    trouble.trace = get(row, "trace")?;
    trouble.record = get::<Option<&[u8]>>(row, "record")?.map(record_id).transpose()?;
    trouble.key = get::<Option<Vec<u8>>>(row, "key")?.map(Bytes::from);
    trouble.message = get::<Option<Vec<u8>>>(row, "message")?.map(Bytes::from);
    Ok(Some(DeadLetter {
        id: DeadLetterId { place, offset: get(row, "message_offset")?, digest },
        trouble,
        wanted: get(row, "wanted")?,
        buried_at: Timestamp::from_millis(get(row, "buried_at")?),
    }))
}

fn name(row: &PgRow) -> Result<Option<PlaceName>, Fault> {
    let Some(consumer) = get(row, "consumer")? else { return Ok(None) };
    let name = PlaceName::new(consumer, get(row, "topic")?, get(row, "partition")?);
    name.map(Some).map_err(|_| damaged("the name of a place is not valid"))
}

fn fingerprint(bytes: &[u8]) -> Result<Fingerprint, Fault> {
    bytes.try_into().map(Fingerprint::from_bytes).map_err(|_| damaged("a digest has the wrong length"))
}

fn attempts_of(attempts: i64) -> Result<u32, Fault> {
    u32::try_from(attempts).map_err(|_| damaged("a number of tries is out of range"))
}
