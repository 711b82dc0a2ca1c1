//! Who publishes events.

use std::fmt;
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::Published;

/// What the relay hands events to: a broker, or handlers in this process.
///
/// # The order of a key
///
/// The events are in the order in which they are to arrive; only the order within one topic and one key counts. After an
/// event that was not acknowledged, none of the same topic and key may be published or acknowledged in the same call: the
/// relay hands them out again, after it.
pub trait Publisher: fmt::Debug + Send + Sync + 'static {
    /// Publishes events, and returns for each what became of it, in the same order.
    ///
    /// It must end by `until`, when another relay may begin to publish the same events: what is not acknowledged by then is
    /// [`Sent::Later`]. The future may be dropped at any point; the events are then handed out again. An event may be
    /// handed out more than once in any case, always with the same id.
    fn publish<'p>(&'p self, events: &'p [Published], until: Instant) -> BoxFuture<'p, Vec<Sent>>;
}

/// What became of an event that was to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It is published, durably.
    Acknowledged,
    /// It can never be published as it is, such as one that is too large for its topic; with the reason, for operators. It
    /// must not contain anything of the event's key, value or headers.
    Refused(String),
    /// It is not published, or that is not known: try again later; with the reason, as above.
    Later(String),
}
