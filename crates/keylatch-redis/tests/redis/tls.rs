//! TLS: the server must be the one that its certificate names, or the store does not open.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::Completion;
use keylatch::redis::{ConnectError, Options, Store};
use keylatch::store::{State, Store as _};
use keylatch::{Outcome, Policy};
use testing_support::certificates::Authority;
use testing_support::redis::{Cluster, Config, Sentinels, Server};

use crate::failover::{fail_over, fail_over_in_cluster, through_nodes, through_sentinels};
use crate::support::{applied, claim, completed, win};

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

/// A server that stands still does not read, so the socket fills up in the middle of a batch. The rest goes when the
/// server goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_socket_did_not_take_goes_later() {
    /// Together far more than the socket holds.
    const ANSWERS: usize = 64;
    const ANSWER_BYTES: usize = 512 << 10;
    const PATIENCE: Duration = Duration::from_secs(120);
    let (server, authority) = (Server::start(Config::new()), Authority::new());
    let port = server.listen_tls(&authority.certify(&["localhost"]));
    let options = || Options::default().with_compression(None).with_response_timeout(PATIENCE);
    let secure = options().with_root_certificate(authority.pem());
    for (url, options) in [(server.url(), options()), (format!("rediss://localhost:{port}"), secure)] {
        let store = Store::connect_with(&url, options).await.unwrap();
        let mut completing = Vec::new();
        for number in 0..ANSWERS {
            let record = win(&store, &claim(&format!("{url}-{number}"))).await;
            let outcome = Outcome::bytes(vec![u8::try_from(number).unwrap(); ANSWER_BYTES]);
            completing.push((record.lease(), Completion::new(outcome, &Policy::default())));
        }
        server.pause();
        let done = completing.iter().map(|(lease, completion)| store.complete(*lease, completion.clone()));
        let resume = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.resume();
        };
        let (done, ()) = tokio::join!(join_all(done), resume);
        done.iter().for_each(applied);
        for (lease, Completion { outcome, .. }) in completing {
            let record = store.read(lease.id).await.unwrap().value.expect("it is there");
            let State::Completed { outcome: found, .. } = record.state else { panic!("it is completed") };
            assert!(found == Some(outcome), "the answer that was written");
        }
    }
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
