//! Pages of records, where they go on, and counts.

use std::fmt;
use std::str::FromStr;

use super::{Error, ErrorKind};
use crate::{Record, RecordId, Scope};

/// Which records a reader wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Only this scope's.
    pub scope: Option<Scope>,
    /// Where to go on: [`Page::next`] of the page before, of a request for the same scope.
    pub after: Option<Cursor>,
    /// How many at most; [`PAGE_RECORDS_MAX`] is the limit.
    pub limit: usize,
}

/// The largest page that a store returns.
pub const PAGE_RECORDS_MAX: usize = 1_000;

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records. There can be fewer than asked for, even none, although more follow.
    pub records: Vec<Record>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

impl Page {
    /// A page of a store that lists records by their identities, of at most `limit`.
    pub fn by_id(records: Vec<Record>, limit: usize) -> Self {
        let is_full = records.len() >= limit.min(PAGE_RECORDS_MAX);
        let next = records.last().filter(|_| is_full).map(|last| Cursor::after(last.id()));
        Self { records, next }
    }
}

/// Where a list goes on: bytes that mean something only to the store that made them. Written as text it is safe in a URL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Box<[u8]>);

/// The longest cursor.
pub const CURSOR_BYTES_MAX: usize = 1_024;

/// Bytes or a text that are no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor has at most {CURSOR_BYTES_MAX} bytes, each written as two lower-case hexadecimal digits")]
pub struct InvalidCursor;

impl Cursor {
    /// A cursor of a store's own.
    ///
    /// # Errors
    ///
    /// If it is longer than [`CURSOR_BYTES_MAX`].
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, InvalidCursor> {
        let bytes = bytes.into();
        if bytes.len() <= CURSOR_BYTES_MAX { Ok(Self(bytes)) } else { Err(InvalidCursor) }
    }

    /// What it was made of.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The cursor after this record, for a store that lists records by their identities.
    pub fn after(id: RecordId) -> Self {
        Self(id.as_bytes().as_slice().into())
    }

    /// The identity that [`after`](Self::after) was given.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`] if it is another store's cursor.
    pub fn id(&self) -> Result<RecordId, Error> {
        let bytes = (*self.0).try_into().map(RecordId::from_bytes);
        bytes.map_err(|_| Error::new(ErrorKind::Refused, "the cursor is not one of this store"))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({self})")
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(InvalidCursor),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(InvalidCursor) };
        let bytes = pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?));
        Self::new(bytes.collect::<Result<Box<[u8]>, _>>()?)
    }
}

/// How many records there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(u64),
    /// So many, and perhaps more: the store counted no further, or does not count all of them.
    AtLeast(u64),
}

impl Count {
    /// What is known when `counted` were counted, and at most `limit` would have been.
    pub const fn up_to(counted: u64, limit: u64) -> Self {
        if counted < limit { Self::Exactly(counted) } else { Self::AtLeast(limit) }
    }

    /// How many there are for certain.
    pub const fn at_least(self) -> u64 {
        match self {
            Self::Exactly(records) | Self::AtLeast(records) => records,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_through_a_url() {
        for bytes in [vec![], vec![0], (0..=255).collect(), vec![0xff; CURSOR_BYTES_MAX]] {
            let cursor = Cursor::new(bytes).unwrap();
            let text = cursor.to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn a_text_that_is_no_cursor_is_refused() {
        let long = "0".repeat(2 * CURSOR_BYTES_MAX + 2);
        for text in ["0", "0g", "AB", "é0", " 0", &long] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
        let other = Cursor::new([1, 2, 3]).unwrap();
        assert_eq!(other.id().unwrap_err().kind(), ErrorKind::Refused);
    }
}
