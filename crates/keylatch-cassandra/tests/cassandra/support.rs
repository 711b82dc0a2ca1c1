//! What the tests of the Cassandra store share.

use keylatch::cassandra::{self, Options, Store};
use testing_support::cassandra::Cluster;

/// Makes a keyspace with so many replicas in each of these data centres, with the tables.
pub(crate) async fn make_keyspace(cluster: &Cluster, keyspace: &str, centres: &[(&str, u32)], options: &Options) {
    cluster.make_keyspace(keyspace, centres).await;
    cassandra::migrate(&cluster.url(keyspace), options).await.expect("the tables can be made");
}

pub(crate) async fn connect(cluster: &Cluster, keyspace: &str, options: Options) -> Store {
    Store::connect_with(&cluster.url(keyspace), options).await.expect("the store connects")
}
