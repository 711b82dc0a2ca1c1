//! TLS: the server is who its certificate says, or there is no store.

use keylatch::redis::{ConnectError, Options, Store};
use testing_support::certificates::Authority;
use testing_support::redis::{Config, Server};

use crate::support::completed;

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
    assert_eq!(keylatch::store::Store::read(&again, done.id()).await.unwrap().value, Some(done));

    // Each refusal says what is wrong: another authority, none that the machine knows, another name.
    let other_name = format!("rediss://127.0.0.1:{port}");
    for (url, options, expected) in [
        (&url, trusting(&Authority::new()), "invalid peer certificate"),
        (&url, Options::default(), "invalid peer certificate"),
        (&other_name, trusting(&authority), "not valid for name"),
    ] {
        let error = Store::connect_with(url, options).await.unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
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
async fn what_is_no_certificate_is_refused() {
    let refused = Store::connect_with("rediss://localhost:1", Options::default().with_root_certificate("no PEM")).await;
    assert!(matches!(refused, Err(ConnectError::Address(_))), "{refused:?}");
}
