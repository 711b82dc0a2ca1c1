//! TLS: the server must be the one that its certificate names, or the store does not open.

use keylatch::redis::{ConnectError, Options, Store};
use keylatch::store::Store as _;
use testing_support::certificates::Authority;
use testing_support::redis::{Cluster, Config, Sentinels, Server};

use crate::failover::{fail_over, fail_over_in_cluster, through_nodes, through_sentinels};
use crate::support::completed;

/// The names by which a test reaches its servers.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

fn trusting(authority: &Authority) -> Options {
    Options::default().with_root_certificate(authority.pem())
}

#[tokio::test]
async fn a_server_is_verified() {
    let (server, authority) = (Server::start(Config::new()), Authority::new());
    let port = server.listen_tls(&authority.certify(&["localhost"]));
    let url = format!("rediss://localhost:{port}");
    let store = Store::connect_with(&url, trusting(&authority)).await.unwrap();
    let done = completed(&store, "key").await;
    let again = Store::connect_with(&url, trusting(&authority)).await.unwrap();
    assert_eq!(again.read(done.id()).await.unwrap().value, Some(done));

    // Each error says what is wrong: another authority, an unknown authority, another name.
    let other_name = format!("rediss://127.0.0.1:{port}");
    for (url, options, expected) in [
        (&url, trusting(&Authority::new()), "invalid peer certificate"),
        (&url, Options::default(), "invalid peer certificate"),
        (&other_name, trusting(&authority), "not valid for name"),
    ] {
        refused(Store::connect_with(url, options).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_and_their_servers_are_verified_through_a_failover() {
    let authority = Authority::new();
    let mut group = Sentinels::start_tls(&authority.certify(&NAMES), &authority);
    let urls = group.tls_urls("localhost");
    let store = through_sentinels(&urls, trusting(&authority)).await.expect("the Sentinels know the primary");
    fail_over(&mut group, &store, 0).await;

    refused(through_sentinels(&urls, trusting(&Authority::new())).await, "invalid peer certificate");
    refused(through_sentinels(&urls, Options::default()).await, "invalid peer certificate");
    // The Sentinels have the right names, and the primary does not: they know it as `localhost`.
    group.change_certificate(&authority.certify(&NAMES[1..]));
    refused(through_sentinels(&urls, trusting(&authority)).await, "not valid for name");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_are_verified_through_a_failover() {
    let authority = Authority::new();
    let mut cluster = Cluster::start_tls(&authority.certify(&NAMES), &authority);
    let urls = cluster.tls_urls("127.0.0.1");
    let store = through_nodes(&urls, trusting(&authority)).await.expect("the Cluster can be reached");
    fail_over_in_cluster(&mut cluster, &store).await;

    refused(through_nodes(&urls, trusting(&Authority::new())).await, "invalid peer certificate");
    refused(through_nodes(&urls, Options::default()).await, "invalid peer certificate");
    // The first node has the right name, and then all nodes refer to each other as `localhost`.
    cluster.change_certificate(&authority.certify(&NAMES[1..]));
    refused(through_nodes(&urls, trusting(&authority)).await, "not valid for that name");
}

#[tokio::test]
async fn a_store_that_wants_tls_is_not_served_without() {
    let server = Server::start(Config::new());
    let url = format!("rediss://localhost:{}", server.port());
    let error = Store::connect_with(&url, trusting(&Authority::new())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn what_would_be_sent_in_the_open_by_mistake_is_refused() {
    let (open, secure) = ("redis://localhost:1", "rediss://localhost:1");
    let trusting = || trusting(&Authority::new());
    for refused in [
        Store::connect_with(open, trusting()).await,
        Store::connect_sentinel(&[open], "main", trusting()).await,
        Store::connect_cluster(&[open], trusting()).await,
        Store::connect_sentinel(&[secure, open], "main", Options::default()).await,
        Store::connect_cluster(&[open, secure], Options::default()).await,
    ] {
        assert!(matches!(refused, Err(ConnectError::Address(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_no_certificate_is_refused() {
    let refused = Store::connect_with("rediss://localhost:1", Options::default().with_root_certificate("no PEM")).await;
    assert!(matches!(refused, Err(ConnectError::Address(_))), "{refused:?}");
}

/// The connection fails, with this reason.
fn refused(connected: Result<Store, ConnectError>, expected: &str) {
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
    assert!(error.to_string().contains(expected), "{error}");
}
