//! A gateway in front of a service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tempfile::TempDir;
use testing_gateway::Upstream;
use testing_history::ledger::{self, Ledger};
use testing_history::{Event, What};
use testing_support::server::{Program, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long something may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A gateway in front of a service in this process.
pub(crate) struct Pair {
    pub(crate) gateway: Server,
    pub(crate) upstream: Service,
    dir: TempDir,
}

/// The service, on its own port.
pub(crate) struct Service {
    pub(crate) upstream: Upstream,
    pub(crate) url: String,
    serving: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Service {
    pub(crate) async fn start(ledger: &Path, port: u16) -> Self {
        let upstream = Upstream::new(Ledger::open(ledger).expect("a new file"), ledger);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let serving = tokio::spawn(upstream.clone().serve(listener));
        Self { upstream, url, serving }
    }
}

/// The gateway's program, in front of `upstream`.
pub(crate) fn gateway(upstream: &str, arguments: &[&str]) -> Program {
    let program = Program::new(env!("CARGO_BIN_EXE_gateway-under-test")).arg("gateway");
    let given = ["--listen", "127.0.0.1:0", "--upstream", upstream].into_iter().chain(arguments.iter().copied());
    given.fold(program, |program, argument| program.arg(argument))
}

impl Pair {
    /// With `guarantee`, the records in SQLite, and these further arguments.
    pub(crate) async fn new(guarantee: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let upstream = Service::start(&dir.path().join("ledger"), 0).await;
        let gateway = Self::gateway_in(dir.path(), &upstream.url, guarantee, arguments).await;
        Self { gateway, upstream, dir }
    }

    /// With these arguments, and its files in `dir`.
    pub(crate) fn of(gateway: Server, upstream: Service, dir: TempDir) -> Self {
        Self { gateway, upstream, dir }
    }

    pub(crate) async fn gateway_in(dir: &Path, upstream: &str, guarantee: &str, arguments: &[&str]) -> Server {
        let store = format!("sqlite:{}", dir.join("keylatch.db").display());
        let given = ["--store", &store, "--scope", "header:X-User-Id", "--guarantee", guarantee];
        let given: Vec<&str> = given.into_iter().chain(arguments.iter().copied()).collect();
        gateway(upstream, &given).start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        self.dir.path().join("ledger")
    }

    /// The starts of a key, so far.
    pub(crate) fn starts(&self, key: &str) -> usize {
        let of_key = |event: &Event| event.key == key && matches!(event.what, What::Start { .. });
        ledger::read(&self.ledger_path()).expect("the ledger is whole").iter().filter(|event| of_key(event)).count()
    }

    /// Ends the service, so that its port refuses connections. Returns the port.
    pub(crate) async fn stop_upstream(&mut self) -> u16 {
        let port = self.upstream.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("it has a port");
        self.upstream.serving.abort();
        testing_support::eventually(SOON, "the port to be closed", async || {
            TcpStream::connect(("127.0.0.1", port)).await.is_err()
        })
        .await;
        port
    }

    /// Starts the service again, on its port.
    pub(crate) async fn start_upstream(&mut self, port: u16) {
        self.upstream = Service::start(&self.ledger_path(), port).await;
    }

    pub(crate) async fn post(&self, path: &str, key: &str, body: &str) -> Answer {
        self.send(http::Method::POST, path, &[("x-user-id", "alice"), ("idempotency-key", key)], body).await
    }

    pub(crate) async fn send(&self, method: http::Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        send(method, &format!("{}{path}", self.gateway.url()), headers, body).await
    }

    /// Sends these bytes, and reads until the gateway closes the connection or sends nothing more.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.gateway.authority()).await.expect("the gateway listens");
        // It may refuse before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        while let Ok(Ok(1..)) = timeout(QUIET, stream.read_buf(&mut answer)).await {}
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Sends a request, and waits for its answer.
pub(crate) async fn send(method: http::Method, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().expect("a plain client");
    let mut request = client.request(method, url).timeout(SOON);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.body(body.to_owned()).send().await.expect("an answer")).await
}

/// After this time nothing more arrives: the gateway and the service are on this machine.
const QUIET: Duration = Duration::from_secs(2);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.expect("a whole answer") }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The code, if this is one of Keylatch's own problems.
    pub(crate) fn code(&self) -> String {
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        problem["code"].as_str().expect("a problem has a code").to_owned()
    }

    pub(crate) fn is_replay(&self) -> bool {
        self.header("idempotent-replayed") == Some("true")
    }
}
