//! The PostgreSQL store beyond the conformance suite, on real servers.

mod atomic;
mod busy;
mod cost;
mod faults;
mod own;
mod support;
mod synced;
