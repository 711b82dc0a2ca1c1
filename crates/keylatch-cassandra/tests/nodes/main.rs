//! Three nodes: each is killed, stopped and cut off from the others under load, and two of three at once; clocks are off;
//! many want one key. The history checker judges all of it.

mod clocks;
mod faults;
mod load;
mod partitions;
#[path = "../cassandra/support.rs"]
mod support;

use std::sync::LazyLock;
use std::time::Duration;

use keylatch::cassandra::{Options, Survives};
use keylatch::machine::Claim;
use keylatch::{Fingerprint, Guarantee, Key, Policy, Scope};
use testing_support::cassandra::{Cluster, Spread};

use support::make_keyspace;

const KEYSPACE: &str = "nodes";
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start_for_faults(3, spread()));
/// A test has the cluster to itself.
static TURN: tokio::sync::Mutex<bool> = tokio::sync::Mutex::const_new(false);
/// How long something may take that needs nodes to notice each other.
const SOON: Duration = Duration::from_secs(60);

async fn cluster() -> (&'static Cluster, tokio::sync::MutexGuard<'static, bool>) {
    let mut made = TURN.lock().await;
    let cluster = tokio::task::spawn_blocking(|| &*CLUSTER).await.expect("the nodes start");
    if !*made {
        let centres: &[_] = match spread() {
            Spread::Together => &[("dc1", 3)],
            Spread::Apart => &[("dc1", 1), ("dc2", 1), ("dc3", 1)],
        };
        make_keyspace(cluster, KEYSPACE, centres, &options("nodes-")).await;
        *made = true;
    }
    (cluster, made)
}

/// With `KEYLATCH_CASSANDRA_APART` set, each node is in a data centre of its own.
fn spread() -> Spread {
    if std::env::var_os("KEYLATCH_CASSANDRA_APART").is_some() { Spread::Apart } else { Spread::Together }
}

fn options(prefix: &str) -> Options {
    let survives = if spread() == Spread::Apart { Survives::DataCentre } else { Survives::Node };
    Options::default().with_prefix(prefix).with_survives(survives)
}

fn claim(key: &str, guarantee: Guarantee, policy: &Policy) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(Scope::new("caller").unwrap(), Key::new(key).unwrap(), fingerprint, guarantee, policy)
}
