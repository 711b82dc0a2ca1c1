//! An exhaustive search: two processes, three requests, two fingerprints, one key.
//!
//! The store of the model is the real [`machine`](keylatch::machine), one call per step. The processes follow the
//! engine's protocol: one store call, one start, one effect or one verdict per step. Between any two steps, anything
//! may happen that a [`Config`] has a budget for: a process dies, time passes (also while a process is about to do
//! something), a call or its reply is lost, a call arrives long after its sender has given up, a client sends its
//! request again, a sweep runs.
//!
//! [`explore()`] visits each reachable state once, and checks I1 to I7, I10 and I12 at every step. It reports a
//! violation with the shortest path to it.
//!
//! - [`config`]: what may happen, and the bugs that can be planted to test the search itself.
//! - [`state`]: one state, and when two states are the same.
//! - [`action`]: what can happen next.
//! - [`searches`]: the searches that the test runs.
//! - [`protocol`]: what the processes do.
//! - [`store`]: what the store does.
//! - [`ghost`]: what an omniscient observer remembers, and the invariants.

pub mod action;
pub mod config;
pub mod explore;
pub mod ghost;
pub mod protocol;
pub mod searches;
pub mod state;
pub mod store;

pub use config::{Bug, Config, Resource};
pub use explore::{Explored, Found, Seen, explore};
