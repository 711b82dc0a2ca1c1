//! The HTTP contract, in cases that say only what a client and the service behind Keylatch see.
//!
//! Every way in which Keylatch can stand before a service is a [`Subject`]: the layer in the service's own process, and the
//! gateway in front of it. [`cases!`] is the list of all cases; whoever invokes it runs each of them against one subject.
//!
//! These stay with the layer, in `crates/keylatch/tests/http`, because a gateway has nothing of the kind:
//!
//! | cases | why |
//! |---|---|
//! | `Atomic` | a proxy has no part in the service's transaction; where it is one of several guarantees, a subject leaves it out |
//! | extractors, `Run`, steps, an answer's extensions, panics | they are Rust values in the handler's process; a gateway gets a word on the record by a header, and sees a panic as a broken connection |
//! | two layers, layers of tower beside it, paths that no router knows | what stands inside and outside of a layer in one process |
//! | resolvers, shut-down, runs that are cut off | the engine's own interface; the gateway's ends are tested as a process's |
//! | stores that fail at a chosen call, leases that end at a chosen time | they need a store and a clock in the process; the gateway is tested with stores that are killed |
//! | forms by their parts, headers that count, kept headers, own fingerprints, own problems, limits of runs and records | the gateway does not offer them |
//! | `TRACE`, answers with trailers over HTTP/1.1, an answer that breaks off | the gateway refuses the first, does not ask for the second, and answers 502 or 504 itself to the third |

pub mod cases;
mod list;
mod service;
mod wait;
pub mod wire;

pub use service::{App, Handler, PATTERNS, Running, Seen, Setup, Subject, nested, records, routes};
pub use wait::{Gate, until};
