//! What those who run the PostgreSQL store rely on, on real servers.

mod compression;
mod failover;
mod growth;
mod pgbouncer;
mod plans;
mod roles;
mod support;
mod tls;
mod wal;
