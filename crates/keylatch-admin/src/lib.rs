//! Everything that an operator of Keylatch can do, on any store, and an HTTP API for it: a router to nest anywhere.
//!
//! ```
//! use std::net::IpAddr;
//! use std::sync::Arc;
//!
//! use keylatch_admin::{Access, Admin, Operator};
//!
//! # fn app() -> axum::Router {
//! let store = Arc::new(keylatch::memory::Store::new());
//! let operator = Operator::new(store);
//! // Without tokens the API is open on a loopback address, and closed on any other.
//! let access = Access::new(None, IpAddr::from([127, 0, 0, 1]));
//! axum::Router::new().nest("/admin", Admin::new(operator, access).router())
//! # }
//! # let _ = app();
//! ```
//!
//! # What is promised
//!
//! - **A living owner loses nothing.** A run is resolved only after its lease has ended on the store's clock, and only in
//!   the epoch that the operator has seen. Otherwise nothing changes, and the error says what is there now.
//! - **Each action is on record** before it happens: who, what, why, and the state before. If its line cannot be written
//!   to the audit file, the action is refused. See [`audit`].
//! - **Bodies are for operators only**: a token of the role `view` never gets an answer's headers or body, a message, or
//!   an error that may quote one.
//! - **No key, body or token is ever logged.** A log names a record by its id.
//! - **Everything is bounded**: pages, bodies of requests, streams, and the work of one call.
//!
//! # Where things are
//!
//! | module | what is in it |
//! |---|---|
//! | [`Operator`], [`ops`] | all operations, as methods with typed requests, answers and errors; the command line uses them in its process |
//! | [`view`] | what operators see of records |
//! | [`regions`] | the changes of a map of regions, and their stores |
//! | [`audit`] | the audit events |
//! | [`Access`], [`Tokens`] | who may do what |
//! | [`Admin`], [`router`] | the HTTP API: the list of routes is in the documentation of [`router`] |

pub mod access;
pub mod audit;
mod console;
mod health;
mod input;
mod live;
pub mod ops;
mod problem;
pub mod regions;
pub mod router;
mod routes;
pub mod view;

pub use access::{Access, Role, Tokens};
pub use audit::{Actor, Audit, Via};
pub use health::keep_house;
pub use ops::{Error, Operator};
pub use router::Admin;
