//! Starts real servers in tests, breaks them in every way that a machine can, and sends requests as real clients do.
//!
//! - [`server`]: a program on a free port and a private directory; ready, killed, stopped, started again.
//! - [`browser`]: Chromium, driven over WebDriver.
//! - [`client`]: sends requests, again and again as clients do, and writes everything down in a
//!   [`Log`](testing_history::Log) for the history checker.
//! - [`redis`]: Redis servers, alone, as a Cluster, and with Sentinels.
//! - [`kafka`]: Apache Kafka brokers.
//! - [`cassandra`]: Apache Cassandra nodes.
//! - [`raw`]: a connection that a test can leave in the middle of a request.
//! - [`postgres`]: a PostgreSQL cluster of a test's own, with standbys, and PgBouncer before it.
//! - [`certificates`]: an authority of a test's own, and certificates for servers.
//! - [`faults`]: a network between HTTP clients and a server that loses, delays and repeats what passes.
//! - [`link`]: the way between two machines, for any protocol over TCP: slow, silent or gone.
//! - [`disk`]: a small disk of its own that can run full or become read-only, without harm to the machine.
//! - [`syncs`]: a server's syncs that fail.
//! - [`records`]: the records of a store, for the history checker.
//! - [`otlp`]: a collector of OpenTelemetry, which keeps the spans and metrics that it is sent.
//! - [`logs`]: what a program logs, as text.
//!
//! Everything has a time limit: a wait fails after a while and says what it waited for. Only processes that were
//! started here are ever signalled, by their id.

pub mod browser;
pub mod cassandra;
pub mod certificates;
pub mod client;
pub mod disk;
pub mod faults;
mod guarded;
mod jars;
pub mod kafka;
pub mod link;
pub mod logs;
pub mod otlp;
mod ports;
pub mod postgres;
pub mod raw;
pub mod records;
pub mod redis;
pub mod restartable;
pub mod server;
pub mod syncs;

use std::time::{Duration, Instant};

use futures_util::future::join_all;

/// Plays the scene for each of these at once, and waits for all. For scenes that mostly wait.
///
/// # Panics
///
/// If one does.
pub async fn at_once<T>(of: impl IntoIterator<Item = T>, scene: impl AsyncFn(T)) {
    join_all(of.into_iter().map(|one| scene(one))).await;
}

/// Waits until `condition` holds, looking again after a short pause.
///
/// # Panics
///
/// After `limit`, with `what` it waited for.
pub async fn eventually(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    const PAUSE: Duration = Duration::from_millis(10);
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
