//! Three nodes: each is killed and stopped under load, and two of three at once; clocks are off; many want one key. The
//! history checker judges all of it.

mod clocks;
mod faults;
mod load;
#[path = "../cassandra/support.rs"]
mod support;

use std::sync::LazyLock;
use std::time::Duration;

use keylatch::cassandra::Options;
use keylatch::machine::Claim;
use keylatch::{Fingerprint, Guarantee, Key, Policy, Scope};
use testing_support::cassandra::Cluster;

use support::make_keyspace;

const KEYSPACE: &str = "nodes";
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start_with_clocks(3));
/// A test has the cluster to itself.
static TURN: tokio::sync::Mutex<bool> = tokio::sync::Mutex::const_new(false);
/// How long something may take that needs nodes to notice each other.
const SOON: Duration = Duration::from_secs(60);

async fn cluster() -> (&'static Cluster, tokio::sync::MutexGuard<'static, bool>) {
    let mut made = TURN.lock().await;
    let cluster = tokio::task::spawn_blocking(|| &*CLUSTER).await.expect("the nodes start");
    if !*made {
        make_keyspace(cluster, KEYSPACE, 3, &Options::default()).await;
        *made = true;
    }
    (cluster, made)
}

fn claim(key: &str, guarantee: Guarantee, policy: &Policy) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(Scope::new("caller").unwrap(), Key::new(key).unwrap(), fingerprint, guarantee, policy)
}
