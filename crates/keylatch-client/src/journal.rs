//! Durable intents: what was begun and has no final answer yet.

use bytes::Bytes;
use http::Request;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use keylatch_core::{Key, Timestamp};

use crate::BoxError;

/// Headers that a journal must never write. When a request is resumed, they come from the transport.
pub const CREDENTIALS: [HeaderName; 3] = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION];

/// An intent.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its request, without credentials.
    pub request: Request<Bytes>,
    /// When it was begun, by this machine's clock.
    pub created_at: Timestamp,
}

/// Where intents are kept. A client calls it on threads that may block.
pub trait Journal: Send + Sync + 'static {
    /// Keeps `entry`, unless there is one with its key. Returns the entry that is there.
    ///
    /// When it returns, the entry survives the death of the process and of the machine.
    ///
    /// # Errors
    ///
    /// If the journal is full, or failed. Then nothing is sent.
    fn begin(&self, entry: Entry) -> Result<Entry, JournalError>;

    /// Removes the entry of `key`, if there is one. It may come back after a crash: then it is sent once more, and the
    /// server answers from its record.
    ///
    /// # Errors
    ///
    /// If the journal failed.
    fn end(&self, key: &Key) -> Result<(), JournalError>;

    /// All entries, the oldest first.
    ///
    /// # Errors
    ///
    /// If the journal failed.
    fn pending(&self) -> Result<Vec<Entry>, JournalError>;
}

/// Why a journal did not keep an intent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It has as many entries as it may have.
    #[error("the journal has {entries} entries; resume them, or end those that are of no use any more")]
    Full {
        /// How many.
        entries: u32,
    },
    /// The body is too large for it.
    #[error("the body is over {bytes_max} bytes, the largest that the journal keeps")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The journal is of another format.
    #[error("the journal has format {0}, and this version of keylatch-client knows only format 1")]
    Format(i64),
    /// What keeps it failed.
    #[error("the journal failed")]
    Failed(#[source] BoxError),
}
