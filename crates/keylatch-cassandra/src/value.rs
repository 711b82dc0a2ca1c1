//! Records as the columns of a row, and back. A row that cannot be read is an error, never an absent record.
//!
//! | column | what it has |
//! |---|---|
//! | `epoch`, `owner` | those of the record: the condition of every write |
//! | `revision` | a random number, new with every write: an unchanged one means an unchanged record |
//! | `record` | a format version, then everything else but the answer |
//! | `outcome` | the answer of a completed record, plain or compressed |
//!
//! A column of its own for the answer lets it end before the rest, which stays as the tombstone.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use keylatch_core::packed;
use keylatch_core::store::{Error, ErrorKind};
use keylatch_core::{
    DecodeError, Epoch, Fingerprint, Guarantee, Key, Notes, Owner, Record, RecordId, Scope, State, Timestamp,
};

/// A record, and the revision of the row that it was read from.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) revision: i64,
}

/// The columns of a row, as the database returns them. All are null if there is no row.
pub(super) type Columns = (Option<i64>, Option<Vec<u8>>, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

/// The columns to write.
pub(super) struct Row {
    pub(super) epoch: i64,
    pub(super) owner: [u8; 16],
    pub(super) revision: i64,
    pub(super) record: Vec<u8>,
    pub(super) outcome: Option<Vec<u8>>,
}

const FORMAT: u8 = 1;

/// What is in the column `record`, after the format version.
#[derive(Serialize, Deserialize)]
struct Stored<'r> {
    caller: &'r str,
    operation: &'r str,
    key: &'r str,
    fingerprint: [u8; 32],
    guarantee: u8,
    attempt: u32,
    created_at: Timestamp,
    takeover_at: Option<Timestamp>,
    free_at: Option<Timestamp>,
    #[serde(borrow)]
    state: StoredState<'r>,
}

#[derive(Serialize, Deserialize)]
enum StoredState<'r> {
    Running {
        lease_ends_at: Timestamp,
        #[serde(borrow)]
        notes: Option<&'r [u8]>,
    },
    Completed {
        expires_at: Timestamp,
        /// Whether the answer was written. Its column can end before.
        kept: bool,
    },
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
    #[error("stored in format {0}, which this version does not know; upgrade this process")]
    Format(u8),
    #[error("its {0} is damaged")]
    Field(&'static str),
    #[error("its {0}: {1}")]
    Decode(&'static str, DecodeError),
    #[error(
        "its answer is gone before its time; something else has removed it, or a node's clock is ahead by more \
         than the clock uncertainty"
    )]
    AnswerMissing,
    #[error("it belongs to another scope or key")]
    Misplaced,
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(ErrorKind::Corrupt, damaged)
    }
}

// ---- Reading -------------------------------------------------------------------------------------------

/// Reads a row as the record of `id`; `None` if it has no columns. The record's own scope and key are checked.
pub(super) fn decode(id: RecordId, columns: Columns, now: Timestamp) -> Result<Option<Found>, Damaged> {
    let (epoch, owner, revision, record, outcome) = match columns {
        (None, None, None, None, None) => return Ok(None),
        columns => columns,
    };
    let found = (|| {
        let epoch = epoch.and_then(|epoch| u64::try_from(epoch).ok()).ok_or(Why::Field("epoch"))?;
        let owner: [u8; 16] = owner.and_then(|owner| owner.try_into().ok()).ok_or(Why::Field("owner"))?;
        let revision = revision.ok_or(Why::Field("revision"))?;
        let stored = record.ok_or(Why::Field("column record"))?;
        let record = decode_record(Epoch::from_u64(epoch), Owner::from_bytes(owner), &stored, outcome, now)?;
        Ok(Found { record, revision })
    })();
    match found {
        Ok(found) if found.record.id() != id => Err(Damaged { id, why: Why::Misplaced }),
        Ok(found) => Ok(Some(found)),
        Err(why) => Err(Damaged { id, why }),
    }
}

