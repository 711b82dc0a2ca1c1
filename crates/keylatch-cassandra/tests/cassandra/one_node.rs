//! The node that the tests of this program share.

use std::sync::Arc;
use std::time::Duration;

use keylatch::cassandra::{Options, Store, Survives};
use testing_support::cassandra::{Cluster, shared};

use crate::support::make_keyspace;

/// The options of tests on one node, which may be slow on a busy machine.
pub(crate) fn on_one_node() -> Options {
    let options = Options::default().with_survives(Survives::Nothing);
    options.with_response_timeout(Duration::from_secs(20)).with_call_max(Duration::from_secs(60))
}

/// The node that all tests share, with a keyspace that has the tables.
pub(crate) async fn node(keyspace: &str) -> &'static Cluster {
    static MADE: tokio::sync::Mutex<Vec<String>> = tokio::sync::Mutex::const_new(Vec::new());
    let cluster = tokio::task::spawn_blocking(shared).await.expect("the node starts");
    let mut made = MADE.lock().await;
    if !made.iter().any(|made| made == keyspace) {
        make_keyspace(cluster, keyspace, &[("dc1", 1)], &on_one_node()).await;
        made.push(keyspace.to_owned());
    }
    cluster
}

/// The store as the contract has it.
pub(crate) fn as_store(store: &Store) -> Arc<dyn keylatch::store::Store> {
    Arc::new(store.clone())
}
