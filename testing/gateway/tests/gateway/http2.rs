//! HTTP/2 and TLS on both sides. A second gateway is the service that offers them, and curl is the client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use testing_support::certificates::Authority;
use testing_support::server::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::frames::frame;
use crate::setup::{Pair, SOON, Service, gateway};

/// Files of an authority, and of a certificate of this machine's.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let certificate = authority.certify(&["localhost", "127.0.0.1"]);
        let write = |name: &str, pem: &str| std::fs::write(dir.path().join(name), pem).unwrap();
        write("ca.pem", &authority.pem());
        write("cert.pem", &certificate.pem);
        write("key.pem", &certificate.key);
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

/// A gateway before `upstream`, by TLS or not.
pub(crate) async fn start(upstream: &str, files: &Files, is_tls: bool, more: &[&str]) -> Server {
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let basic = ["--scope", "header:X-User-Id", "--guarantee", "at-most-once", "--store", "memory:"];
    let tls = if is_tls { vec!["--tls-cert", &cert, "--tls-key", &key] } else { Vec::new() };
    let admin = ["--admin-listen", "127.0.0.1:0"];
    let arguments: Vec<&str> = [&basic[..], &tls, &admin, more].concat();
    gateway(upstream, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"))
}

/// The port on which it listens for clients.
pub(crate) fn port(server: &Server) -> u16 {
    let printed = server.printed();
    let line = printed.lines().find(|line| line.contains("listening")).expect("it says where it listens");
    line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// curl's result: the version, the status, and the body.
pub(crate) async fn curl(arguments: &[&str]) -> (String, String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--noproxy", "*", "-m", "20", "-w", "\n%{http_version} %{http_code}"]).args(arguments);
    let output = timeout(SOON, curl.output()).await.expect("curl ends").expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, last) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    let (version, status) = last.split_once(' ').expect("both");
    (version.to_owned(), status.to_owned(), body.to_owned())
}

#[tokio::test]
async fn http2_and_tls_on_both_sides_carry_one_request_once() {
    let files = Files::new();
    let ledger: PathBuf = files.dir.path().join("ledger");
    let service = Service::start(&ledger, 0).await;
    let behind = start(&service.url, &files, true, &[]).await;
    let (upstream, ca) = (format!("https://localhost:{}", port(&behind)), files.path("ca.pem"));
    let front = start(&upstream, &files, true, &["--upstream-ca", &ca]).await;
    let url = format!("https://localhost:{}/echo?q", port(&front));
    let body = "x".repeat(200_000);
    let body_file = files.path("body");
    std::fs::write(&body_file, &body).unwrap();
    let data = format!("@{body_file}");
    for (version, key, expected) in [("--http2", "a", "2"), ("--http1.1", "b", "1.1"), ("--http2", "b", "2")] {
        let key = format!("Idempotency-Key: {key}");
        let arguments = ["--cacert", &ca, version, &url, "-H", "X-User-Id: alice", "-H", &key, "--data-binary", &data];
        let (version, status, _) = curl(&arguments).await;
        assert_eq!((version.as_str(), status.as_str()), (expected, "200"));
    }
    let seen = service.upstream.seen();
    assert_eq!(seen.len(), 2, "the third is a replay, whatever its version");
    for request in &seen {
        assert_eq!(request.target(), ("POST", "/echo?q"));
        assert_eq!(request.body(), body.as_bytes());
        assert_eq!(request.header("host"), Some(format!("localhost:{}", port(&front))));
        let via = request.headers("via").join(", ");
        assert!(via.ends_with("2 keylatch"), "the gateways speak HTTP/2 with each other: {via}");
        assert_eq!(request.header("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(request.header("te"), None);
    }
    let (_, status, body) = curl(&["--cacert", &ca, "--http2", &url, "-X", "TRACE"]).await;
    assert_eq!(status, "405", "{body}");
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_not_believed_gets_nothing() {
    let (files, other) = (Files::new(), Files::new());
    let service = Service::start(&files.dir.path().join("ledger"), 0).await;
    let behind = start(&service.url, &files, true, &[]).await;
    let (upstream, ca) = (format!("https://localhost:{}", port(&behind)), other.path("ca.pem"));
    let front = start(&upstream, &files, false, &["--upstream-ca", &ca]).await;
    let url = format!("http://127.0.0.1:{}/letters", port(&front));
    let (_, status, body) = curl(&[&url, "-H", "X-User-Id: a", "-H", "Idempotency-Key: k", "-d", "a"]).await;
    assert!(status == "502" && body.contains("UPSTREAM_UNREACHABLE"), "{status} {body}");
    assert_eq!(service.upstream.seen(), []);
}

#[tokio::test]
async fn http2_without_tls_is_spoken_where_it_is_known() {
    let pair = Pair::new("fenced", &[]).await;
    let url = format!("{}/echo", pair.gateway.url());
    let arguments = ["--http2-prior-knowledge", &url, "-H", "X-User-Id: a", "-H", "Idempotency-Key: k", "-d", "a"];
    assert_eq!(curl(&arguments).await.0, "2");
    let files = Files::new();
    let h2c = pair.gateway.url().replace("http://", "h2c://");
    let front = start(&h2c, &files, false, &[]).await;
    let url = format!("http://127.0.0.1:{}/echo", port(&front));
    let (version, status, _) = curl(&[&url]).await;
    assert_eq!((version.as_str(), status.as_str()), ("1.1", "200"));
    let seen = pair.upstream.upstream.seen();
    assert!(seen.last().unwrap().headers("via").join(", ").ends_with("2 keylatch"), "{seen:?}");
}

/// How the service of the next test rejects a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivesUp {
    RefusesTheStream,
    GoesAwayBelow,
    GoesAwayAndCloses,
    CancelsTheStream,
    Closes,
}

/// Serves HTTP/2, frame by frame: accepts the head of each request, and rejects it.
async fn give_up(listener: TcpListener, how: GivesUp) {
    while let Ok((mut stream, _)) = listener.accept().await {
        drop(tokio::spawn(async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await?;
            stream.write_all(&frame(4, 0, 0, &[])).await?;
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                stream.read_exact(&mut vec![0; length]).await?;
                let (kind, number) = (head[3], [head[5], head[6], head[7], head[8]]);
                if kind != 1 {
                    continue;
                }
                let id = u32::from_be_bytes(number);
                let answer = match how {
                    GivesUp::RefusesTheStream => frame(3, 0, id, &7_u32.to_be_bytes()),
                    GivesUp::CancelsTheStream => frame(3, 0, id, &8_u32.to_be_bytes()),
                    GivesUp::GoesAwayBelow => frame(7, 0, 0, &[0; 8]),
                    GivesUp::GoesAwayAndCloses => frame(7, 0, 0, &[&number[..], &[0; 4]].concat()),
                    GivesUp::Closes => Vec::new(),
                };
                stream.write_all(&answer).await?;
                if matches!(how, GivesUp::GoesAwayAndCloses | GivesUp::Closes) {
                    return Ok::<(), std::io::Error>(());
                }
            }
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_says_it_has_not_looked_at_was_not_sent() {
    for (how, code, again) in [
        (GivesUp::RefusesTheStream, "UPSTREAM_UNREACHABLE", "502"),
        (GivesUp::GoesAwayBelow, "UPSTREAM_UNREACHABLE", "502"),
        (GivesUp::GoesAwayAndCloses, "UPSTREAM_FAILED", "409"),
        (GivesUp::CancelsTheStream, "UPSTREAM_FAILED", "409"),
        (GivesUp::Closes, "UPSTREAM_FAILED", "409"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("h2c://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(give_up(listener, how));
        let front = start(&upstream, &Files::new(), false, &[]).await;
        let url = format!("http://127.0.0.1:{}/letters", port(&front));
        let arguments = [&url, "-H", "X-User-Id: a", "-H", "Idempotency-Key: k", "-d", "a"];
        let (_, status, body) = curl(&arguments).await;
        assert!(status == "502" && body.contains(code), "{how:?}: {status} {body}");
        assert_eq!(curl(&arguments).await.1, again, "{how:?}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_connection_of_http2_on_which_nothing_is_asked_is_closed() {
    let pair = Pair::new("fenced", &["--head-time-max", "1s"]).await;
    let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut read = Vec::new();
    let closed = timeout(Duration::from_secs(10), stream.read_to_end(&mut read)).await;
    assert!(closed.is_ok(), "it is open after ten seconds, and said {read:?}");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    let there = |name: &str| files.path(name);
    let basic = ["--scope", "shared:all", "--guarantee", "fenced", "--store", "memory:"];
    let upstream = "http://127.0.0.1:9";
    for (arguments, wanted) in [
        (vec!["--tls-cert", &there("cert.pem")], "--tls-key"),
        (vec!["--tls-cert", &there("nothing"), "--tls-key", &there("key.pem")], "--tls-cert"),
        (vec!["--tls-cert", &there("key.pem"), "--tls-key", &there("key.pem")], "no certificate in PEM"),
        (vec!["--tls-cert", &there("cert.pem"), "--tls-key", &there("cert.pem")], "no private key in PEM"),
    ] {
        let arguments: Vec<&str> = basic.iter().copied().chain(arguments).collect();
        match gateway(upstream, &arguments).start().await {
            Err(error) => assert!(error.to_string().contains(wanted), "{wanted}: {error}"),
            Ok(_) => panic!("it should not start: {arguments:?}"),
        }
    }
    assert!(Path::new(&there("cert.pem")).exists());
}
