//! Records as rows, and back. A row that cannot be read is an error, never an absent record.

use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, params};

use keylatch_core::Notes;
use keylatch_core::store::{Error, ErrorKind};
use keylatch_core::{
    DecodeError, Epoch, Fingerprint, Guarantee, Key, Outcome, Owner, Record, RecordId, Scope, State, Timestamp, machine,
};

/// A record, and the row that contains it.
#[derive(Debug)]
pub(super) struct StoredRow {
    pub(super) rowid: i64,
    pub(super) record: Record,
}

/// Why a row is not a record. It names the record by its identity, never by its key.
#[derive(Debug, thiserror::Error)]
#[error("record {id}: {why}")]
pub(super) struct Damaged {
    id: RecordId,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("the column `{0}` is damaged")]
    Column(&'static str),
    #[error("the column `{0}` has a value that this version does not know; upgrade this process")]
    Code(&'static str),
    #[error("the column `{0}`: {1}")]
    Decode(&'static str, DecodeError),
    #[error("it belongs to another scope or key")]
    Misplaced,
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(ErrorKind::Corrupt, damaged)
    }
}

// ---- Reading -------------------------------------------------------------------------------------------

/// Reads a row of `read.sql`, `list.sql` or `due.sql` as the record that it claims to be.
pub(super) fn decode(row: &Row<'_>) -> Result<StoredRow, Damaged> {
    let (rowid, id) = identity(row);
    let id = id.ok_or(Damaged { id: RecordId::from_bytes([0; 32]), why: Why::Column("id") })?;
    let record = decode_record(row).map_err(|why| Damaged { id, why })?;
    if record.id() != id {
        return Err(Damaged { id, why: Why::Misplaced });
    }
    Ok(StoredRow { rowid, record })
}

/// Reads a row of `read.sql` as the record of `id`, which is that of `scope` and `key`.
pub(super) fn decode_as(row: &Row<'_>, id: RecordId, scope: &Scope, key: &Key) -> Result<StoredRow, Damaged> {
    let record = decode_record(row).map_err(|why| Damaged { id, why })?;
    if !record.belongs_to(scope, key) {
        return Err(Damaged { id, why: Why::Misplaced });
    }
    Ok(StoredRow { rowid: identity(row).0, record })
}

fn identity(row: &Row<'_>) -> (i64, Option<RecordId>) {
    let rowid = row.get_ref(0).ok().and_then(|value| value.as_i64().ok()).unwrap_or_default();
    (rowid, bytes(row, 1, "id").ok().map(RecordId::from_bytes))
}

fn decode_record(row: &Row<'_>) -> Result<Record, Why> {
    let scope = Scope::of_parts(text(row, 2, "caller")?, &[text(row, 3, "operation")?]);
    let scope = scope.map_err(|_| Why::Column("caller"))?;
    let optional = |at, name| optional_instant(row, at, name);
    let state = match text(row, 13, "state")? {
        RUNNING => State::Running {
            lease_ends_at: optional(14, "lease_ends_at")?.ok_or(Why::Column("lease_ends_at"))?,
            notes: Notes::decode(optional_blob(row, 17, "notes")?).map_err(|error| Why::Decode("notes", error))?,
        },
        COMPLETED => State::Completed {
            outcome: optional_blob(row, 16, "outcome")?
                .map(|stored| Outcome::decode(stored).map(Arc::new))
                .transpose()
                .map_err(|error| Why::Decode("outcome", error))?,
            expires_at: optional(15, "expires_at")?.ok_or(Why::Column("expires_at"))?,
        },
        _ => return Err(Why::Code("state")),
    };
    Ok(Record {
        scope,
        key: Key::new(text(row, 4, "key")?).map_err(|_| Why::Column("key"))?,
        fingerprint: Fingerprint::from_bytes(bytes(row, 5, "fingerprint")?),
        guarantee: guarantee(text(row, 6, "guarantee")?).ok_or(Why::Code("guarantee"))?,
        epoch: Epoch::from_u64(number(row, 7, "epoch")?),
        owner: Owner::from_bytes(bytes(row, 8, "owner")?),
        attempt: number(row, 9, "attempt")?,
        created_at: optional(10, "created_at")?.ok_or(Why::Column("created_at"))?,
        takeover_at: optional(11, "takeover_at")?,
        free_at: optional(12, "free_at")?,
        state,
    })
}

fn value<'r>(row: &'r Row<'_>, at: usize, name: &'static str) -> Result<ValueRef<'r>, Why> {
    row.get_ref(at).map_err(|_| Why::Column(name))
}

