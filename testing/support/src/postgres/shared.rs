//! One server for all tests of a program, with a database for each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Cluster;

/// The server. It starts with the first test that asks for it, and ends with the process.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(""))
}

/// The address of a new database on it.
///
/// # Panics
///
/// If it cannot be made.
pub async fn database() -> String {
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let making = tokio::task::spawn_blocking(move || {
        cluster().sql("postgres", &format!("CREATE DATABASE {name}"));
        cluster().url(&name)
    });
    making.await.expect("a database is made")
}
