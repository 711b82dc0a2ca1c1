//! Certificates of clients, which identify callers, and of the gateway, which are read again on SIGHUP. curl is the
//! client.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;
use testing_support::certificates::{Authority, Certificate};
use testing_support::eventually;
use tokio::process::Command;

use crate::http2::{curl, port};
use crate::setup::{SOON, Service, gateway};

const FILE: &str =
    "[[route]]\nname = \"echo\"\npath = \"/echo\"\nscope.mtls = \"subject\"\nguarantee = \"at-most-once\"\n";

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("it can be written");
    path.display().to_string()
}

/// Writes both parts of a certificate, and returns their paths.
fn write_both(dir: &Path, name: &str, certificate: &Certificate) -> (String, String) {
    (write(dir, &format!("{name}.pem"), &certificate.pem), write(dir, &format!("{name}.key"), &certificate.key))
}

#[tokio::test]
async fn the_subject_of_a_clients_certificate_says_who_calls() {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new());
    let dir = dir.path();
    let (cert, key) = write_both(dir, "server", &authority.certify(&["localhost"]));
    let (file, ca) = (write(dir, "keylatch.toml", FILE), write(dir, "ca.pem", &authority.pem()));
    let service = Service::start(&dir.join("ledger"), 0).await;
    let without = ["--store", "memory:", "--config", &file, "--tls-cert", &cert, "--tls-key", &key];
    let refused = gateway(&service.url, &without).start().await.unwrap_err().to_string();
    assert!(refused.contains("route `echo`") && refused.contains("--tls-client-ca"), "{refused}");
    let with = [&without[..], &["--tls-client-ca", &ca]].concat();
    let gateway = gateway(&service.url, &with).start().await.unwrap_or_else(|error| panic!("{error}"));
    let url = format!("https://localhost:{}/echo", port(&gateway));

    let send = async |client: Option<(String, String)>| {
        let client = client.unwrap_or_default();
        let shown = if client.0.is_empty() { vec![] } else { vec!["--cert", &client.0, "--key", &client.1] };
        let all = ["--cacert", &ca, "-i", "-H", "Idempotency-Key: k", "-d", "a", &url];
        curl(&[&all[..], &shown].concat()).await
    };
    let client = |name: &str, file: &str| Some(write_both(dir, file, &authority.certify_client(name)));
    // A renewed certificate is the same caller.
    for (name, file, replayed) in [("alice", "first", false), ("alice", "renewed", true), ("bob", "bob", false)] {
        let (_, status, answer) = send(client(name, file)).await;
        assert_eq!(
            (status.as_str(), answer.contains("idempotent-replayed: true")),
            ("200", replayed),
            "{name}: {answer}"
        );
    }
    let (_, status, answer) = send(None).await;
    assert!(status == "400" && answer.contains("IDEMPOTENCY_SCOPE_REQUIRED"), "{status} {answer}");
    // A certificate of another authority gets no connection.
    let stranger = write_both(dir, "stranger", &Authority::new().certify_client("alice"));
    assert_eq!(send(Some(stranger)).await.1, "000");
    assert_eq!(service.upstream.seen().len(), 2);
}

/// New connections all the time: each gets the old certificate or the new one, and an answer. A file that cannot be
/// used changes nothing, not even the routes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_certificate_is_read_again_without_losing_a_request() {
    let (dir, first, second) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    let dir = dir.path();
    let (cert, key) = write_both(dir, "server", &first.certify(&["localhost"]));
    let (old, new) = (write(dir, "first.pem", &first.pem()), write(dir, "second.pem", &second.pem()));
    let routes = |path: &str| {
        format!("[[route]]\nname = \"r\"\npath = \"{path}\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n")
    };
    let file = write(dir, "keylatch.toml", &routes("/echo/old"));
    let service = Service::start(&dir.join("ledger"), 0).await;
    let arguments = ["--store", "memory:", "--config", &file, "--tls-cert", &cert, "--tls-key", &key];
    let gateway = gateway(&service.url, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
    let url = format!("https://localhost:{}/echo", port(&gateway));
    let believed = async |authority: &str| {
        let asked =
            Command::new("curl").args(["-sS", "--noproxy", "*", "-m", "20", "--cacert", authority, &url]).output();
        asked.await.expect("curl is installed").status.success()
    };
    assert!(believed(&old).await && !believed(&new).await);

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (stop, url) = (stop.clone(), url.clone());
            tokio::spawn(async move {
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (_, status, answer) = curl(&["-k", "-d", "a", &url]).await;
                    assert_eq!(status, "200", "{answer}");
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    let refusals = || gateway.printed().matches("have mistakes").count();
    // A key that does not belong to the certificate, together with routes that could be used.
    write_both(
        dir,
        "server",
        &Certificate { pem: second.certify(&["localhost"]).pem, key: first.certify(&["localhost"]).key },
    );
    write(dir, "keylatch.toml", &routes("/echo/new"));
    gateway.hang_up();
    eventually(SOON, "the mistake to be told", async || refusals() == 1).await;
    assert!(gateway.printed().contains("--tls-cert and --tls-key cannot be used together"));
    assert!(believed(&old).await && !believed(&new).await);
    let guards = async |path: &str, key: &str| {
        let (url, key) = (format!("{url}/{path}"), format!("Idempotency-Key: {key}"));
        curl(&["-k", "-d", "a", "-H", &key, &url]).await;
        curl(&["-k", "-i", "-d", "a", "-H", &key, &url]).await.2.contains("idempotent-replayed")
    };
    assert!(guards("old", "1").await && !guards("new", "2").await, "the routes are the old ones, too");

    write_both(dir, "server", &second.certify(&["localhost"]));
    gateway.hang_up();
    eventually(SOON, "the new certificate to count", async || believed(&new).await).await;
    assert!(!believed(&old).await);
    assert!(!guards("old", "3").await && guards("new", "4").await);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.expect("every request has its answer") > 0);
    }
}
