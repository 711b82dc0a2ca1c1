//! The orders server, with or without a gateway before it, and a client's program that orders from it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testing_support::eventually;
use testing_support::restartable::free_port;
use testing_support::server::{Program, Server};

use crate::gateway_program;
use crate::packages::Client;

/// How many orders a client places.
pub(crate) const ORDERS: u64 = 2_000;
/// How many of them at once.
pub(crate) const IN_FLIGHT: u64 = 20;
/// The orders are of so many users, because the API lists only a thousand of one at once.
const USERS: u64 = 4;

/// Each cart with the order that was made of it.
pub(crate) type Orders = BTreeMap<String, String>;

/// The stores of a server and of a gateway, and how to start them.
pub(crate) struct Shop {
    directory: TempDir,
    port: u16,
}

impl Shop {
    /// A server has the same port each time that it is opened, so that a gateway finds it again.
    pub(crate) async fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("there is room for a directory"), port: free_port().await }
    }

    /// Starts the server.
    pub(crate) async fn open(&self) -> Server {
        let program = Program::new(env!("CARGO_BIN_EXE_orders")).env("DATA_DIR", self.directory.path());
        program.env("PORT", self.port.to_string()).start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a gateway before the server. To the server it gives a key that is the same on every attempt, so an attempt
    /// that died half-way is not taken for another order.
    pub(crate) async fn open_gateway(&self) -> Server {
        let store = self.directory.path().join("gateway.db");
        let program = gateway_program::program(&format!(
            "--listen 127.0.0.1:0 --upstream http://127.0.0.1:{} --store sqlite:{} --scope shared:shop \
             --guarantee fenced --upstream-key derived --require-key --lease 2s",
            self.port,
            store.display()
        ));
        program.start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// All orders, as the server lists them. There is one for each cart, or the test fails.
    pub(crate) async fn orders(&self, server: &Server) -> Orders {
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client needs nothing");
        let mut orders = Orders::new();
        for user in 0..USERS {
            let url = format!("{}/api/orders?user_id=user-{user}&limit=1000", server.url());
            let page: Value = http.get(url).send().await.expect("an answer").json().await.expect("a page");
            assert_eq!(page["next"], Value::Null, "it is the whole list");
            for order in page["orders"].as_array().expect("a list") {
                let twice = orders.insert(text(&order["cart_id"]), text(&order["order_id"]));
                assert_eq!(twice, None, "the cart was ordered twice: {order}");
            }
        }
        orders
    }
}

/// What a client's program has told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The orders that it was told of.
    pub(crate) answered: Orders,
    /// The carts that it found in its journal when it started.
    pub(crate) resumed: Vec<String>,
    /// One more than the number of the last order that it began.
    pub(crate) begun: u64,
    pub(crate) tries: u64,
    pub(crate) replayed: u64,
}

/// A client's program. Killed when dropped.
pub(crate) struct Run {
    child: Child,
    told: Option<JoinHandle<Told>>,
}

impl Run {
    /// Starts the client's program, which finishes what its journal has, and then orders from number `first` on.
    pub(crate) fn start(client: Client, url: &str, first: u64, journal: Option<&Path>) -> Self {
        let mut command = client.program();
        command.env("URL", url).env("ORDERS", ORDERS.to_string()).env("FIRST", first.to_string());
        command.env("IN_FLIGHT", IN_FLIGHT.to_string()).env("USERS", USERS.to_string());
        if let Some(journal) = journal {
            command.env("JOURNAL", journal);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let told = thread::spawn(move || {
            let mut told = Told::default();
            // A kill can fall into the middle of a line.
            for line in lines.map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    told.hear(&line);
                }
            }
            told
        });
        Self { child, told: Some(told) }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// Waits until it has ended well. Returns what it has told.
    pub(crate) async fn ended(mut self, limit: Duration) -> Told {
        eventually(limit, "the client to end", async || self.has_ended()).await;
        let status = self.child.wait().expect("a child can be waited for");
        let told = self.told();
        assert!(status.success(), "the client ended with {status}, after {} orders", told.answered.len());
        told
    }

    /// Kills it on the spot with SIGKILL. Returns what it has told.
    pub(crate) async fn killed(mut self) -> Told {
        assert!(!self.has_ended(), "the client had nothing more to do");
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        self.told()
    }

    fn told(&mut self) -> Told {
        self.told.take().expect("it is asked once").join().expect("the reader does not fail")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Told {
    /// Takes in a line.
    pub(crate) fn hear(&mut self, line: &Value) {
        if let Some(number) = line["begun"].as_u64() {
            self.begun = self.begun.max(number + 1);
        }
        if line["resuming"].is_string() {
            self.resumed.push(text(&line["resuming"]));
        }
        if line["order_id"].is_string() {
            assert_eq!(line["status"], 201, "{line}");
            self.tries += line["tries"].as_u64().expect("a number");
            self.replayed += u64::from(line["replayed"] == true);
            self.answered.insert(text(&line["cart_id"]), text(&line["order_id"]));
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not text")).to_owned()
}
