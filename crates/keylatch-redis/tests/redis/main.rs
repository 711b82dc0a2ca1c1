//! The Redis store, with real servers.

#[path = "../../../keylatch/tests/common/mod.rs"]
mod common;
mod compression;
mod conformance;
mod expiry;
mod failover;
mod faults;
mod http;
mod loss;
mod lost_replies;
mod marks;
mod memory;
mod moving_slots;
mod replicas;
mod settings;
mod slow_cache;
mod support;
mod tiered;
mod tls;
