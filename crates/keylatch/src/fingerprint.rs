//! What makes two requests the same request.

use std::fmt;

use sha2::{Digest, Sha256};

/// SHA-256 of a request, field by field, each preceded by its length.
///
/// The same key with another fingerprint is another request: it never runs, and never sees the stored answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `fields`, in this order.
    ///
    /// ```
    /// use keylatch::Fingerprint;
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

    /// The fingerprint of a value, by its JSON with the names of every object in order.
    ///
    /// # Errors
    ///
    /// If the value cannot be written as JSON.
    pub fn of_json(value: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        // Into a tree first: its objects are sorted by name.
        let tree = serde_json::to_value(value)?;
        Ok(Self::of([serde_json::to_vec(&tree)?.as_slice()]))
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

/// Builds a [`Fingerprint`] one field at a time.
#[derive(Clone)]
pub struct Hasher {
    hash: Sha256,
    /// What comes next, up to `gathered`: one large update takes far less time than many small ones.
    next: [u8; GATHERED_BYTES_MAX],
    gathered: usize,
}

const GATHERED_BYTES_MAX: usize = 256;

impl Default for Hasher {
    fn default() -> Self {
        let mut hasher = Self { hash: Sha256::new(), next: [0; GATHERED_BYTES_MAX], gathered: 0 };
        hasher.add(b"keylatch fingerprint 1");
        hasher
    }
}

impl Hasher {
    /// Adds a field that is there, even if it is empty.
    pub fn field(&mut self, bytes: &[u8]) {
        let mut head = [1; 9];
        head[1..].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.add(&head);
        self.add(bytes);
    }

    /// Adds a field that may be absent. An absent field is not an empty one.
    pub fn optional(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.field(bytes),
            None => self.add(&[0]),
        }
    }

    /// The fingerprint of all fields that were added.
    pub fn finish(mut self) -> Fingerprint {
        self.hash.update(&self.next[..self.gathered]);
        Fingerprint(self.hash.finalize().into())
    }

    fn add(&mut self, bytes: &[u8]) {
        let end = self.gathered + bytes.len();
        if let Some(room) = self.next.get_mut(self.gathered..end) {
            room.copy_from_slice(bytes);
            self.gathered = end;
        } else {
            self.hash.update(&self.next[..self.gathered]);
            self.hash.update(bytes);
            self.gathered = 0;
        }
    }
}

/// Shows nothing of what was added.
impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
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
    use super::*;

    #[test]
    fn what_is_gathered_is_hashed_as_if_it_came_one_by_one() {
        let bytes = [7; 3 * GATHERED_BYTES_MAX];
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
