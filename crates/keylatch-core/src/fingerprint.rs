//! The fingerprint: what identifies a request.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::canonical::canonical;

/// SHA-256 of a request, field by field, each preceded by its length.
///
/// A request with the same key and another fingerprint is a different request: it never runs, and never sees the stored
/// answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `fields`, in this order.
    ///
    /// ```
    /// use keylatch_core::Fingerprint;
    ///
    /// assert_ne!(Fingerprint::of([b"ab".as_slice(), b"c"]), Fingerprint::of([b"a".as_slice(), b"bc"]));
    /// ```
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Hasher::default();
        for field in fields {
            hasher.field(field);
        }
        hasher.finish()
    }

    /// The fingerprint of a value's JSON. The order of the members of an object, or of the elements of a map, does not
    /// matter, nor does the spelling of numbers: `1` and `1.0` are the same. Nor do the features of `serde_json` that a
    /// program chooses.
    ///
    /// # Errors
    ///
    /// If the value cannot be written as JSON.
    pub fn of_json(value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        let json = serde_json::to_vec(value)?;
        // Not through `serde_json::Value`, whose order and numbers depend on features.
        let canonical = canonical(&json, VALUE_DEPTH_MAX);
        Ok(Self::of([canonical.as_deref().unwrap_or(&json)]))
    }

    /// The 32 bytes of a fingerprint that was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, to store them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The deepest nesting of a value whose members are put in order: as deep as `serde_json` reads.
const VALUE_DEPTH_MAX: usize = 128;

/// Builds a [`Fingerprint`] one field at a time.
#[derive(Debug, Clone)]
pub struct Hasher(Sha256);

impl Default for Hasher {
    fn default() -> Self {
        Self::with_prefix(b"keylatch fingerprint 1")
    }
}

impl Hasher {
    /// A hasher for another purpose: `prefix` keeps its hashes apart from fingerprints.
    pub(crate) fn with_prefix(prefix: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(prefix))
    }

    /// Adds a field that is present, even if it is empty.
    pub fn field(&mut self, bytes: &[u8]) {
        let mut head = [1; 9];
        head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.update(head);
        self.0.update(bytes);
    }

    /// Adds a field that may be absent. An absent field is not an empty one.
    pub fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.field(bytes),
            None => self.0.update([0]),
        }
    }

    /// The fingerprint of all fields that were added.
    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

/// Shows the first four bytes, enough to compare two in a log.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Fingerprint({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    #[test]
    fn the_order_of_members_and_elements_does_not_count() {
        #[derive(serde::Serialize)]
        struct Forth {
            a: f32,
            b: HashMap<u32, [u8; 2]>,
        }
        #[derive(serde::Serialize)]
        struct Back {
            b: BTreeMap<String, Vec<u8>>,
            a: f32,
        }
        let forth = Forth { a: 0.1, b: (0..100).map(|nth| (nth, [1, 2])).collect() };
        let mut back = Back { b: (0..100).map(|nth| (nth.to_string(), vec![1, 2])).collect(), a: 0.1 };
        let fingerprint = Fingerprint::of_json(&forth).unwrap();
        assert_eq!(fingerprint, Fingerprint::of_json(&back).unwrap());
        // It is the fingerprint of the canonical text, whatever the features of `serde_json` in this build.
        assert_eq!(Fingerprint::of_json(&("b", 10, 0.5)).unwrap(), Fingerprint::of([br#"["b",1e1,5e-1,]"#.as_slice()]));
        back.b.insert("1".into(), vec![2, 1]);
        assert_ne!(fingerprint, Fingerprint::of_json(&back).unwrap());
    }

    #[test]
    fn it_is_the_hash_of_the_fields_and_their_lengths() {
        let bytes = [7; 768];
        for first in [0, 1, 100, 215, 216, 224, 225, 226, 256, 300, 700] {
            for second in [0, 1, 9, 247, 256, 600] {
                let mut plain = Sha256::new_with_prefix(b"keylatch fingerprint 1");
                for length in [first, second] {
                    plain.update([1]);
                    plain.update((length as u64).to_be_bytes());
                    plain.update(&bytes[..length]);
                }
                plain.update([0]);
                let mut hasher = Hasher::default();
                hasher.field(&bytes[..first]);
                hasher.optional(Some(&bytes[..second]));
                hasher.optional(None);
                assert_eq!(hasher.finish(), Fingerprint(plain.finalize().into()), "{first}, {second}");
            }
        }
    }
}
