//! What a keyspace must have.

use keylatch::cassandra::{self, ConnectError, Options, SCHEMA_VERSION, Store};

use crate::one_node::{node, on_one_node};

const KEYSPACE: &str = "settings";

#[tokio::test]
async fn a_keyspace_that_survives_too_little_is_refused_with_what_to_change() {
    let cluster = node(KEYSPACE).await;
    let refused = Store::connect(&cluster.url(KEYSPACE)).await.expect_err("one replica is too few");
    assert!(matches!(refused, ConnectError::Replication { .. }), "{refused}");
    assert!(refused.to_string().contains("ALTER KEYSPACE settings"), "{refused}");
    let refused = cassandra::migrate(&cluster.url(KEYSPACE), &Options::default()).await;
    assert!(matches!(refused, Err(ConnectError::Replication { .. })), "{refused:?}");
    let url = format!("{}?survives=nothing", cluster.url(KEYSPACE));
    Store::connect(&url).await.expect("nothing is asked of it");
}

#[tokio::test]
async fn only_the_nodes_of_a_data_centre_are_asked() {
    let url = format!("{}?survives=nothing", node(KEYSPACE).await.url(KEYSPACE));
    Store::connect(&format!("{url}&data-centre=dc1")).await.expect("the node is there");
    let refused = Store::connect(&format!("{url}&data-centre=dc2")).await.expect_err("no node is there");
    assert!(matches!(&refused, ConnectError::NoDataCentre { name } if name == "dc2"), "{refused}");
    let options = on_one_node().with_data_centre("dc2");
    let refused = cassandra::migrate(&node(KEYSPACE).await.url(KEYSPACE), &options).await;
    assert!(matches!(refused, Err(ConnectError::NoDataCentre { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_keyspace_without_tables_or_with_later_ones_is_refused() {
    let cluster = node(KEYSPACE).await;
    let missing = Store::connect_with(&cluster.url("nowhere"), on_one_node()).await;
    assert!(matches!(missing, Err(ConnectError::NoKeyspace { .. })), "{missing:?}");

    let session = cluster.session().await;
    let empty = "CREATE KEYSPACE later WITH replication = {'class': 'NetworkTopologyStrategy', 'dc1': 1}";
    session.query_unpaged(empty, ()).await.expect("a keyspace can be made");
    let url = cluster.url("later");
    let missing = Store::connect_with(&url, on_one_node()).await;
    assert!(matches!(missing, Err(ConnectError::NotMigrated { .. })), "{missing:?}");
    // One process may make them as it connects; the next finds them.
    Store::connect_with(&url, on_one_node().with_migration()).await.expect("the tables are made");
    Store::connect_with(&url, on_one_node()).await.expect("they are there");
    assert_eq!(cassandra::migrate(&url, &on_one_node()).await.expect("they stay"), SCHEMA_VERSION);

    let later = "UPDATE later.keylatch_schema SET version = 99 WHERE name = 'tables'";
    session.query_unpaged(later, ()).await.expect("a row can be written");
    let refused = Store::connect_with(&url, on_one_node().with_migration()).await;
    assert!(matches!(refused, Err(ConnectError::Version { found: 99, .. })), "{refused:?}");
}
