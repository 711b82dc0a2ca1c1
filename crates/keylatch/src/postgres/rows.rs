//! Rows of the database, and the records in them.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::error::Fault;
use super::packed;
use crate::store::ErrorKind;
use crate::{DecodeError, Epoch, Fingerprint, Guarantee, Key, Notes, Owner, Record, RecordId, Scope, State, Timestamp};

/// A row of the type `keylatch.found`.
pub(super) struct Found {
    /// The server's clock.
    pub(super) now: Timestamp,
    /// What the function says beside the record.
    pub(super) flag: i16,
    /// Whose row it is, if there is a record: what is stored under this identity may still be another's.
    pub(super) id: Option<RecordId>,
    row: PgRow,
}

/// What stands in the database for a guarantee.
pub(super) const fn guarantee_code(guarantee: Guarantee) -> i16 {
    match guarantee {
        Guarantee::Atomic => 1,
        Guarantee::Fenced => 2,
        Guarantee::AtMostOnce => 3,
    }
}

/// The states in the database.
pub(super) const RUNNING: i16 = 1;
pub(super) const COMPLETED: i16 = 2;

impl Found {
    pub(super) fn new(row: PgRow) -> Result<Self, Fault> {
        let now = Timestamp::from_millis(get(&row, "clock")?);
        let id = get::<Option<&[u8]>>(&row, "id")?.map(bytes).transpose()?.map(RecordId::from_bytes);
        Ok(Self { now, flag: get(&row, "flag")?, id, row })
    }

    /// The one row of a function that returns one.
    pub(super) fn one(rows: Vec<PgRow>) -> Result<Self, Fault> {
        rows.into_iter().next().ok_or_else(|| damaged("a row is missing")).and_then(Self::new)
    }

    pub(super) fn owner(&self) -> Result<Owner, Fault> {
        bytes(get(&self.row, "owner")?).map(Owner::from_bytes)
    }

    /// The record, if there is one, and if it is the one that belongs under its identity.
    pub(super) fn record(&self) -> Result<Option<Record>, Fault> {
        let Some(id) = self.id else { return Ok(None) };
        let record = self.whole()?;
        if record.id() != id {
            return Err(damaged("a record of another scope or key is stored under this identity"));
        }
        Ok(Some(record))
    }

    fn whole(&self) -> Result<Record, Fault> {
        let row = &self.row;
        let scope = Scope::new(get(row, "caller")?)
            .and_then(|scope| scope.for_operation(get(row, "operation").unwrap_or("\0")))
            .map_err(|_| damaged("a scope is not one"))?;
        let attempt: i32 = get(row, "attempt")?;
        Ok(Record {
            scope,
            key: Key::new(get(row, "key")?).map_err(|_| damaged("a key is not one"))?,
            fingerprint: Fingerprint::from_bytes(bytes(get(row, "fingerprint")?)?),
            guarantee: match get(row, "guarantee")? {
                1i16 => Guarantee::Atomic,
                2 => Guarantee::Fenced,
                3 => Guarantee::AtMostOnce,
                _ => return Err(unknown("guarantee")),
            },
            epoch: Epoch::from_u64(get::<i64>(row, "epoch")?.cast_unsigned()),
            owner: self.owner()?,
            attempt: attempt.cast_unsigned(),
            created_at: Timestamp::from_millis(get(row, "created_at")?),
            takeover_at: get::<Option<i64>>(row, "takeover_at")?.map(Timestamp::from_millis),
            free_at: get::<Option<i64>>(row, "free_at")?.map(Timestamp::from_millis),
            state: match get(row, "state")? {
                RUNNING => State::Running {
                    lease_ends_at: Timestamp::from_millis(get(row, "lease_ends_at")?),
                    notes: notes(row)?,
                },
                COMPLETED => State::Completed {
                    outcome: get::<Option<&[u8]>>(row, "outcome")?
                        .map(|stored| packed::unpack(stored).map(Arc::new))
                        .transpose()?,
                    expires_at: Timestamp::from_millis(get(row, "expires_at")?),
                },
                _ => return Err(unknown("state")),
            },
        })
    }
}

fn notes(row: &PgRow) -> Result<Notes, Fault> {
    let names: Option<Vec<Vec<u8>>> = get(row, "step_names")?;
    let results: Option<Vec<Vec<u8>>> = get(row, "step_results")?;
    let (names, results) = (names.unwrap_or_default(), results.unwrap_or_default());
    if names.len() != results.len() {
        return Err(damaged("the steps of a run are not whole"));
    }
    let step = |(name, result)| {
        let name = String::from_utf8(name).map_err(|_| damaged("the name of a step is not text"))?;
        Ok::<_, Fault>((name, Bytes::from(result)))
    };
    Ok(Notes {
        steps: names.into_iter().zip(results).map(step).collect::<Result<_, _>>()?,
        released: get(row, "released")?,
        after_crash: get(row, "after_crash")?,
    })
}

/// A column, by its name: a later schema may have put others before it.
pub(super) fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|_| damaged(format!("the column {column} is not what it should be")))
}

fn bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| damaged("an identity or a token has another length"))
}

fn unknown(what: &str) -> Fault {
    damaged(format!("its {what} is none that this version knows; upgrade this process"))
}

pub(super) fn damaged(what: impl Into<String>) -> Fault {
    Fault::new(ErrorKind::Corrupt, what.into())
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        damaged(error.to_string())
    }
}
