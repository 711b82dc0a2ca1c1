//! What a client tells its observer.

use std::time::Duration;

use http::{Method, StatusCode};

/// A step of a call, for logs, metrics and spans. It contains no key, header, query or body.
///
/// A call begins with [`Step::Try`] and ends with [`Step::Answer`] or [`Step::Error`]. In between, each
/// [`Step::Pause`] is followed by a try. A call whose future is dropped ends with an error named `stopped`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The same number for all events of a call.
    pub call: u64,
    /// The method of the request.
    pub method: Method,
    /// The URL of the request, without its query and user.
    pub url: String,
    /// How often the request was sent, including a try that begins now.
    pub tries: u32,
    /// What happened.
    pub step: Step,
}

/// Is told each step of each call.
pub(crate) type Observer = std::sync::Arc<dyn Fn(&Event) + Send + Sync>;

/// What happened in a call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// The request is sent.
    Try,
    /// The call waits for its next try.
    Pause {
        /// What the last try met.
        why: Why,
        /// The status of its answer, if there was one.
        status: Option<StatusCode>,
        /// How long it waits.
        pause: Duration,
    },
    /// There is a final answer.
    Answer {
        /// Its status.
        status: StatusCode,
        /// Whether it comes from the server's record.
        replayed: bool,
    },
    /// The call ends without one.
    Error {
        /// The name of the error, which is the same in all clients.
        name: &'static str,
    },
}

/// Why a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The connection could not be made, or it broke.
    Lost,
    /// There was no whole answer within the time of a try.
    Silent,
    /// The answer says nothing about the outcome.
    Retry,
    /// The request is running now.
    InProgress,
}
