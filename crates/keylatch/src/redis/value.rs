//! Records as the bytes of a value, and back. Bytes that cannot be read are an error, never an absent record.
//!
//! ```text
//! header, 96 bytes, big-endian; what the scripts compare
//!    0  format            1    62  created_at        8
//!    1  state: R, C, T    1    70  takeover_at       8    i64::MIN: never
//!    2  revision          4    78  free_at           8    i64::MIN: never
//!    6  epoch             8    86  ends_at           8    of the lease, or of the retention
//!   14  owner            16    94  bytes of identity 2
//!   30  fingerprint      32
//! identity: guarantee 1, attempt 4, caller and operation (each with 2 for its length), key
//! the rest: notes (R), outcome, as it is or compressed (C), nothing (T)
//! ```
//!
//! The revision rises with every write, so that an unchanged header means an unchanged record.

use std::sync::Arc;

use crate::packed;
use crate::record::Notes;
use crate::store::{Error, ErrorKind};
use crate::{DecodeError, Epoch, Fingerprint, Guarantee, Key, Owner, Record, RecordId, Scope, State, Timestamp};

/// A record, and the header that it was read from.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) record: Record,
    pub(super) header: [u8; HEADER_BYTES],
}

/// How long the part is that has the same length in every record.
pub(super) const HEADER_BYTES: usize = 96;

const FORMAT: u8 = 1;
const RUNNING: u8 = b'R';
const COMPLETED: u8 = b'C';
const TOMBSTONE: u8 = b'T';
const NEVER: i64 = i64::MIN;

/// Where the instants begin, which a script writes.
const INSTANTS_AT: usize = 62;

/// Why the bytes of a value are not a record. It names the record by its identity, never by its key.
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
    #[error("it is another scope's or key's")]
    Misplaced,
}

impl From<Damaged> for Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(ErrorKind::Corrupt, damaged)
    }
}

// ---- Reading -------------------------------------------------------------------------------------------

/// Reads a value as the record of `id`. The record's own scope and key say whether it is.
pub(super) fn decode(id: RecordId, bytes: &[u8]) -> Result<Found, Damaged> {
    let found = decode_record(bytes).map_err(|why| Damaged { id, why })?;
    if found.record.id() != id {
        return Err(Damaged { id, why: Why::Misplaced });
    }
    Ok(found)
}

fn decode_record(bytes: &[u8]) -> Result<Found, Why> {
    let header: [u8; HEADER_BYTES] = match bytes.first() {
        Some(&FORMAT) => *bytes.first_chunk().ok_or(Why::Field("header"))?,
        Some(&format) => return Err(Why::Format(format)),
        None => return Err(Why::Field("header")),
    };
    let mut fields = Reader(bytes);
    let [_, state] = fields.array("header")?;
    let _revision: [u8; 4] = fields.array("header")?;
    let epoch = Epoch::from_u64(u64::from_be_bytes(fields.array("header")?));
    let owner = Owner::from_bytes(fields.array("header")?);
    let fingerprint = Fingerprint::from_bytes(fields.array("header")?);
    let created_at = Timestamp::from_millis(i64::from_be_bytes(fields.array("header")?));
    let takeover_at = instant(fields.array("header")?);
    let free_at = instant(fields.array("header")?);
    let ends_at = instant(fields.array("header")?).ok_or(Why::Field("end"))?;
    let identity = fields.with_length("identity")?;
    let rest = fields.0;

    let mut fields = Reader(identity);
    let [guarantee] = fields.array("guarantee")?;
    let attempt = u32::from_be_bytes(fields.array("attempt")?);
    let caller = text(fields.with_length("caller")?, "caller")?;
    let operation = text(fields.with_length("operation")?, "operation")?;
    let scope = Scope::of_parts(caller, &[operation]).map_err(|_| Why::Field("scope"))?;
    let key = Key::new(text(fields.0, "key")?).map_err(|_| Why::Field("key"))?;

    let state = match state {
        RUNNING => {
            let notes = Notes::decode((!rest.is_empty()).then_some(rest)).map_err(|why| Why::Decode("notes", why))?;
            State::Running { lease_ends_at: ends_at, notes }
        }
        COMPLETED => {
            let outcome = packed::unpack(rest).map_err(|why| Why::Decode("outcome", why))?;
            State::Completed { outcome: Some(Arc::new(outcome)), expires_at: ends_at }
        }
        TOMBSTONE if rest.is_empty() => State::Completed { outcome: None, expires_at: ends_at },
        _ => return Err(Why::Field("state")),
    };
    let guarantee = guarantee_of(guarantee).ok_or(Why::Field("guarantee"))?;
    let record =
        Record { scope, key, fingerprint, guarantee, epoch, owner, attempt, created_at, takeover_at, free_at, state };
    Ok(Found { record, header })
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Why> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Why::Field(field))?;
        self.0 = rest;
        Ok(*first)
    }

    fn with_length(&mut self, field: &'static str) -> Result<&'b [u8], Why> {
        let length = u16::from_be_bytes(self.array(field)?);
        let (first, rest) = self.0.split_at_checked(length.into()).ok_or(Why::Field(field))?;
        self.0 = rest;
        Ok(first)
    }
}

