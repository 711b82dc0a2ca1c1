//! The locks that keep the transactions of one key apart.

use keylatch_core::RecordId;
use sha2::{Digest as _, Sha256};

/// The locks of the keys in one schema. Advisory locks belong to a database, so the schema is part of their numbers:
/// two stores in one database do not block each other.
#[derive(Debug)]
pub(super) struct KeyLocks {
    schema: i64,
}

impl KeyLocks {
    pub(super) fn of(schema: &str) -> Self {
        Self { schema: eight(&Sha256::digest(schema)) }
    }

    /// The lock of this key.
    pub(super) fn of_key(&self, id: &RecordId) -> i64 {
        // The second half of an identity is a hash of scope and key.
        eight(&id.as_bytes()[16..]) ^ self.schema
    }
}

/// The first eight bytes, as a number.
fn eight(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes[..8].try_into().expect("eight bytes are eight bytes"))
}
