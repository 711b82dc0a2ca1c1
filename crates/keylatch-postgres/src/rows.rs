//! Rows of the database, and the records in them.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::error::Fault;
use super::packed;
use keylatch_core::store::ErrorKind;
use keylatch_core::{
    DecodeError, Epoch, Fingerprint, Guarantee, Key, Notes, Owner, Record, RecordId, Scope, State, Timestamp,
};

/// A row with the server's clock, and a record or nulls.
pub(super) struct ReplyRow {
    /// The server's clock.
    pub(super) now: Timestamp,
    /// A function's flag beside the record (`keylatch.found`).
    pub(super) flag: i16,
    /// The identity of the row, if there is a record: what is stored under it may still belong to another.
    pub(super) id: Option<RecordId>,
    row: PgRow,
}

/// The code of a guarantee in the database.
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

impl ReplyRow {
    /// A row of a function.
    pub(super) fn new(row: PgRow) -> Result<Self, Fault> {
        let flag = get(&row, "flag")?;
        Ok(Self { flag, ..Self::read(row)? })
    }

    /// A row that was read.
    pub(super) fn read(row: PgRow) -> Result<Self, Fault> {
        let now = Timestamp::from_millis(get(&row, "clock")?);
        let id = get::<Option<&[u8]>>(&row, "id")?.map(bytes).transpose()?.map(RecordId::from_bytes);
        Ok(Self { now, flag: 0, id, row })
    }

    pub(super) fn owner(&self) -> Result<Owner, Fault> {
        bytes(get(&self.row, "owner")?).map(Owner::from_bytes)
    }

    /// The record, if there is one; an error if it does not belong to its identity.
    pub(super) fn record(&self) -> Result<Option<Record>, Fault> {
        let Some(id) = self.id else { return Ok(None) };
        Fields::of(&self.row)?.record(id).map(Some)
    }
}

/// The columns of a record, however they were read.
pub(super) struct Fields<'r> {
    pub(super) owner: &'r [u8],
    pub(super) epoch: i64,
    pub(super) attempt: i32,
    pub(super) guarantee: i16,
    pub(super) state: i16,
    pub(super) created_at: i64,
    pub(super) takeover_at: Option<i64>,
    pub(super) free_at: Option<i64>,
    pub(super) lease_ends_at: Option<i64>,
    pub(super) expires_at: Option<i64>,
    pub(super) released: bool,
    pub(super) after_crash: bool,
    pub(super) fingerprint: &'r [u8],
    pub(super) caller: &'r str,
    pub(super) operation: &'r str,
    pub(super) key: &'r str,
    pub(super) step_names: Option<Vec<Vec<u8>>>,
    pub(super) step_results: Option<Vec<Vec<u8>>>,
    pub(super) outcome: Option<&'r [u8]>,
}

impl<'r> Fields<'r> {
    fn of(row: &'r PgRow) -> Result<Self, Fault> {
        Ok(Self {
            owner: get(row, "owner")?,
            epoch: get(row, "epoch")?,
            attempt: get(row, "attempt")?,
            guarantee: get(row, "guarantee")?,
            state: get(row, "state")?,
            created_at: get(row, "created_at")?,
            takeover_at: get(row, "takeover_at")?,
            free_at: get(row, "free_at")?,
            lease_ends_at: get(row, "lease_ends_at")?,
            expires_at: get(row, "expires_at")?,
            released: get(row, "released")?,
            after_crash: get(row, "after_crash")?,
            fingerprint: get(row, "fingerprint")?,
            caller: get(row, "caller")?,
            operation: get(row, "operation")?,
            key: get(row, "key")?,
            step_names: get(row, "step_names")?,
            step_results: get(row, "step_results")?,
            outcome: get(row, "outcome")?,
        })
    }

    /// The record; an error if it does not belong to this identity.
    pub(super) fn record(self, id: RecordId) -> Result<Record, Fault> {
        let scope = Scope::new(self.caller)
            .and_then(|scope| scope.for_operation(self.operation))
            .map_err(|_| damaged("a scope is not valid"))?;
        let record = Record {
            scope,
            key: Key::new(self.key).map_err(|_| damaged("a key is not valid"))?,
            fingerprint: Fingerprint::from_bytes(bytes(self.fingerprint)?),
            guarantee: match self.guarantee {
                1 => Guarantee::Atomic,
                2 => Guarantee::Fenced,
                3 => Guarantee::AtMostOnce,
                _ => return Err(unknown("guarantee")),
            },
            epoch: Epoch::from_u64(self.epoch.cast_unsigned()),
            owner: bytes(self.owner).map(Owner::from_bytes)?,
            attempt: self.attempt.cast_unsigned(),
            created_at: Timestamp::from_millis(self.created_at),
            takeover_at: self.takeover_at.map(Timestamp::from_millis),
            free_at: self.free_at.map(Timestamp::from_millis),
            state: match self.state {
                RUNNING => State::Running {
                    lease_ends_at: instant(self.lease_ends_at)?,
                    notes: Notes {
                        steps: steps(self.step_names, self.step_results)?,
                        released: self.released,
                        after_crash: self.after_crash,
                    },
                },
                COMPLETED => State::Completed {
                    outcome: self.outcome.map(|stored| packed::unpack(stored).map(Arc::new)).transpose()?,
                    expires_at: instant(self.expires_at)?,
                },
                _ => return Err(unknown("state")),
            },
        };
        if record.id() != id {
            return Err(damaged("a record of another scope or key is stored under this identity"));
        }
        Ok(record)
    }
}

fn instant(millis: Option<i64>) -> Result<Timestamp, Fault> {
    millis.map(Timestamp::from_millis).ok_or_else(|| damaged("an instant is missing"))
}

fn steps(names: Option<Vec<Vec<u8>>>, results: Option<Vec<Vec<u8>>>) -> Result<Vec<(String, Bytes)>, Fault> {
    let (names, results) = (names.unwrap_or_default(), results.unwrap_or_default());
    if names.len() != results.len() {
        return Err(damaged("the steps of a run are incomplete"));
    }
    let step = |(name, result)| {
        let name = String::from_utf8(name).map_err(|_| damaged("the name of a step is not text"))?;
        Ok((name, Bytes::from(result)))
    };
    names.into_iter().zip(results).map(step).collect()
}

/// A column, by its name: a later schema may have put others before it.
pub(super) fn get<'r, T>(row: &'r PgRow, column: &str) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(column).map_err(|_| damaged(format!("the column {column} has an unexpected type or value")))
}

fn bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| damaged("an identity or a token has the wrong length"))
}

fn unknown(what: &str) -> Fault {
    damaged(format!("its {what} is not known to this version; upgrade this process"))
}

pub(super) fn damaged(what: impl Into<String>) -> Fault {
    Fault::new(ErrorKind::Corrupt, what.into())
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        damaged(error.to_string())
    }
}
