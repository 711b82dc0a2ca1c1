//! The events of a history.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that happened to one (scope, key).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds of the machine's monotonic clock, which all its processes share.
    pub at: u64,
    /// The name space of the key.
    pub scope: String,
    /// The key.
    pub key: String,
    /// What happened.
    pub what: What,
    /// The region in which it happened, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A client sends a request.
    Invoke {
        /// The number of this request among all.
        call: u64,
        /// The same for identical requests, and different for different ones.
        request: String,
    },
    /// The client learns the result. A request without this event is still running, or its client died.
    Reply {
        /// The number of the request.
        call: u64,
        /// The result.
        reply: Reply,
    },
    /// A store has granted a claim, and says that it is durable.
    Claim {
        /// The fencing number.
        epoch: u64,
        /// When the store was asked, on the clock of [`Event::at`].
        asked_at: u64,
    },
    /// A handler starts.
    Start {
        /// The fencing number that it got; `None` if there is none.
        epoch: Option<u64>,
    },
    /// An effect has happened, now.
    Effect {
        /// Its identity, such as the order's number.
        effect: String,
        /// The fencing number of the effect, if there is one.
        epoch: Option<u64>,
    },
    /// An effect that exists at the end; when it happened is not known. For tables that are read at the end.
    Found {
        /// Its identity.
        effect: String,
    },
    /// A run tried to write its outcome.
    Complete {
        /// The fencing number of the run.
        epoch: u64,
        /// Whether the store accepted it.
        applied: bool,
    },
    /// A record in the store at the end.
    Record {
        /// The fencing number in it.
        epoch: u64,
    },
}

/// How a request ended for its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// An answer that a handler gave and a store recorded: a final answer.
    Final(Answer),
    /// One of Keylatch's own answers: nothing ran, or the run has not ended.
    Refused {
        /// The status.
        status: u16,
        /// The code of the problem.
        code: String,
    },
    /// A 5xx of the handler or the server; nothing is recorded.
    Failed {
        /// The status.
        status: u16,
    },
    /// No reply: the connection broke, or the client gave up. The effect may have happened.
    Nothing,
}

impl Reply {
    /// Whether it says that nobody knows what became of the request.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: 409, code } if code == "IDEMPOTENCY_OUTCOME_UNKNOWN")
    }
}

/// A final answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The kept headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether it says that it was replayed.
    pub replayed: bool,
    /// The effect that it reports, if it reports one.
    pub effect: Option<String>,
}

impl Answer {
    /// Whether it is the same answer, byte for byte. Only one of the two may say that it is a replay.
    pub fn agrees_with(&self, other: &Self) -> bool {
        (self.status, &self.headers, &self.body) == (other.status, &other.headers, &other.body)
    }
}

/// Shows enough of the body to see a difference.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 400;
        let shown = String::from_utf8_lossy(&self.body[..self.body.len().min(SHOWN_MAX)]);
        f.debug_struct("Answer")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("body", &shown)
            .field("replayed", &self.replayed)
            .field("effect", &self.effect)
            .finish()
    }
}

/// The guarantee of the runs in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Exactly one effect; the claim commits with it.
    Atomic,
    /// One effect, if the called service honours the key or the epoch.
    Fenced,
    /// At most one start.
    AtMostOnce,
}
