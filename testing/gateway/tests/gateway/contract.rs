//! The contract's cases, which run against the layer as well, through the gateway.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use keylatch::{Clock, Guarantee, Record, Timestamp, sqlite};
use tempfile::TempDir;
use testing_contract::{PATTERNS, Running, Setup, Subject, nested, records};
use testing_support::server::Server;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::setup::gateway;

testing_contract::cases!(crate::contract::Gateway);

/// The gateway before a service in this process, with the records in SQLite.
#[derive(Debug)]
pub(crate) struct Gateway;

/// A gateway and its service.
#[derive(Debug)]
pub(crate) struct Pair {
    _gateway: Server,
    service: JoinHandle<()>,
    dir: TempDir,
}

impl Subject for Gateway {
    type Running = Pair;

    fn guarantees(&self) -> &'static [Guarantee] {
        &[Guarantee::Fenced, Guarantee::AtMostOnce]
    }

    async fn serve(&self, setup: Setup, routes: Router) -> (SocketAddr, Pair) {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = format!("http://{}", listener.local_addr().expect("it is bound"));
        let service = tokio::spawn(async move { axum::serve(listener, nested(routes)).await.expect("it serves") });
        let file = dir.path().join("keylatch.toml");
        fs::write(&file, routes_of(&setup)).expect("the file can be written");
        let arguments = arguments_of(&setup, &store_in(&dir), &file);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let gateway = gateway(&upstream, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
        let address = gateway.authority().parse().expect("an address");
        (address, Pair { _gateway: gateway, service, dir })
    }
}

fn store_in(dir: &TempDir) -> PathBuf {
    dir.path().join("keylatch.db")
}

/// What the file says.
fn routes_of(setup: &Setup) -> String {
    let guarantee = match setup.guarantee {
        Guarantee::Fenced => "fenced",
        Guarantee::AtMostOnce => "at-most-once",
        Guarantee::Atomic => panic!("it cannot be had through a proxy"),
    };
    let mut route = format!("scope = {{ header = \"X-User-Id\" }}\nguarantee = \"{guarantee}\"\n");
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(route, "{name} = {value}").expect("a string takes it");
        }
    };
    say("require-key", setup.require_key.then(|| "true".to_owned()));
    say("canonical-json", setup.canonical_json.then(|| "true".to_owned()));
    say(
        "methods",
        setup.methods.as_ref().map(|methods| {
            let named: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
            format!("{named:?}")
        }),
    );
    say("key.header", setup.key_header.map(|name| format!("{name:?}")));
    say("key.json", setup.key_pointer.map(|pointer| format!("{pointer:?}")));
    say("request-body-max", setup.body_bytes_max.map(|bytes| format!("\"{bytes}\"")));
    say("response-body-max", setup.answer_bytes_max.map(|bytes| format!("\"{bytes}\"")));
    say("wait", setup.wait.map(|wait| format!("\"{}\"", span(wait))));
    say("retention", setup.kept.map(|(retention, _)| format!("\"{}\"", span(retention))));
    say("tombstone", setup.kept.map(|(_, tombstone)| format!("\"{}\"", span(tombstone))));
    let routes = PATTERNS.iter().enumerate();
    routes.map(|(nth, path)| format!("[[route]]\nname = \"r{nth}\"\npath = \"{path}\"\n{route}\n")).collect()
}

/// What the command line says.
fn arguments_of(setup: &Setup, store: &std::path::Path, file: &std::path::Path) -> Vec<String> {
    let mut arguments = vec!["--store".to_owned(), format!("sqlite:{}", store.display())];
    // The layer passes the key on as it is.
    arguments.extend(["--config", &file.display().to_string(), "--upstream-key", "received"].map(str::to_owned));
    for (name, time) in [
        ("--body-silence-max", setup.body_stall_max),
        ("--response-end-max", setup.answer_end_max),
        ("--wait-max", setup.wait_max.or(setup.wait)),
    ] {
        arguments.extend(time.into_iter().flat_map(|time| [name.to_owned(), span(time)]));
    }
    arguments
}

fn span(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

impl Running for Pair {
    async fn records(&self) -> Vec<Record> {
        let store = sqlite::Store::open(store_in(&self.dir)).await.expect("a second process may open it");
        records(&store).await
    }

    fn now(&self) -> Timestamp {
        Clock::system().now()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.service.abort();
    }
}