fn decode_record(
    epoch: Epoch,
    owner: Owner,
    stored: &[u8],
    outcome: Option<Vec<u8>>,
    now: Timestamp,
) -> Result<Record, Why> {
    let fields = match stored.split_first() {
        Some((&FORMAT, fields)) => fields,
        Some((&format, _)) => return Err(Why::Format(format)),
        None => return Err(Why::Field("column record")),
    };
    let stored: Stored<'_> = match postcard::take_from_bytes(fields) {
        Ok((stored, [])) => stored,
        Ok(_) | Err(_) => return Err(Why::Field("column record")),
    };
    let state = match stored.state {
        StoredState::Running { lease_ends_at, notes } => {
            State::Running { lease_ends_at, notes: Notes::decode(notes).map_err(|why| Why::Decode("notes", why))? }
        }
        StoredState::Completed { expires_at, kept } => {
            let outcome = match outcome.filter(|_| kept) {
                Some(outcome) => Some(packed::unpack(&outcome).map_err(|why| Why::Decode("answer", why))?),
                None if kept && now < expires_at => return Err(Why::AnswerMissing),
                None => None,
            };
            State::Completed { outcome: outcome.map(Arc::new), expires_at }
        }
    };
    Ok(Record {
        scope: Scope::of_parts(stored.caller, &[stored.operation]).map_err(|_| Why::Field("scope"))?,
        key: Key::new(stored.key).map_err(|_| Why::Field("key"))?,
        fingerprint: Fingerprint::from_bytes(stored.fingerprint),
        guarantee: guarantee_of(stored.guarantee).ok_or(Why::Field("guarantee"))?,
        epoch,
        owner,
        attempt: stored.attempt,
        created_at: stored.created_at,
        takeover_at: stored.takeover_at,
        free_at: stored.free_at,
        state,
    })
}

// ---- Writing -------------------------------------------------------------------------------------------

/// The row of `record`, with a new revision. An answer of at least `compress_from` bytes is compressed.
pub(super) fn encode(record: &Record, compress_from: Option<usize>) -> Row {
    let notes = match &record.state {
        State::Running { notes, .. } => notes.encode(),
        State::Completed { .. } => None,
    };
    let (state, outcome) = match &record.state {
        State::Running { lease_ends_at, .. } => {
            (StoredState::Running { lease_ends_at: *lease_ends_at, notes: notes.as_deref() }, None)
        }
        State::Completed { outcome, expires_at } => (
            StoredState::Completed { expires_at: *expires_at, kept: outcome.is_some() },
            outcome.as_ref().map(|outcome| packed::pack(outcome, compress_from)),
        ),
    };
    let stored = Stored {
        caller: record.scope.caller(),
        operation: record.scope.operation(),
        key: record.key.as_str(),
        fingerprint: *record.fingerprint.as_bytes(),
        guarantee: code(record.guarantee),
        attempt: record.attempt,
        created_at: record.created_at,
        takeover_at: record.takeover_at,
        free_at: record.free_at,
        state,
    };
    Row {
        epoch: stored_epoch(record.epoch),
        owner: *record.owner.as_bytes(),
        revision: new_revision(),
        record: postcard::to_extend(&stored, vec![FORMAT]).expect("a vector takes any number of bytes"),
        outcome,
    }
}

/// Epochs count claims of one key, so they stay far below the limit of the column.
pub(super) fn stored_epoch(epoch: Epoch) -> i64 {
    i64::try_from(epoch.as_u64()).unwrap_or(i64::MAX)
}

/// Random, so that a write whose fate is unknown is recognised, and never confused with another.
fn new_revision() -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *Owner::random().as_bytes();
    i64::from_le_bytes([a, b, c, d, e, f, g, h])
}

// ---- How long columns stay -----------------------------------------------------------------------------

/// How long a column stays, in seconds; 0 for as long as it is not removed.
pub(super) type Ttl = i32;

/// How long the columns of a record stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    /// All columns but the answer.
    pub(super) record: Ttl,
    pub(super) outcome: Ttl,
}

/// The latest second at which Cassandra can remove a column: its default format ends in January 2038. What ends later
/// stays until a claim or a sweep takes it.
const END_SECONDS_MAX: i64 = 2_147_000_000;
/// Answers that are shorter than this stay as long as the tombstone: to end them earlier takes a second statement.
const OWN_END_FROM_BYTES: usize = 512;

impl Keep {
    /// For as long as nobody removes it.
    pub(super) const FOREVER: Self = Self { record: 0, outcome: 0 };

    /// Of `record`, written at `now`. A run stays until a claim, a completion or a sweep: a lease never ends by this.
    /// `margin` is added, so that no clock of a node ends a column too early.
    pub(super) fn of(record: &Record, outcome_bytes: usize, now: Timestamp, margin: Duration) -> Self {
        let State::Completed { expires_at, .. } = record.state else { return Self::FOREVER };
        let end = record.free_at.map(|free_at| free_at.max(expires_at));
        let record = end.map_or(0, |end| ttl(now, end, margin));
        let outcome = if outcome_bytes < OWN_END_FROM_BYTES { record } else { ttl(now, expires_at, margin) };
        Self { record, outcome }
    }
}

