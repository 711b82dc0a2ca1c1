//! The SQLite store beyond the conformance suite: batches, transactions, faults, other processes.

mod batches;
mod cancellation;
mod damage;
mod faults;
mod fence;
mod guard;
mod inbox;
mod log;
mod opening;
mod outbox;
mod overtime;
mod own;
mod queries;
mod replies;
mod sharing;
mod support;
mod sync;
mod transactions;