fn text<'b>(bytes: &'b [u8], field: &'static str) -> Result<&'b str, Why> {
    std::str::from_utf8(bytes).map_err(|_| Why::Field(field))
}

fn instant(stored: [u8; 8]) -> Option<Timestamp> {
    Some(i64::from_be_bytes(stored)).filter(|millis| *millis != NEVER).map(Timestamp::from_millis)
}

// ---- Writing -------------------------------------------------------------------------------------------

/// The whole value of `record`, as the next after the one with the header `previous`; its outcome is compressed from so
/// many bytes on.
pub(super) fn encode(record: &Record, previous: &[u8; HEADER_BYTES], compress_from: Option<usize>) -> Vec<u8> {
    let revision = u32::from_be_bytes(*previous[2..].first_chunk().expect("a header is longer"));
    let Parts { head, tail } = parts(record, revision.wrapping_add(1), compress_from);
    let ends_at = match record.state {
        State::Running { lease_ends_at: ends_at, .. } | State::Completed { expires_at: ends_at, .. } => ends_at,
    };
    let mut value = head;
    for at in [Some(record.created_at), record.takeover_at, record.free_at, Some(ends_at)] {
        value.extend(at.map_or(NEVER, Timestamp::as_millis).to_be_bytes());
    }
    value.extend(tail);
    value
}

/// What stands before and after the instants, where a script is to write those.
pub(super) struct Parts {
    pub(super) head: Vec<u8>,
    pub(super) tail: Vec<u8>,
}

/// The value of a record that is new, apart from its instants.
pub(super) fn parts_of_new(record: &Record) -> Parts {
    parts(record, 1, None)
}

fn parts(record: &Record, revision: u32, compress_from: Option<usize>) -> Parts {
    let (state, rest) = match &record.state {
        State::Running { notes, .. } => (RUNNING, notes.encode()),
        State::Completed { outcome: Some(outcome), .. } => (COMPLETED, Some(packed::pack(outcome, compress_from))),
        State::Completed { outcome: None, .. } => (TOMBSTONE, None),
    };
    let mut head = Vec::with_capacity(HEADER_BYTES);
    head.extend([FORMAT, state]);
    head.extend(revision.to_be_bytes());
    head.extend(owned(record.epoch, record.owner));
    head.extend(record.fingerprint.as_bytes());
    debug_assert_eq!(head.len(), INSTANTS_AT);

    let (caller, operation, key) = (record.scope.caller(), record.scope.operation(), record.key.as_str());
    let identity_bytes = 1 + 4 + 2 + caller.len() + 2 + operation.len() + key.len();
    let mut tail = Vec::with_capacity(2 + identity_bytes);
    tail.extend(length(identity_bytes));
    tail.push(code(record.guarantee));
    tail.extend(record.attempt.to_be_bytes());
    for field in [caller, operation] {
        tail.extend(length(field.len()));
        tail.extend(field.as_bytes());
    }
    tail.extend(key.as_bytes());
    tail.extend(rest.unwrap_or_default());
    Parts { head, tail }
}

/// Epoch and owner, as they stand in a header.
pub(super) fn owned(epoch: Epoch, owner: Owner) -> [u8; 24] {
    let mut owned = [0; 24];
    owned[..8].copy_from_slice(&epoch.as_u64().to_be_bytes());
    owned[8..].copy_from_slice(owner.as_bytes());
    owned
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("scopes and keys are short").to_be_bytes()
}

