//! The SQLite store beyond the conformance suite: batches, transactions, faults, other processes.

#![cfg(feature = "sqlite")]

mod fence;
mod support;
mod sync;
mod transactions;
