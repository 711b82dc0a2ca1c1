//! TLS: the server must be the one that its certificate names, or the store does not open.

use std::path::PathBuf;

use keylatch::postgres::{OpenError, Store};
use tempfile::TempDir;
use testing_support::certificates::Authority;
use testing_support::logs::Logs;
use testing_support::postgres::Cluster;

use crate::support::Service;

/// An address of this machine that does not look local.
const STRANGER: &str = "0.0.0.0";

/// A server that accepts only TLS over TCP, with a certificate for `localhost` and [`STRANGER`].
struct Secure {
    cluster: Cluster,
    /// Signed the server's certificate.
    trusted: PathBuf,
    /// Did not sign it.
    other: PathBuf,
    _dir: TempDir,
}

impl Secure {
    async fn start() -> Self {
        tokio::task::spawn_blocking(|| {
            let (cluster, authority) = (Cluster::start(""), Authority::new());
            let certificate = authority.certify(&["localhost", STRANGER]);
            cluster.write("server.crt", &certificate.pem);
            cluster.write("server.key", &certificate.key);
            cluster.write("pg_hba.conf", "local all all trust\nhostssl all all 127.0.0.1/32 trust\n");
            cluster.configure("ssl = on");
            let dir = TempDir::new().unwrap();
            let (trusted, other) = (dir.path().join("trusted.pem"), dir.path().join("other.pem"));
            std::fs::write(&trusted, authority.pem()).unwrap();
            std::fs::write(&other, Authority::new().pem()).unwrap();
            Self { cluster, trusted, other, _dir: dir }
        })
        .await
        .unwrap()
    }

    fn url(&self, host: &str, mode: &str, authority: Option<&PathBuf>) -> String {
        let root = authority.map(|path| format!("&sslrootcert={}", path.display())).unwrap_or_default();
        format!("postgres://postgres@{host}:{}/postgres?sslmode={mode}{root}", self.cluster.port())
    }

    async fn refusal(&self, host: &str, mode: &str, authority: Option<&PathBuf>) -> OpenError {
        Store::connect(&self.url(host, mode, authority)).await.expect_err("it is refused")
    }
}

#[tokio::test]
async fn a_server_is_verified() {
    let secure = Secure::start().await;
    let store = Store::connect(&secure.url("localhost", "verify-full", Some(&secure.trusted))).await.unwrap();
    let encrypted = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND version = 'TLSv1.3'";
    assert_ne!(secure.cluster.sql("postgres", encrypted), "0");
    secure.cluster.sql("postgres", "CREATE TABLE item (name text NOT NULL UNIQUE)");
    let service = Service::start(store).await;
    assert_eq!(service.post("created", "a", 0).await.status, 201);
    assert!(service.post("created", "a", 0).await.replayed);

    // Each error says what is wrong, and that it concerns TLS.
    for (host, mode, authority, expected) in [
        ("localhost", "verify-full", Some(&secure.other), "invalid peer certificate"),
        ("localhost", "verify-ca", Some(&secure.other), "invalid peer certificate"),
        ("localhost", "verify-full", None, "invalid peer certificate"),
        ("127.0.0.1", "verify-full", Some(&secure.trusted), "not valid for name"),
    ] {
        let error = secure.refusal(host, mode, authority).await;
        let said = error.to_string();
        assert!(matches!(error, OpenError::Tls(_)), "{said}");
        assert!(said.contains(expected) && said.contains("sslrootcert"), "{said}");
    }
    // This mode checks who signed the certificate, and not its name.
    assert!(Store::connect(&secure.url("127.0.0.1", "verify-ca", Some(&secure.trusted))).await.is_ok());
}

#[tokio::test]
async fn a_server_that_wants_tls_gets_nothing_else() {
    let secure = Secure::start().await;
    let error = secure.refusal("127.0.0.1", "disable", None).await;
    assert!(error.to_string().contains("no encryption"), "{error}");
    // A store that requires TLS does not use a server without it.
    secure.cluster.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 trust\n");
    secure.cluster.configure("ssl = off");
    let error = secure.refusal("localhost", "verify-full", Some(&secure.trusted)).await;
    assert!(matches!(error, OpenError::Tls(_)), "{error}");
    assert!(error.to_string().contains("does not support TLS"), "{error}");
    assert!(Store::connect(&secure.url("localhost", "disable", None)).await.is_ok());
}

/// How many warnings about its connection a store logs when it opens.
async fn warnings(url: &str) -> usize {
    let log = Logs::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let quiet = tracing::subscriber::set_default(subscriber);
    let store = Store::connect(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    store.pool().acquire().await.expect("another use");
    drop(quiet);
    log.text().lines().filter(|line| line.contains("WARN") && line.contains("sslmode=verify-full")).count()
}

/// On one thread, because the subscriber is set for a thread.
#[tokio::test]
async fn an_unverified_connection_to_another_machine_is_warned_of_once() {
    let secure = Secure::start().await;
    for (host, mode, expected) in [
        (STRANGER, "prefer", 1),
        (STRANGER, "require", 1),
        (STRANGER, "verify-ca", 0),
        (STRANGER, "verify-full", 0),
        ("localhost", "prefer", 0),
        ("127.0.0.1", "require", 0),
    ] {
        let url = secure.url(host, mode, Some(&secure.trusted));
        assert_eq!(warnings(&url).await, expected, "{mode} to {host}");
    }
    assert_eq!(warnings(&secure.cluster.url("postgres")).await, 0, "a socket of the system");
    secure.cluster.write("pg_hba.conf", "local all all trust\nhost all all 127.0.0.1/32 trust\n");
    secure.cluster.configure("");
    assert_eq!(warnings(&secure.url(STRANGER, "disable", None)).await, 1, "not encrypted");
}
