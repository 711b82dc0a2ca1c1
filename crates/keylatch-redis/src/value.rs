//! Records as the bytes of a value, and back. Bytes that cannot be read are an error, never an absent record.
//!
//! ```text
//! header, 54 bytes, big-endian; what a write compares
//!    0  format            1    30  ends              8    R: span of the lease      C, T: end of the retention
//!    1  state: R, C, T    1    38  takeover          8    R: span                   C, T: never
//!    2  revision          4    46  free              8    R: span                   C, T: instant
//!    6  epoch             8
//!   14  owner            16    never: i64::MIN
//! identity: its length 2, fingerprint 32, created_at 8, guarantee 1, attempt 4, caller and operation (each with 2 for its
//!           length), key
//! the rest: notes (R), outcome, as it is or compressed (C), nothing (T)
//! ```
//!
//! **A running record (R) has spans instead of instants,** because the client that writes it does not know the server's
//! time. The key's own expiry is the anchor: the key is written with a time to live of `free`, at most [`KEEP_MS_MAX`],
//! so the spans count from that expiry minus the time to live. Lease, takeover and free are therefore the server's
//! time, exactly. In the first claim of a run `created_at` is the anchor itself, and is stored as "never".
//!
//! The revision rises with every write, so that an unchanged header means an unchanged record.

use std::sync::Arc;
use std::time::Duration;

use keylatch_core::Notes;
use keylatch_core::machine::Terms;
use keylatch_core::packed;
use keylatch_core::store::{Error, ErrorKind};
use keylatch_core::{
    DecodeError, Epoch, Fingerprint, Guarantee, Key, Lease, Owner, Record, RecordId, Scope, State, Timestamp,
};

/// A record, and the header that it was read from.
#[derive(Debug)]
pub(super) struct StoredValue {
    pub(super) record: Record,
    pub(super) header: Header,
    /// The instant from which the spans of a running record count.
    pub(super) since: Option<Timestamp>,
}

/// The part that has the same length in every record.
pub(super) type Header = [u8; HEADER_BYTES];

pub(super) const HEADER_BYTES: usize = 54;

/// The longest time to live of a key: a hundred years, which stays within the range of a server's clock. A record that
/// is to stay gets it, because its key must have an end.
pub(super) const KEEP_MS_MAX: i64 = 100 * 365 * 24 * 60 * 60 * 1_000;

const FORMAT: u8 = 2;
/// A format that no release wrote.
const FORMAT_BEFORE_RELEASE: u8 = 1;
const RUNNING: u8 = b'R';
const COMPLETED: u8 = b'C';
const TOMBSTONE: u8 = b'T';
const NEVER: i64 = i64::MIN;

