//! TLS to the nodes.

use std::fs;
use std::path::Path;

use keylatch::cassandra::{ConnectError, Store, Tls};
use keylatch::store::{Inspect as _, PageRequest};
use testing_support::certificates::{Authority, Certificate};

use crate::one_node::{node, on_one_node};

const KEYSPACE: &str = "encrypted";

#[tokio::test]
async fn every_connection_is_encrypted_if_the_address_says_so() {
    let cluster = node(KEYSPACE).await;
    let Certificate { pem, key } = cluster.authority().certify_client("orders");
    let directory = tempfile::tempdir().expect("a directory");
    let written = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file can be written");
        path.display().to_string()
    };
    let (ca, cert, key) = (written("ca", &cluster.authority().pem()), written("cert", &pem), written("key", &key));
    let url = format!("{}?survives=nothing&ca={ca}&cert={cert}&key={key}", cluster.url(KEYSPACE));
    let store = Store::connect(&url).await.expect("the node is one of this authority's");
    store.list(PageRequest { limit: 1, ..PageRequest::default() }).await.expect("it answers");

    // The table names the keyspace of a connection; only this store uses this one.
    let clients = "SELECT keyspace_name, ssl_enabled FROM system_views.clients";
    let rows = cluster.session().await.query_unpaged(clients, ()).await.expect("it is read").into_rows_result();
    let rows = rows.expect("they are rows");
    let all = rows.rows::<(Option<String>, Option<bool>)>().expect("two columns").map(|row| row.expect("a row"));
    let of_store: Vec<_> = all.filter(|(keyspace, _)| keyspace.as_deref() == Some(KEYSPACE)).collect();
    assert!(!of_store.is_empty());
    assert!(of_store.iter().all(|(_, encrypted)| *encrypted == Some(true)), "{of_store:?}");
}

#[tokio::test]
async fn nobody_is_believed_without_a_certificate_of_the_right_authority() {
    let cluster = node(KEYSPACE).await;
    let (authority, other) = (cluster.authority(), Authority::new());
    let shown = |by: &Authority, trusted: &Authority| {
        let Certificate { pem, key } = by.certify_client("orders");
        Tls::new(trusted.pem()).with_certificate(pem, key)
    };
    let connect = async |tls: Tls| Store::connect_with(&cluster.url(KEYSPACE), on_one_node().with_tls(tls)).await;
    for (what, tls) in [
        ("a node of another authority", shown(authority, &other)),
        ("a client of another authority", shown(&other, authority)),
        ("a client without a certificate", Tls::new(authority.pem())),
    ] {
        let refused = connect(tls).await;
        assert!(matches!(refused, Err(ConnectError::Unreachable(_))), "{what}: {refused:?}");
    }
    connect(shown(authority, authority)).await.expect("both are certified");
}

#[tokio::test]
async fn what_cannot_be_used_is_named_before_anything_is_sent() {
    let (authority, nobody) = (Authority::new(), "cassandra://127.0.0.1:1/keys");
    let Certificate { pem, key } = authority.certify_client("orders");
    let other = authority.certify_client("letters").key;
    let missing = Path::new("/nowhere/ca.pem");
    let refused = Store::connect(&format!("{nobody}?ca={}", missing.display())).await;
    assert!(matches!(&refused, Err(ConnectError::Tls(why)) if why.contains("/nowhere/ca.pem")), "{refused:?}");
    for (tls, what) in [
        (Tls::new("text"), "no certificate of an authority"),
        (Tls::new(authority.pem()).with_certificate("text", key.as_str()), "no own certificate"),
        (Tls::new(authority.pem()).with_certificate(pem.as_str(), "text"), "the own key is not valid PEM"),
        (Tls::new(authority.pem()).with_certificate(pem.as_str(), other), "not that of the certificate"),
    ] {
        assert!(!format!("{tls:?}").contains("text"));
        let refused = Store::connect_with(nobody, on_one_node().with_tls(tls)).await;
        assert!(matches!(&refused, Err(ConnectError::Tls(why)) if why.contains(what)), "{what}: {refused:?}");
    }
}
