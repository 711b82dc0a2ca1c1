//! The Redis store, on real servers.

#![cfg(feature = "redis")]

mod conformance;
mod faults;
mod settings;
mod support;