fn text<'r>(row: &'r Row<'_>, at: usize, name: &'static str) -> Result<&'r str, Why> {
    value(row, at, name)?.as_str().map_err(|_| Why::Column(name))
}

fn bytes<const N: usize>(row: &Row<'_>, at: usize, name: &'static str) -> Result<[u8; N], Why> {
    let bytes = value(row, at, name)?.as_blob().map_err(|_| Why::Column(name))?;
    bytes.try_into().map_err(|_| Why::Column(name))
}

fn optional_blob<'r>(row: &'r Row<'_>, at: usize, name: &'static str) -> Result<Option<&'r [u8]>, Why> {
    value(row, at, name)?.as_blob_or_null().map_err(|_| Why::Column(name))
}

fn number<N: TryFrom<i64>>(row: &Row<'_>, at: usize, name: &'static str) -> Result<N, Why> {
    let number = value(row, at, name)?.as_i64().map_err(|_| Why::Column(name))?;
    N::try_from(number).map_err(|_| Why::Column(name))
}

fn optional_instant(row: &Row<'_>, at: usize, name: &'static str) -> Result<Option<Timestamp>, Why> {
    let millis = value(row, at, name)?.as_i64_or_null().map_err(|_| Why::Column(name))?;
    Ok(millis.map(Timestamp::from_millis))
}

// ---- Writing -------------------------------------------------------------------------------------------

/// Writes a new record.
pub(super) fn insert(conn: &Connection, id: RecordId, record: &Record) -> rusqlite::Result<()> {
    let columns = Columns::of(record);
    conn.prepare_cached(include_str!("sql/insert.sql"))?.execute(params![
        id.as_bytes(),
        record.scope.caller(),
        record.scope.operation(),
        record.key.as_str(),
        record.fingerprint.as_bytes(),
        columns.guarantee,
        columns.epoch,
        record.owner.as_bytes(),
        record.attempt,
        record.created_at.as_millis(),
        millis(record.takeover_at),
        millis(record.free_at),
        columns.state,
        columns.lease_ends_at,
        columns.expires_at,
        columns.outcome,
        columns.notes,
        columns.due_at,
    ])?;
    Ok(())
}

/// Writes the next version of the record in row `rowid`.
pub(super) fn update(conn: &Connection, rowid: i64, record: &Record) -> rusqlite::Result<()> {
    let columns = Columns::of(record);
    conn.prepare_cached(include_str!("sql/update.sql"))?.execute(params![
        rowid,
        record.fingerprint.as_bytes(),
        columns.guarantee,
        columns.epoch,
        record.owner.as_bytes(),
        record.attempt,
        record.created_at.as_millis(),
        millis(record.takeover_at),
        millis(record.free_at),
        columns.state,
        columns.lease_ends_at,
        columns.expires_at,
        columns.outcome,
        columns.notes,
        columns.due_at,
    ])?;
    Ok(())
}

/// Removes the record in row `rowid`.
pub(super) fn delete(conn: &Connection, rowid: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(include_str!("sql/delete.sql"))?.execute([rowid])?;
    Ok(())
}

/// The columns of a record that need a conversion.
struct Columns {
    guarantee: &'static str,
    epoch: i64,
    state: &'static str,
    lease_ends_at: Option<i64>,
    expires_at: Option<i64>,
    outcome: Option<Vec<u8>>,
    notes: Option<Vec<u8>>,
    due_at: Option<i64>,
}

impl Columns {
    fn of(record: &Record) -> Self {
        let (state, lease_ends_at, expires_at, outcome, notes) = match &record.state {
            State::Running { lease_ends_at, notes } => (RUNNING, Some(*lease_ends_at), None, None, notes.encode()),
            State::Completed { outcome, expires_at } => {
                (COMPLETED, None, Some(*expires_at), outcome.as_deref().map(Outcome::encode), None)
            }
        };
        Self {
            guarantee: code(record.guarantee),
            epoch: i64::try_from(record.epoch.as_u64()).expect("nobody claims a key that often"),
            state,
            lease_ends_at: millis(lease_ends_at),
            expires_at: millis(expires_at),
            outcome,
            notes,
            due_at: millis(machine::due_at(record)),
        }
    }
}

const RUNNING: &str = "running";
const COMPLETED: &str = "completed";

const fn code(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::Atomic => "atomic",
        Guarantee::Fenced => "fenced",
        Guarantee::AtMostOnce => "at_most_once",
    }
}

fn guarantee(code: &str) -> Option<Guarantee> {
    [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce].into_iter().find(|known| self::code(*known) == code)
}

fn millis(instant: Option<Timestamp>) -> Option<i64> {
    instant.map(Timestamp::as_millis)
}
