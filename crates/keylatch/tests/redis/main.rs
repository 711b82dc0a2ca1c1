//! The Redis store, on real servers.

#![cfg(feature = "redis")]

#[path = "../common/mod.rs"]
mod common;
mod compression;
mod conformance;
mod failover;
mod faults;
#[cfg(feature = "axum")]
mod http;
mod loss;
mod memory;
mod replicas;
mod settings;
mod slow_cache;
mod support;
mod tiered;
mod tls;
