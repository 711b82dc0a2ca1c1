//! Checks what happened against the invariants: the judge of every test that breaks something.
//!
//! All parts write down what they do, and no event is lost or merged: clients note each request and each reply in a
//! [`Log`], handlers and effects note theirs in an append-only [`ledger`] file that survives a kill -9. [`check`] then
//! reads the whole [`History`] and names each invariant (docs/ARCHITECTURE.md) that it breaks, with the events that
//! prove it. It knows nothing of stores or HTTP, so that the black-box tests, the simulator and the search use the same
//! judge.
//!
//! | | is broken by |
//! |---|---|
//! | I1 | two effects under one key, in `AtMostOnce` two starts; starts in two regions; an effect that nobody asked for |
//! | I2 | two final answers to one request that differ in status, headers or body |
//! | I3 | an answer without its effect, or before it |
//! | I4 | a request after the first final answer that gets anything but that answer again |
//! | I5 | two runs that both ended with success, a late one that did, an epoch given twice or gone back |
//! | I6 | a start without a durable claim |
//! | I7 | a final answer to another request under the same key |

mod check;
mod event;
pub mod ledger;
mod log;

pub use check::{Invariant, Summary, Violation, check, judge};
pub use event::{Answer, Event, Guarantee, Reply, What};
pub use log::{Call, Log, monotonic_ns};

/// All events of a test, in any order.
pub type History = Vec<Event>;