const REVISION_AT: usize = 2;
const OWNED_AT: usize = 6;
const ENDS_AT: usize = 30;
/// The offset of `created_at`: after the header, the length of the identity and the fingerprint.
const CREATED_AT: usize = HEADER_BYTES + 2 + 32;

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
    #[error(
        "stored in format {FORMAT_BEFORE_RELEASE}, from before the first release, which this version does not read; \
         choose another prefix, or remove the keys of this one"
    )]
    BeforeRelease,
    #[error("its key has no time to live, without which the times of its run are not known; someone has removed it")]
    NoEnd,
    #[error("its {0} is damaged")]
    Field(&'static str),
    #[error("its {0}: {1}")]
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

/// The record, if it can be read without the expiry of its key, which means that it is not running.
pub(super) fn decode_final(id: RecordId, bytes: &[u8]) -> Result<Option<StoredValue>, Damaged> {
    let runs = bytes.first_chunk() == Some(&[FORMAT, RUNNING]);
    if runs { Ok(None) } else { decode(id, bytes, None).map(Some) }
}

/// Reads a value as the record of `id`, whose key expires at `end`. The record's own scope and key are checked against
/// `id`.
pub(super) fn decode(id: RecordId, bytes: &[u8], end: Option<Timestamp>) -> Result<StoredValue, Damaged> {
    let found = decode_record(bytes, end).map_err(|why| Damaged { id, why })?;
    if found.record.id() != id {
        return Err(Damaged { id, why: Why::Misplaced });
    }
    Ok(found)
}

fn decode_record(bytes: &[u8], end: Option<Timestamp>) -> Result<StoredValue, Why> {
    let header: Header = match bytes.first() {
        Some(&FORMAT) => *bytes.first_chunk().ok_or(Why::Field("header"))?,
        Some(&FORMAT_BEFORE_RELEASE) => return Err(Why::BeforeRelease),
        Some(&format) => return Err(Why::Format(format)),
        None => return Err(Why::Field("header")),
    };
    let mut fields = Reader(bytes);
    let [_, state] = fields.array("header")?;
    let _revision: [u8; 4] = fields.array("header")?;
    let epoch = Epoch::from_u64(u64::from_be_bytes(fields.array("header")?));
    let owner = Owner::from_bytes(fields.array("header")?);
    let ends = millis(fields.array("header")?).ok_or(Why::Field("end"))?;
    let takeover = millis(fields.array("header")?);
    let free = millis(fields.array("header")?);
    let identity = fields.with_length("identity")?;
    let rest = fields.0;

    let mut fields = Reader(identity);
    let fingerprint = Fingerprint::from_bytes(fields.array("fingerprint")?);
    let created = millis(fields.array("creation")?).map(Timestamp::from_millis);
    let [guarantee] = fields.array("guarantee")?;
    let attempt = u32::from_be_bytes(fields.array("attempt")?);
    let caller = text(fields.with_length("caller")?, "caller")?;
    let operation = text(fields.with_length("operation")?, "operation")?;
    let scope = Scope::of_parts(caller, &[operation]).map_err(|_| Why::Field("scope"))?;
    let key = Key::new(text(fields.0, "key")?).map_err(|_| Why::Field("key"))?;
    let guarantee = guarantee_of(guarantee).ok_or(Why::Field("guarantee"))?;

    let (since, state) = match state {
        RUNNING => {
            let end = end.ok_or(Why::NoEnd)?;
            let since = Timestamp::from_millis(end.as_millis().saturating_sub(keep_of(free)));
            let notes = Notes::decode((!rest.is_empty()).then_some(rest)).map_err(|why| Why::Decode("notes", why))?;
            (Some(since), State::Running { lease_ends_at: after(since, ends), notes })
        }
        COMPLETED => {
            let outcome = packed::unpack(rest).map_err(|why| Why::Decode("outcome", why))?;
            let expires_at = Timestamp::from_millis(ends);
            (None, State::Completed { outcome: Some(Arc::new(outcome)), expires_at })
        }
        TOMBSTONE if rest.is_empty() => {
            (None, State::Completed { outcome: None, expires_at: Timestamp::from_millis(ends) })
        }
        _ => return Err(Why::Field("state")),
    };
    let at = |millis: i64| since.map_or(Timestamp::from_millis(millis), |since| after(since, millis));
    let (takeover_at, free_at) = (takeover.map(at), free.map(at));
    let created_at = created.or(since).ok_or(Why::Field("creation"))?;
    let record =
        Record { scope, key, fingerprint, guarantee, epoch, owner, attempt, created_at, takeover_at, free_at, state };
    Ok(StoredValue { record, header, since })
}

/// How long the key of a running record stays, in milliseconds, if the record is free for anyone after this span.
fn keep_of(free: Option<i64>) -> i64 {
    free.unwrap_or(KEEP_MS_MAX).clamp(1, KEEP_MS_MAX)
}

fn after(since: Timestamp, span: i64) -> Timestamp {
    Timestamp::from_millis(since.as_millis().saturating_add(span))
}

/// The bytes that are left to read.
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

fn millis(stored: [u8; 8]) -> Option<i64> {
    Some(i64::from_be_bytes(stored)).filter(|millis| *millis != NEVER)
}

// ---- Writing -------------------------------------------------------------------------------------------

/// The bytes of a record, and how long their key stays.
pub(super) struct Value {
    pub(super) bytes: Vec<u8>,
    /// In milliseconds, from the start of a running record's spans, or from now.
    pub(super) keep_ms: i64,
}

/// The value of the first claim of a run. Its times count from when the server writes it.
pub(super) fn encode_new(record: &Record, terms: Terms) -> Value {
    let spans = Spans::of(terms);
    Value { bytes: encode_with(record, 1, spans.fields(), NEVER, None), keep_ms: keep_of(spans.free) }
}

/// The complete value of `record`, which follows the one with the header `previous`. The spans of a running record
/// count from `now`. An outcome of at least this many bytes is compressed.
pub(super) fn encode(record: &Record, previous: &Header, now: Timestamp, compress_from: Option<usize>) -> Value {
    let (fields, keep_ms) = match record.state {
        State::Running { lease_ends_at, .. } => {
            let span = |at: Timestamp| at.as_millis().saturating_sub(now.as_millis());
            let spans = Spans {
                lease: span(lease_ends_at),
                takeover: record.takeover_at.map(span),
                free: record.free_at.map(span),
            };
            (spans.fields(), keep_of(spans.free))
        }
        State::Completed { expires_at, .. } => {
            // A record that is free before its end keeps its epoch until then.
            let end = record.free_at.map_or(i64::MAX, |free| free.max(expires_at).as_millis());
            let free = record.free_at.map_or(NEVER, Timestamp::as_millis);
            let keep = end.saturating_sub(now.as_millis()).clamp(1, KEEP_MS_MAX);
            ([expires_at.as_millis(), NEVER, free], keep)
        }
    };
    let created = record.created_at.as_millis();
    Value { bytes: encode_with(record, next_revision(previous), fields, created, compress_from), keep_ms }
}

fn encode_with(
    record: &Record,
    revision: u32,
    fields: [i64; 3],
    created: i64,
    compress_from: Option<usize>,
) -> Vec<u8> {
    let (state, rest) = match &record.state {
        State::Running { notes, .. } => (RUNNING, notes.encode()),
        State::Completed { outcome: Some(outcome), .. } => (COMPLETED, Some(packed::pack(outcome, compress_from))),
        State::Completed { outcome: None, .. } => (TOMBSTONE, None),
    };
    let (caller, operation, key) = (record.scope.caller(), record.scope.operation(), record.key.as_str());
    let identity_bytes = 32 + 8 + 1 + 4 + 2 + caller.len() + 2 + operation.len() + key.len();
    let rest = rest.unwrap_or_default();
    let mut value = Vec::with_capacity(HEADER_BYTES + 2 + identity_bytes + rest.len());
    value.extend([FORMAT, state]);
    value.extend(revision.to_be_bytes());
    value.extend(record.epoch.as_u64().to_be_bytes());
    value.extend(record.owner.as_bytes());
    fields.iter().for_each(|field| value.extend(field.to_be_bytes()));
    debug_assert_eq!(value.len(), HEADER_BYTES);
    value.extend(length(identity_bytes));
    value.extend(record.fingerprint.as_bytes());
    debug_assert_eq!(value.len(), CREATED_AT);
    value.extend(created.to_be_bytes());
    value.push(code(record.guarantee));
    value.extend(record.attempt.to_be_bytes());
    for field in [caller, operation] {
        value.extend(length(field.len()));
        value.extend(field.as_bytes());
    }
    value.extend(key.as_bytes());
    value.extend(rest);
    value
}

/// Of a running record, in milliseconds; `None` for never.
#[derive(Debug, Clone, Copy)]
struct Spans {
    lease: i64,
    takeover: Option<i64>,
    free: Option<i64>,
}

impl Spans {
    fn of(Terms { lease, takeover, free }: Terms) -> Self {
        Self { lease: millis_of(lease), takeover: takeover.map(millis_of), free: free.map(millis_of) }
    }

    fn fields(self) -> [i64; 3] {
        [self.lease, self.takeover.unwrap_or(NEVER), self.free.unwrap_or(NEVER)]
    }
}

/// A span in whole milliseconds, at most up to the last instant.
pub(super) fn millis_of(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn next_revision(header: &Header) -> u32 {
    u32::from_be_bytes(*header[REVISION_AT..].first_chunk().expect("a header is longer")).wrapping_add(1)
}

// ---- What this process has written ---------------------------------------------------------------------

/// The value of a running record as this process last wrote it, from which it can write the next one without a read.
#[derive(Debug, Clone)]
pub(super) struct Written(Vec<u8>);

impl Written {
    /// The value of a record that was written at `now` and not changed by anyone else since.
    pub(super) fn new(Value { mut bytes, .. }: Value, created_at: Timestamp) -> Self {
        bytes[CREATED_AT..][..8].copy_from_slice(&created_at.as_millis().to_be_bytes());
        Self(bytes)
    }

    /// The value that a renewal wrote.
    pub(super) fn again(Value { bytes, .. }: Value) -> Self {
        Self(bytes)
    }

    pub(super) fn header(&self) -> &Header {
        self.0.first_chunk().expect("a value begins with a header")
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_of(&self, lease: &Lease) -> bool {
        self.0[OWNED_AT..ENDS_AT] == owned(lease.epoch, lease.owner)
    }

    /// The completed record: [`machine::complete`](keylatch_core::machine::complete) on bytes.
    pub(super) fn completed(&self, expires_at: Timestamp, free_at: Timestamp, packed: &[u8]) -> Vec<u8> {
        let identity_ends =
            HEADER_BYTES + 2 + usize::from(u16::from_be_bytes([self.0[HEADER_BYTES], self.0[HEADER_BYTES + 1]]));
        let mut value = Vec::with_capacity(identity_ends + packed.len());
        value.extend([FORMAT, COMPLETED]);
        value.extend(next_revision(self.header()).to_be_bytes());
        value.extend(&self.0[OWNED_AT..ENDS_AT]);
        for field in [expires_at.as_millis(), NEVER, free_at.as_millis()] {
            value.extend(field.to_be_bytes());
        }
        value.extend(&self.0[HEADER_BYTES..identity_ends]);
        value.extend(packed);
        value
    }

    /// The renewed record: [`machine::renew`](keylatch_core::machine::renew) without a step, on bytes.
    pub(super) fn renewed(&self, terms: Terms) -> Value {
        let (mut bytes, spans) = (self.0.clone(), Spans::of(terms));
        bytes[REVISION_AT..OWNED_AT].copy_from_slice(&next_revision(self.header()).to_be_bytes());
        for (at, field) in spans.fields().into_iter().enumerate() {
            bytes[ENDS_AT + at * 8..][..8].copy_from_slice(&field.to_be_bytes());
        }
        Value { bytes, keep_ms: keep_of(spans.free) }
    }
}

/// Epoch and owner, as they are in a header.
fn owned(epoch: Epoch, owner: Owner) -> [u8; 24] {
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
    use keylatch_core::{Outcome, machine};

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

    fn written(record: &Record, compress_from: Option<usize>) -> Value {
        encode(record, &[0; HEADER_BYTES], record.created_at, compress_from)
    }

    /// When the key expires, for a value that was written when the record was created.
    fn end_of(record: &Record, value: &Value) -> Option<Timestamp> {
        Some(after(record.created_at, value.keep_ms))
    }

    /// What this version writes can always be read: these bytes never change.
    #[test]
    fn stored_bytes_stay_readable() {
        let at = Timestamp::from_millis(1_700_000_030_000);
        let states = [
            (State::Running { lease_ends_at: at, notes: Notes::default() }, RUNNING_V2),
            (State::Completed { outcome: Some(Outcome::bytes("answer").into()), expires_at: at }, COMPLETED_V2),
            (State::Completed { outcome: None, expires_at: at }, TOMBSTONE_V2),
        ];
        for (state, stored) in states {
            let record = record(state);
            let value = written(&record, Some(1_024));
            assert_eq!(hex(&value.bytes), stored);
            let found = decode(record.id(), &value.bytes, end_of(&record, &value)).unwrap();
            assert_eq!(found.record, record);
            assert_eq!(found.header, value.bytes[..HEADER_BYTES]);
        }
    }

    /// Another version of zstd may compress to other bytes, but reads these.
    #[test]
    fn compressed_bytes_stay_readable() {
        let outcome = Outcome::bytes("0".repeat(2_000));
        let expires_at = Timestamp::from_millis(1_700_000_030_000);
        let record = record(State::Completed { outcome: Some(outcome.into()), expires_at });
        for bytes in [unhex(COMPRESSED_V2), written(&record, Some(1_024)).bytes, written(&record, None).bytes] {
            assert_eq!(decode(record.id(), &bytes, None).unwrap().record, record);
        }
    }

    /// The times of a run count from the expiry of its key, minus its time to live.
    #[test]
    fn a_new_claim_counts_from_when_the_server_wrote_it() {
        let ms = Duration::from_millis;
        let written_at = Timestamp::from_millis(1_800_000_000_000);
        for (takeover, free) in [(Some(ms(30)), Some(ms(900))), (None, None), (Some(ms(0)), Some(Duration::MAX))] {
            let terms = Terms { lease: ms(30), takeover, free };
            let mut expected = record(State::Running { lease_ends_at: written_at + ms(30), notes: Notes::default() });
            let value = encode_new(&expected, terms);
            expected.created_at = written_at;
            (expected.takeover_at, expected.free_at) =
                (takeover.map(|at| written_at + at), free.map(|at| written_at + at));
            let found = decode(expected.id(), &value.bytes, Some(after(written_at, value.keep_ms))).unwrap();
            assert_eq!((found.record, found.since), (expected.clone(), Some(written_at)));
            let no_end = decode(expected.id(), &value.bytes, None).unwrap_err();
            assert!(no_end.to_string().contains("no time to live"), "{no_end}");
        }
    }

    /// The result on bytes is the machine's result on the record.
    #[test]
    fn bytes_change_as_records_do() {
        let policy = keylatch_core::Policy::default();
        let now = Timestamp::from_millis(1_800_000_000_000);
        let mut running = record(State::Running { lease_ends_at: now + policy.lease, notes: Notes::default() });
        running.created_at = now;
        let terms = Terms::of(Guarantee::Fenced, &policy);
        let first = encode_new(&running, terms);
        let found = decode(running.id(), &first.bytes, Some(after(now, first.keep_ms))).unwrap();
        let lease = found.record.lease();
        let written = Written::new(first, now);
        assert!(written.is_of(&lease));
        assert!(!written.is_of(&Lease { epoch: lease.epoch.next(), ..lease }));

        let later = now + Duration::from_secs(10);
        let renewed = written.renewed(terms);
        let read = decode(running.id(), &renewed.bytes, Some(after(later, renewed.keep_ms))).unwrap();
        assert_eq!(Some(&read.record), machine::renew(&found.record, &lease, terms, None, later).as_ref());
        assert_ne!(read.header, found.header);

        let completion = machine::Completion::new(Outcome::bytes("answer"), &policy);
        let free_at = later + policy.retention + policy.tombstone;
        let packed = packed::pack(&completion.outcome, None);
        let completed = Written::again(renewed).completed(later + policy.retention, free_at, &packed);
        let read = decode(running.id(), &completed, None).unwrap();
        assert_eq!(Some(read.record), machine::complete(&found.record, &lease, &completion, later));
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let record = record(State::Completed { outcome: None, expires_at: Timestamp::from_millis(0) });
        let bytes = written(&record, None).bytes;
        assert!(decode(RecordId::from_bytes([0; 32]), &bytes, None).is_err(), "another identity");
        for (format, why) in [(1, "before the first release"), (3, "upgrade this process")] {
            let error = decode(record.id(), &[&[format], &bytes[1..]].concat(), None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    const RUNNING_V2: &str = "025200000001000000000000000107070707070707070707070707070707000000000000753080000000000000007fff\
        fe74301a97ff004509090909090909090909090909090909090909090909090909090909090909090000018bcfe56800\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d31";
    const COMPLETED_V2: &str = "0243000000010000000000000001070707070707070707070707070707070000018bcfe5dd3080000000000000007fff\
        ffffffffffff004509090909090909090909090909090909090909090909090909090909090909090000018bcfe56800\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d3101c801000006616e73776572";
    const COMPRESSED_V2: &str = "0243000000010000000000000001070707070707070707070707070707070000018bcfe5dd3080000000000000007fff\
        ffffffffffff004509090909090909090909090909090909090909090909090909090909090909090000018bcfe56800\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d317ad707000028b52ffd60d7067d00004001c801\
        0000d00f300100ccff800b";
    const TOMBSTONE_V2: &str = "0254000000010000000000000001070707070707070707070707070707070000018bcfe5dd3080000000000000007fff\
        ffffffffffff004509090909090909090909090909090909090909090909090909090909090909090000018bcfe56800\
        4600000003000663616c6c65720007504f5354202f6f6f726465722d31";
}