/// From `now` to `end`, and `margin` longer.
pub(super) fn ttl(now: Timestamp, end: Timestamp, margin: Duration) -> Ttl {
    let end_seconds = (end + margin).as_millis().saturating_add(999) / 1_000;
    if end_seconds > END_SECONDS_MAX {
        return 0;
    }
    let seconds = end_seconds - now.as_millis() / 1_000;
    i32::try_from(seconds.max(1)).unwrap_or(0)
}

// ---- Codes ---------------------------------------------------------------------------------------------

fn code(guarantee: Guarantee) -> u8 {
    match guarantee {
        Guarantee::Atomic => b'T',
        Guarantee::Fenced => b'F',
        Guarantee::AtMostOnce => b'M',
    }
}

fn guarantee_of(code: u8) -> Option<Guarantee> {
    [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce].into_iter().find(|known| self::code(*known) == code)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keylatch_core::Outcome;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn record(state: State) -> Record {
        Record {
            scope: Scope::new("caller").unwrap().for_operation("POST /orders").unwrap(),
            key: Key::new("key").unwrap(),
            fingerprint: Fingerprint::of([b"request".as_slice()]),
            guarantee: Guarantee::Fenced,
            epoch: Epoch::from_u64(3),
            owner: Owner::from_bytes([7; 16]),
            attempt: 2,
            created_at: NOW,
            takeover_at: None,
            free_at: Some(NOW + Duration::from_secs(7_200)),
            state,
        }
    }

    fn completed(body: &'static str) -> Record {
        let outcome = Some(Arc::new(Outcome::bytes(Bytes::from_static(body.as_bytes()))));
        record(State::Completed { outcome, expires_at: NOW + Duration::from_secs(3_600) })
    }

    fn columns(row: Row) -> Columns {
        (Some(row.epoch), Some(row.owner.to_vec()), Some(row.revision), Some(row.record), row.outcome)
    }

    #[test]
    fn what_is_written_is_read() {
        let notes = Notes { steps: vec![("charge".to_owned(), Bytes::from_static(b"paid"))], ..Notes::default() };
        for record in [record(State::Running { lease_ends_at: NOW, notes }), completed("answer")] {
            let row = encode(&record, Some(0));
            let revision = row.revision;
            let found = decode(record.id(), columns(row), NOW).unwrap().unwrap();
            assert_eq!((found.record, found.revision), (record, revision));
        }
    }

    #[test]
    fn stored_bytes_stay_readable() {
        let stored = b"\x01\x06caller\x0cPOST /orders\x03key";
        let row = encode(&completed("answer"), None);
        assert!(row.record.starts_with(stored));
        assert_eq!(row.record.len(), stored.len() + 32 + 1 + 1 + 6 + 1 + 1 + 6 + 1 + 6 + 1);
    }

    #[test]
    fn a_row_of_nulls_is_no_record_and_any_other_is_not_absent() {
        let record = completed("answer");
        let id = record.id();
        assert!(decode(id, (None, None, None, None, None), NOW).unwrap().is_none());
        for missing in 0..4 {
            let mut columns = columns(encode(&record, None));
            match missing {
                0 => columns.0 = None,
                1 => columns.1 = None,
                2 => columns.2 = None,
                _ => columns.3 = None,
            }
            assert!(decode(id, columns, NOW).is_err(), "column {missing}");
        }
        let mut later = columns(encode(&record, None));
        later.3.as_mut().unwrap()[0] = FORMAT + 1;
        assert!(decode(id, later, NOW).unwrap_err().to_string().contains("upgrade"));
    }

    #[test]
    fn an_answer_that_has_ended_leaves_a_tombstone_and_not_before_its_time() {
        let record = completed("answer");
        let without = || {
            let mut columns = columns(encode(&record, None));
            columns.4 = None;
            columns
        };
        assert!(decode(record.id(), without(), NOW).is_err());
        let later = NOW + Duration::from_secs(3_600);
        let found = decode(record.id(), without(), later).unwrap().unwrap();
        assert!(matches!(found.record.state, State::Completed { outcome: None, .. }));
    }

    #[test]
    fn columns_end_after_their_time_and_runs_never() {
        let margin = Duration::from_secs(62);
        let record = completed("answer");
        let short = Keep::of(&record, 10, NOW, margin);
        assert_eq!(short, Keep { record: 7_262, outcome: 7_262 });
        assert_eq!(Keep::of(&record, 512, NOW, margin), Keep { record: 7_262, outcome: 3_662 });
        let running = self::record(State::Running { lease_ends_at: NOW, notes: Notes::default() });
        assert_eq!(Keep::of(&running, 0, NOW, margin), Keep::FOREVER);
        assert_eq!(ttl(NOW, Timestamp::from_millis(i64::MAX), margin), 0);
    }
}