const fn code(guarantee: Guarantee) -> u8 {
    match guarantee {
        Guarantee::Atomic => b'A',
        Guarantee::Fenced => b'F',
        Guarantee::AtMostOnce => b'M',
    }
}

fn guarantee_of(code: u8) -> Option<Guarantee> {
    [Guarantee::Atomic, Guarantee::Fenced, Guarantee::AtMostOnce].into_iter().find(|known| self::code(*known) == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    fn record(state: State) -> Record {
        let at = Timestamp::from_millis;
        Record {
            scope: Scope::new("caller").unwrap().for_operation("POST /o").unwrap(),
            key: Key::new("order-1").unwrap(),
            fingerprint: Fingerprint::from_bytes([9; 32]),
            guarantee: Guarantee::Fenced,
            epoch: Epoch::FIRST,
            owner: Owner::from_bytes([7; 16]),
            attempt: 3,
            created_at: at(1_700_000_000_000),
            takeover_at: None,
            free_at: Some(at(i64::MAX)),
            state,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(text: &str) -> Vec<u8> {
        let digits = text.as_bytes().chunks(2).map(|byte| std::str::from_utf8(byte).unwrap());
        digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    /// What this version writes can be read for good: these bytes never change.
    #[test]
    fn stored_bytes_stay_readable() {
        let at = Timestamp::from_millis(1_700_000_030_000);
        let states = [
            (State::Running { lease_ends_at: at, notes: Notes::default() }, RUNNING_V1),
            (State::Completed { outcome: Some(Outcome::bytes("answer").into()), expires_at: at }, COMPLETED_V1),
            (State::Completed { outcome: None, expires_at: at }, TOMBSTONE_V1),
        ];
        for (state, stored) in states {
            let record = record(state);
            let bytes = encode(&record, &[0; HEADER_BYTES], Some(1_024));
            assert_eq!(hex(&bytes), stored);
            let found = decode(record.id(), &bytes).unwrap();
            assert_eq!(found.record, record);
            assert_eq!(found.header, bytes[..HEADER_BYTES]);
        }
    }

    /// Another version of zstd may compress to other bytes, and reads these.
    #[test]
    fn compressed_bytes_stay_readable() {
        let outcome = Outcome::bytes("0".repeat(2_000));
        let expires_at = Timestamp::from_millis(1_700_000_030_000);
        let record = record(State::Completed { outcome: Some(outcome.into()), expires_at });
        let compressed = encode(&record, &[0; HEADER_BYTES], Some(1_024));
        for bytes in [unhex(COMPRESSED_V1), compressed, encode(&record, &[0; HEADER_BYTES], None)] {
            assert_eq!(decode(record.id(), &bytes).unwrap().record, record);
        }
    }

    #[test]
    fn another_identity_is_damage() {
        let bytes = encode(
            &record(State::Running { lease_ends_at: Timestamp::from_millis(0), notes: Notes::default() }),
            &[0; HEADER_BYTES],
            None,
        );
        assert!(decode(RecordId::from_bytes([0; 32]), &bytes).is_err());
    }

    const RUNNING_V1: &str = "015200000001000000000000000107070707070707070707070707070707090909090909090909090909090909090909\
        09090909090909090909090909090000018bcfe5680080000000000000007fffffffffffffff0000018bcfe5dd30001d\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d31";
    const COMPLETED_V1: &str = "014300000001000000000000000107070707070707070707070707070707090909090909090909090909090909090909\
        09090909090909090909090909090000018bcfe5680080000000000000007fffffffffffffff0000018bcfe5dd30001d\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d3101c801000006616e73776572";
    const COMPRESSED_V1: &str = "014300000001000000000000000107070707070707070707070707070707090909090909090909090909090909090909\
        09090909090909090909090909090000018bcfe5680080000000000000007fffffffffffffff0000018bcfe5dd30001d\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d317ad707000028b52ffd60d7067d00004001c801\
        0000d00f300100ccff800b";
    const TOMBSTONE_V1: &str = "015400000001000000000000000107070707070707070707070707070707090909090909090909090909090909090909\
        09090909090909090909090909090000018bcfe5680080000000000000007fffffffffffffff0000018bcfe5dd30001d\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d31";
}
