//! The Redis store, on real servers.

#![cfg(feature = "redis")]

mod conformance;
mod failover;
mod faults;
mod settings;
mod support;
