//! Serves HTTP: connections within [`Limits`], and an orderly end when the process is told to stop.
//!
//! 1. A client that sends nothing, sends slowly, or does not read its answers costs little, and loses its connection.
//! 2. The number of connections is limited. Further ones wait in the listener's queue.
//! 3. After SIGTERM or Ctrl-C no more connections are accepted, and running requests end ([`until_told`]).
//!
//! The extensions of each request say who is at the other end of its connection: [`Peer`], and [`ClientCertificate`] if
//! the client has presented one.

mod activity;
mod connection;
mod drain;
mod limits;
mod signals;
mod socket;
#[cfg(feature = "tls")]
pub mod tls;

pub use connection::{ClientCertificate, Peer, Served, serve};
pub use drain::until_told;
pub use limits::Limits;
pub use signals::Signals;
