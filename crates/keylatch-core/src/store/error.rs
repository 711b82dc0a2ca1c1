//! What can fail.

/// A store that failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}: {source}")]
pub struct Error {
    kind: ErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What a failure means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store took no part; the write did not happen. A later try may succeed.
    #[error("the store is unavailable")]
    Unavailable,
    /// The store may or may not have written. Sending the same call again tells.
    #[error("the store did not say whether it wrote")]
    NotKnown,
    /// A record is there and cannot be read: damaged, of a later version, or another record's. It must not
    /// be taken for absent.
    #[error("a stored record cannot be read")]
    Corrupt,
    /// The store understood and will not do it, now or later.
    #[error("the store refused")]
    Refused,
}

impl Error {
    /// A failure of this kind, caused by `source`.
    pub fn new(kind: ErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }

    /// What it means for the caller.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call, sent again, can succeed.
    pub const fn retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::NotKnown)
    }
}
