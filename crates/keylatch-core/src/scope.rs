//! The name space of a key: the caller and the operation.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use foldhash::quality;
use sha2::{Digest, Sha256};

/// The name space of a key. Two scopes never see each other's records.
///
/// It has two fields: the **caller** (a tenant, a user), and the **operation** that is called (method and route, a
/// job's name), which may be empty. Their lengths are part of the identity, so no caller can choose a name that reaches
/// into another scope.
///
/// Take the caller from something verified (the subject of a checked token), and not from the raw token: a
/// client that refreshed its token between two tries would otherwise run its request twice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Arc<Fields>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Fields {
    /// The digest of both fields; every record identity begins with it.
    digest: [u8; 16],
    /// The hash of the caller, in this process.
    caller_hash: u64,
    caller_bytes: usize,
    /// The caller, then the operation.
    text: Box<str>,
}

/// Half of the digest is enough for a hash table: nobody can make many digests that share it.
impl Hash for Fields {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// The longest caller and the longest operation, in bytes each.
pub const SCOPE_FIELD_BYTES_MAX: usize = 512;

/// Why a text cannot be part of a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidScope {
    /// The caller is empty: all requests without a caller would share it.
    #[error("the caller is empty; a scope must say who calls")]
    Empty,
    /// A field has more than [`SCOPE_FIELD_BYTES_MAX`] bytes.
    #[error("a field of the scope is longer than {SCOPE_FIELD_BYTES_MAX} bytes")]
    TooLong,
    /// A field has a control character.
    #[error("a field of the scope has a control character")]
    ControlCharacter,
}

impl Scope {
    /// The scope of `caller`, for any operation.
    ///
    /// # Errors
    ///
    /// If `caller` is empty, longer than [`SCOPE_FIELD_BYTES_MAX`], or has a control character.
    pub fn new(caller: &str) -> Result<Self, InvalidScope> {
        Self::of_parts(caller, &[])
    }

    /// The scope of the same caller for only `operation`, such as `POST /api/orders`.
    ///
    /// # Errors
    ///
    /// If `operation` is longer than [`SCOPE_FIELD_BYTES_MAX`], or has a control character.
    pub fn for_operation(self, operation: &str) -> Result<Self, InvalidScope> {
        Self::of_parts(self.caller(), &[operation])
    }

    /// The scope of `caller` for the operation that is the concatenation of `parts`.
    pub fn of_parts(caller: &str, parts: &[&str]) -> Result<Self, InvalidScope> {
        if caller.is_empty() {
            return Err(InvalidScope::Empty);
        }
        let operation_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if caller.len().max(operation_bytes) > SCOPE_FIELD_BYTES_MAX {
            return Err(InvalidScope::TooLong);
        }
        let mut text = String::with_capacity(caller.len() + operation_bytes);
        text.push_str(caller);
        parts.iter().for_each(|part| text.push_str(part));
        // Without an early end, the compiler checks many bytes at once.
        let plain = text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'));
        if !plain && text.chars().any(char::is_control) {
            return Err(InvalidScope::ControlCharacter);
        }
        let digest = digest(caller, &text[caller.len()..]);
        let caller_hash = CALLERS.hash_one(caller);
        Ok(Self(Arc::new(Fields { digest, caller_hash, caller_bytes: caller.len(), text: text.into() })))
    }

    /// Who calls.
    pub fn caller(&self) -> &str {
        &self.0.text[..self.0.caller_bytes]
    }

    /// What is called; empty for any operation.
    pub fn operation(&self) -> &str {
        &self.0.text[self.0.caller_bytes..]
    }

    /// A number for the caller in this process, under which its requests are counted.
    pub fn caller_hash(&self) -> u64 {
        self.0.caller_hash
    }

    /// The half of a SHA-256 over both fields.
    pub fn digest(&self) -> &[u8; 16] {
        &self.0.digest
    }
}

/// Random for each process, so that nobody can choose callers that are counted as one.
static CALLERS: LazyLock<quality::RandomState> = LazyLock::new(quality::RandomState::default);

/// Half of the SHA-256 over both fields, each preceded by its length.
fn digest(caller: &str, operation: &str) -> [u8; 16] {
    let mut hash = Sha256::new_with_prefix(b"keylatch scope 1");
    for field in [caller, operation] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field.as_bytes());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    half
}

/// Shows the operation only: a caller may be a person.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope({:?})", self.operation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cannot_reach_into_each_other() {
        let a = Scope::new("ab").unwrap().for_operation("c").unwrap();
        let b = Scope::new("a").unwrap().for_operation("bc").unwrap();
        assert_ne!(a.digest(), b.digest());
    }

    #[test]
    fn an_operation_may_come_in_parts() {
        let parts = Scope::of_parts("ab", &["c", "", "de"]).unwrap();
        assert_eq!((parts.caller(), parts.operation()), ("ab", "cde"));
        assert_eq!(parts, Scope::new("ab").unwrap().for_operation("cde").unwrap());
    }

    #[test]
    fn a_scope_without_caller_is_refused() {
        assert_eq!(Scope::new(""), Err(InvalidScope::Empty));
        assert_eq!(Scope::new("a\nb"), Err(InvalidScope::ControlCharacter));
        assert_eq!(Scope::new(&"a".repeat(SCOPE_FIELD_BYTES_MAX + 1)), Err(InvalidScope::TooLong));
    }
}
