//! Why an operation has no answer.

use std::io;

use keylatch::store::{self, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ChangesView, PlaceView};
use crate::audit::Stage;
use crate::view::{Phase, RecordView};

/// Why an operation has no answer. Its text never has a key, a body or a token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be used.
    #[error("{field} {why}")]
    Invalid {
        /// What is wrong.
        field: &'static str,
        /// What it must be.
        why: String,
    },
    /// There is no such record, place, dead letter or event.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It is not in the epoch that the operator has seen. Nothing was changed.
    #[error("nothing was changed: it is in another epoch than the one that you have seen; now it is {}", .0.words())]
    Stale(Now),
    /// The owner of the run is alive: its lease has not ended. Nothing was changed.
    #[error("nothing was changed: the run has an owner that is alive; now it is {}", .0.words())]
    Alive(Now),
    /// The action has no meaning for what is there. Nothing was changed.
    #[error("nothing was changed: {why}; now it is {}", now.words())]
    NotPossible {
        /// Why not.
        why: String,
        /// What is there.
        now: Now,
    },
    /// This program, or its store, has no such thing.
    #[error("there is no {what} here; {stores}")]
    Unsupported {
        /// What it does not have.
        what: &'static str,
        /// Which stores have it, or what to do.
        stores: &'static str,
    },
    /// The audit file cannot be written. Nothing was done.
    #[error("nothing was done: the audit file cannot be written: {0}")]
    Audit(#[source] io::Error),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] store::Error),
}

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Now {
    /// Nothing.
    Gone,
    /// This record.
    Record(Box<RecordView>),
    /// This place.
    Place(Box<PlaceView>),
    /// These changes of the map of regions.
    Regions(Box<ChangesView>),
}

impl Now {
    fn words(&self) -> String {
        match self {
            Self::Gone => "gone".to_owned(),
            Self::Record(record) => {
                let end = match (record.phase, record.lease_ends_at) {
                    (Phase::Running, Some(end)) => format!(", and its lease ends at {end}"),
                    _ => String::new(),
                };
                format!("{} in epoch {}{end}", record.phase.name(), record.epoch)
            }
            Self::Place(place) => format!("in epoch {}", place.epoch),
            Self::Regions(changes) => format!("at change {}", changes.number),
        }
    }
}

impl Error {
    /// A request that cannot be used.
    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { field, why: why.into() }
    }

    /// A page that cannot be read: a store refuses a cursor that is not its own.
    pub(crate) fn of_page(error: store::Error) -> Self {
        match error.kind() {
            ErrorKind::Refused => Self::invalid("cursor", format!("cannot be used: {error}")),
            _ => Self::Store(error),
        }
    }

    /// A failure of an engine.
    pub(crate) fn of_engine(error: keylatch::Error) -> Self {
        match error {
            keylatch::Error::Store(error) => Self::Store(error),
            other => Self::Store(store::Error::new(ErrorKind::Unavailable, other)),
        }
    }

    /// What it means for the action.
    pub(crate) const fn stage(&self) -> Stage {
        match self {
            Self::Store(_) => Stage::Failed,
            _ => Stage::Refused,
        }
    }

    /// Whether the same request, sent again, can succeed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.retryable(),
            Self::Audit(_) => true,
            _ => false,
        }
    }
}
