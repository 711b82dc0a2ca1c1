//! How a call can fail. Each error says what to do; none is a reason to use a new key for the same intent.

use std::fmt;
use std::time::Duration;

use keylatch_core::Key;

use crate::{Answer, BoxError, JournalError};

/// A call that ended without a final answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key belongs to another request, and this one did not run. Without an answer, nothing was sent.
    #[error(
        "the key belongs to another request, and this one did not run: use a new key for a new intent, and send the same \
         bytes for the same one"
    )]
    KeyReused(Unsettled),
    /// A try ended half-way, and the server does not run the request again until somebody has found out what happened.
    #[error(
        "the request may have taken effect, or not: ask the service for its state; do not use a new key; the same request \
         with the same key gets the answer once the outcome is known"
    )]
    OutcomeUnknown(Unsettled),
    /// The request took effect, and its answer was not kept.
    #[error(
        "the request took effect, and its answer was not kept: read the result from the service; do not use a new key"
    )]
    ResponseNotRetained(Unsettled),
    /// The request took effect, longer ago than answers are kept.
    #[error("the request took effect, longer ago than answers are kept: read the result from the service")]
    KeyExpired(Unsettled),
    /// The request was begun longer ago than servers keep keys, so nothing was sent.
    #[error(
        "the request was begun longer ago than servers keep keys, so nothing was sent: find out from the service whether \
         it took effect, then remove it from the journal with `Journal::end`"
    )]
    TooOld(Unsettled),
    /// The body of the answer is over the limit of the policy.
    #[error(
        "the answer is larger than answer_bytes_max of the policy: raise it, and send the request again with the same key"
    )]
    AnswerTooLarge(Unsettled),
    /// The limit of tries or time was reached.
    #[error(
        "no final answer within the limits of the policy ({why}); the request may have taken effect: send it again later, \
         with the same key and the same bytes"
    )]
    GaveUp {
        /// The call.
        call: Unsettled,
        /// Which limit of the policy it was.
        why: GaveUp,
        /// What `Retry-After` of the last answer asks for.
        after: Option<Duration>,
        /// The failure of the last try, if it had no answer.
        #[source]
        source: Option<BoxError>,
    },
    /// The request cannot be sent at all.
    #[error(transparent)]
    Unsendable(#[from] Unsendable),
    /// The journal failed. Before the first try: nothing was sent. After an answer: the entry is still there.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Error {
    /// The name of the error, which is the same in all clients.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::KeyReused(_) => "key_reused",
            Self::OutcomeUnknown(_) => "outcome_unknown",
            Self::ResponseNotRetained(_) => "not_retained",
            Self::KeyExpired(_) | Self::TooOld(_) => "expired",
            Self::AnswerTooLarge(_) => "answer_too_large",
            Self::GaveUp { .. } => "gave_up",
            Self::Unsendable(_) => "unsendable",
            Self::Journal(_) => "journal",
        }
    }

    /// The call, if it got as far as to have a key.
    pub const fn call(&self) -> Option<&Unsettled> {
        match self {
            Self::KeyReused(call)
            | Self::OutcomeUnknown(call)
            | Self::ResponseNotRetained(call)
            | Self::KeyExpired(call)
            | Self::TooOld(call)
            | Self::AnswerTooLarge(call)
            | Self::GaveUp { call, .. } => Some(call),
            Self::Unsendable(_) | Self::Journal(_) => None,
        }
    }
}

/// A call without a final answer.
#[derive(Debug)]
pub struct Unsettled {
    /// The key of the call. Do not log it.
    pub key: Key,
    /// How often the request was sent.
    pub tries: u32,
    /// The answer to the last try, if there was one.
    pub answer: Option<Box<Answer>>,
}

/// The limit of the policy at which a call gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GaveUp {
    /// `tries_max`.
    Tries,
    /// `time_max`: the next try would begin after it.
    Time,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tries => "tries_max",
            Self::Time => "time_max",
        })
    }
}

/// A request that cannot be sent, however often it is tried. A transport returns it as its error to say so.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be sent: {0}")]
pub struct Unsendable(#[source] BoxError);

impl Unsendable {
    /// With this reason.
    pub fn new(why: impl Into<BoxError>) -> Self {
        Self(why.into())
    }
}
