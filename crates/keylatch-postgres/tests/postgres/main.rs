//! The PostgreSQL store beyond the conformance suite, with real servers.

mod atomic;
mod busy;
mod compression;
mod cost;
mod durable;
mod entry_points;
mod failover;
mod faults;
mod frozen;
mod growth;
mod inbox;
mod locked;
mod look;
mod outbox;
mod own;
mod pgbouncer;
mod plans;
mod pool;
mod roles;
mod schema;
mod support;
mod synced;
mod tls;
mod wal;
