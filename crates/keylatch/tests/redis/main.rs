//! The Redis store, on real servers.

#![cfg(feature = "redis")]

#[path = "../common/mod.rs"]
mod common;
mod conformance;
mod failover;
mod faults;
mod loss;
mod memory;
mod settings;
mod support;
mod tiered;
