//! What the tests of the Cassandra store share.

use keylatch::cassandra::{self, Options, Store};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use testing_support::cassandra::Cluster;

/// A session of a test's own, for statements that the store would not send.
pub(crate) async fn session(cluster: &Cluster) -> Session {
    SessionBuilder::new().known_nodes(cluster.servers()).build().await.expect("the cluster can be reached")
}

/// Makes a keyspace with so many replicas in each of the data centres, with the tables.
pub(crate) async fn make_keyspace(cluster: &Cluster, keyspace: &str, centres: &[(&str, u32)], options: &Options) {
    let centres: Vec<_> = centres.iter().map(|(centre, replicas)| format!("'{centre}': {replicas}")).collect();
    let statement = format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}}",
        centres.join(", ")
    );
    session(cluster).await.query_unpaged(statement, ()).await.expect("a keyspace can be made");
    cassandra::migrate(&cluster.url(keyspace), options).await.expect("the tables can be made");
}

pub(crate) async fn connect(cluster: &Cluster, keyspace: &str, options: Options) -> Store {
    Store::connect_with(&cluster.url(keyspace), options).await.expect("the store connects")
}
