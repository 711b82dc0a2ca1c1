//! The Cassandra store, on one real node.

mod cached;
mod conformance;
mod encrypted;
mod expiry;
mod one_node;
mod settings;
mod support;
