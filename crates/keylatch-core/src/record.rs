//! What a store keeps for one (scope, key).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{DecodeError, Fingerprint, Guarantee, Key, Outcome, Scope, Timestamp};

/// What a store keeps for one (scope, key).
///
/// The instants in it were computed by the [machine](crate::machine) when it was written. A store compares
/// [`takeover_at`](Self::takeover_at) and [`free_at`](Self::free_at) with its clock, and the fingerprint;
/// everything else the machine reads from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The scope of the record. A reader checks it: an answer never reaches another scope or key.
    pub scope: Scope,
    /// The key of the record.
    pub key: Key,
    /// The fingerprint of the request that holds the key.
    pub fingerprint: Fingerprint,
    /// The guarantee when the run started.
    pub guarantee: Guarantee,
    /// The fencing number: one higher with every claim that is won, until the record is removed.
    pub epoch: Epoch,
    /// Who won the latest claim.
    pub owner: Owner,
    /// The attempt number of the run for the same request, from 1.
    pub attempt: u32,
    /// When the first run of this request was claimed.
    pub created_at: Timestamp,
    /// From when the *same* request may take over; `None` for never.
    pub takeover_at: Option<Timestamp>,
    /// From when *anyone* may claim it anew; `None` for never. A sweep may remove it from then on, unless its
    /// [`expires_at`](State::Completed::expires_at) is later.
    pub free_at: Option<Timestamp>,
    /// The state of the run.
    pub state: State,
}

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Claimed, and not finished as far as the store knows.
    Running {
        /// The end of the lease. [`Record::takeover_at`] says what happens after it.
        lease_ends_at: Timestamp,
        /// Notes of this and earlier attempts for the next attempt.
        notes: Notes,
    },
    /// Finished.
    Completed {
        /// The answer; `None` once a sweep, or an operator who has taken it away, has made the record a tombstone.
        outcome: Option<Arc<Outcome>>,
        /// When the answer expires, or was taken away; for a freed record, when its epoch need no longer be kept.
        expires_at: Timestamp,
    },
}

/// What an attempt leaves for the next one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Results of finished steps, by name, in the order in which they finished.
    pub steps: Vec<(String, Bytes)>,
    /// Whether the latest attempt was released, so that the next one does not follow a crash.
    pub released: bool,
    /// Whether this attempt follows one that died.
    pub after_crash: bool,
}

impl Notes {
    /// The bytes to store: a format version, then the notes in that format. Most runs have none to store.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if *self == Self::default() {
            return None;
        }
        Some(postcard::to_extend(self, vec![NOTES_FORMAT]).expect("a vector takes any number of bytes"))
    }

    /// Reads what [`encode`](Self::encode) wrote, in this version or an earlier one.
    ///
    /// # Errors
    ///
    /// If the format version is unknown, or the bytes are not in that format.
    pub fn decode(stored: Option<&[u8]>) -> Result<Self, DecodeError> {
        let Some(stored) = stored else { return Ok(Self::default()) };
        match stored.split_first() {
            Some((&NOTES_FORMAT, rest)) => match postcard::take_from_bytes(rest) {
                Ok((notes, [])) => Ok(notes),
                Ok(_) | Err(_) => Err(DecodeError::Malformed),
            },
            Some((&format, _)) => Err(DecodeError::UnknownFormat(format)),
            None => Err(DecodeError::Malformed),
        }
    }
}

const NOTES_FORMAT: u8 = 1;

/// Shows sizes, never content.
impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notes").field("steps", &self.steps.len()).finish_non_exhaustive()
    }
}

impl Record {
    /// The identity under which it is stored.
    pub fn id(&self) -> RecordId {
        RecordId::of(&self.scope, &self.key)
    }

    /// The lease of the latest claim.
    pub fn lease(&self) -> Lease {
        Lease { id: self.id(), epoch: self.epoch, owner: self.owner }
    }

    /// The final outcome, if it is kept.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Completed { outcome, .. } => outcome.as_deref(),
            State::Running { .. } => None,
        }
    }

    /// Whether this is the record of that scope and key.
    pub fn belongs_to(&self, scope: &Scope, key: &Key) -> bool {
        self.scope == *scope && self.key == *key
    }
}

/// The name of a record: its scope and key, and the identity of both, which is hashed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    scope: Scope,
    key: Key,
    id: RecordId,
}

impl Name {
    /// The name of the record of `scope` and `key`.
    pub fn new(scope: Scope, key: Key) -> Self {
        let id = RecordId::of(&scope, &key);
        Self { scope, key, id }
    }

    /// [`new`](Self::new), if the identity is known.
    pub fn identified(id: RecordId, scope: Scope, key: Key) -> Self {
        Self { scope, key, id }
    }

    /// The name space of the key.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The identity under which the record is stored.
    pub fn id(&self) -> RecordId {
        self.id
    }
}

/// The identity of a record: 16 bytes of SHA-256 of the scope, then 16 bytes of SHA-256 of those and the key.
///
/// So all records of a scope are adjacent in an index, which makes them countable without a second index. If two
/// identities ever collide, the record's own scope and key tell them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId([u8; 32]);

/// Eight bytes of a digest are enough for a hash table: nobody can make many digests that share them.
impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl RecordId {
    /// The identity of the record of `scope` and `key`.
    pub fn of(scope: &Scope, key: &Key) -> Self {
        let of_key = Sha256::new_with_prefix(scope.digest()).chain_update(key.as_str()).finalize();
        let mut id = [0; 32];
        id[..16].copy_from_slice(scope.digest());
        id[16..].copy_from_slice(&of_key[..16]);
        Self(id)
    }

    /// The lowest and the highest identity that a record of `scope` can have.
    pub fn range(scope: &Scope) -> (Self, Self) {
        let (mut low, mut high) = ([0; 32], [0xff; 32]);
        low[..16].copy_from_slice(scope.digest());
        high[..16].copy_from_slice(scope.digest());
        (Self(low), Self(high))
    }

    /// The half that all records of its scope share: [`Scope::digest`].
    pub fn scope_digest(&self) -> [u8; 16] {
        let mut scope = [0; 16];
        scope.copy_from_slice(&self.0[..16]);
        scope
    }

    /// The 32 bytes of an identity that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, to store them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The identity in hexadecimal, as operators write it.
impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| fmt::Error)?;
        f.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
    }
}

/// A text that is no identity of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a record is 64 hexadecimal digits, in lower case")]
pub struct InvalidRecordId;

impl FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, InvalidRecordId> {
        let mut id = [0; 32];
        if text.len() != 2 * id.len() || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidRecordId);
        }
        for (nth, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * nth..2 * nth + 2], 16).map_err(|_| InvalidRecordId)?;
        }
        Ok(Self(id))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The fencing number of a claim. A later winner has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch of a record's first claim.
    pub const FIRST: Self = Self(1);

    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// An epoch that was stored.
    pub const fn from_u64(epoch: u64) -> Self {
        Self(epoch)
    }

    /// The number, to store it or to pass it to a resource that fences.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

/// The owner of a claim: a random token, new for every claim, and the same when that claim is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner([u8; 16]);

impl Owner {
    /// A new token.
    #[expect(clippy::disallowed_methods, reason = "this is the only place for randomness")]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// A token that was stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, to store them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Shows the first two bytes, enough to tell two apart in a log.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "Owner({a:02x}{b:02x}…)")
    }
}

/// What the winner of a claim holds: the condition of every later write to the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The record.
    pub id: RecordId,
    /// The fencing number of this claim.
    pub epoch: Epoch,
    /// Who won it.
    pub owner: Owner,
}
