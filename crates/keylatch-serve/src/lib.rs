//! Serves HTTP: connections within [`Limits`], and an orderly end when the process is told to stop.
//!
//! 1. A client that sends nothing, sends slowly, or does not read its answers costs little, and loses its connection.
//! 2. There are only so many connections at a time; the next wait in the listener's queue.
//! 3. After SIGTERM or Ctrl-C no more connections are taken, and requests under way end ([`until_told`]).
//!
//! The services of a connection find in the extensions of each request who is at its other end: [`Peer`], and its
//! [`ClientCertificate`] if it has shown one.

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
