//! A place to order from: the server's program and its stores, its clients, and the judge of what they saw.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use testing_history::{Answer, Event, Guarantee, Log, Summary, What, judge};
use testing_support::client::{Client, Request, Targets};
use testing_support::eventually;
use testing_support::postgres::program;
use testing_support::server::{Program, Server};

use crate::setup::{Setup, Stores};

/// How long something may take that is done at once by a server that is well.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Whose orders all of them are, so that they can be listed together.
const USER: &str = "chaos";

/// Stores, the program that serves from them, and clients that remember everything.
pub(crate) struct Shop {
    pub(crate) stores: Stores,
    pub(crate) program: Program,
    pub(crate) targets: Targets,
    pub(crate) log: Log,
    pub(crate) client: Client,
}

impl Shop {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::on(setup.stores())
    }

    pub(crate) fn on(stores: Stores) -> Self {
        let program = stores.program();
        let (targets, log) = (Targets::default(), Log::default());
        let client = Client::new(targets.clone(), log.clone(), order_in);
        Self { stores, program, targets, log, client }
    }

    /// Starts a server, to which the clients turn from now on.
    pub(crate) async fn open(&self) -> Server {
        let server = self.program.start().await.unwrap_or_else(|error| panic!("{error}"));
        self.targets.set([server.url()]);
        server
    }

    /// Takes a lock, as a backup or another process might: until it is released, no server can commit an order.
    pub(crate) fn lock_writes(&self) -> WriteLock {
        if self.stores.setup.has_postgres() {
            return WriteLock::Postgres(lock_table(&self.stores.keywords()));
        }
        let database = rusqlite::Connection::open(self.stores.file()).expect("the database is there");
        database.busy_timeout(SOON).expect("any time-out is allowed");
        database.execute_batch("BEGIN IMMEDIATE").expect("the lock is free now and then");
        WriteLock::Sqlite(database)
    }

    /// Holds that lock for as long as `condition` holds, on a thread of its own, so that nothing that goes on in
    /// the test delays the release. It is held when this returns.
    pub(crate) fn lock_writes_while(&self, condition: impl Fn() -> bool + Send + 'static) -> JoinHandle<()> {
        let lock = self.lock_writes();
        thread::spawn(move || {
            while condition() {
                thread::sleep(Duration::from_millis(1));
            }
            lock.release();
        })
    }

    /// How many requests run, as the server counts them.
    pub(crate) async fn running(&self) -> u32 {
        let metrics = self.client.get("/metrics", SOON).await.expect("a server shows what it counts");
        let metrics = String::from_utf8_lossy(&metrics.body);
        let running = metrics.lines().find_map(|line| line.strip_prefix("keylatch_running "));
        running.map_or(0, |running| running.parse().expect("a gauge is a number"))
    }

    /// Waits until what follows from so many orders is done, which are all that there are: the inventory has counted them,
    /// and nothing runs.
    pub(crate) async fn settled(&self, orders: usize) {
        let path = format!("/api/inventory?user_id={USER}");
        eventually(SOON, "the inventory", async || {
            let inventory = self.client.get(&path, SOON).await.expect("a server shows its inventory");
            let inventory: Value = serde_json::from_slice(&inventory.body).expect("it is JSON");
            inventory["user"]["orders"] == orders && self.running().await == 0
        })
        .await;
    }

    /// All orders that are there, as (scope, key, order).
    pub(crate) async fn orders(&self) -> Vec<(String, String, String)> {
        const PAGE: usize = 1_000;
        const PAGES_MAX: usize = 1_000;
        let mut orders = Vec::new();
        let mut cursor = String::new();
        for _ in 0..PAGES_MAX {
            let path = format!("/api/orders?user_id={USER}&limit={PAGE}{cursor}");
            let page = self.client.get(&path, SOON).await.expect("a server that is well lists orders");
            assert_eq!(page.status, 200, "{page:?}");
            let page: Value = serde_json::from_slice(&page.body).expect("a page is JSON");
            for order in page["orders"].as_array().expect("a page has orders") {
                let (scope, key) = text(&order["cart_id"]).split_once('/').expect("it is an order of this test");
                orders.push((scope.to_owned(), key.to_owned(), text(&order["order_id"]).to_owned()));
            }
            match &page["next"] {
                Value::Null => return orders,
                next => cursor = format!("&cursor={}", text(next)),
            }
        }
        panic!("more than {PAGES_MAX} pages of orders");
    }

    /// What is asked of every test at its end: all orders that are there, and all that every client saw, make sense
    /// together; and each key that was answered has one order, and no other key has any; and no run has failed. And each
    /// order is counted once.
    pub(crate) async fn judge(&self) -> Summary {
        let summary = self.judge_where_runs_may_fail().await;
        assert_eq!(summary.failed, 0, "the server failed: {summary}");
        summary
    }

    /// Waits until each order is in the inventory, once: the relay of a process that died has a lease that must end first.
    async fn assert_counted(&self, orders: usize) {
        let (begun, orders) = (Instant::now(), orders as u64);
        loop {
            let inventory = self.client.get(&format!("/api/inventory?user_id={USER}"), SOON).await;
            let inventory = inventory.expect("a server that is well shows its inventory");
            let inventory: Value = serde_json::from_slice(&inventory.body).expect("an inventory is JSON");
            let counted = inventory["user"]["orders"].as_u64().unwrap_or(0);
            assert!(counted <= orders, "{counted} orders are counted, and there are {orders}");
            if counted == orders {
                // Each piece costs 10.
                let pieces = inventory["products"][0]["ordered"].as_f64().unwrap_or(0.0);
                let amount = inventory["user"]["total_amount"].as_f64().unwrap_or(0.0);
                assert!((pieces * 10.0 - amount).abs() < 0.001, "{inventory}");
                return;
            }
            assert!(begun.elapsed() < SOON, "only {counted} of {orders} orders are counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same, where the database may leave a handler in the lurch, whose client is told so with a 503.
    pub(crate) async fn judge_where_runs_may_fail(&self) -> Summary {
        let mut history = self.log.events();
        let orders = self.orders().await;
        self.assert_counted(orders.len()).await;
        history.extend(orders.into_iter().map(|(scope, key, effect)| Event::now(&scope, &key, What::Found { effect })));
        let guarantee = if self.stores.setup == Setup::Redis { Guarantee::Fenced } else { Guarantee::Atomic };
        let summary = judge(&history, guarantee);
        assert!(summary.first_answers + summary.replays > 0, "nobody got an answer: {summary}");
        summary
    }

    /// Asks again for everything that was answered, once; each must be replayed, which [`judge`](Self::judge) sees to.
    pub(crate) async fn ask_all_again(&self, requests: &[Request]) {
        for request in requests {
            let answer = self.client.insist(request, SOON, SOON).await;
            answer.unwrap_or_else(|gave_up| panic!("{}/{}: {gave_up}", request.scope, request.key));
        }
    }
}

/// A lock that keeps all orders from being written.
pub(crate) enum WriteLock {
    Sqlite(rusqlite::Connection),
    Postgres(Child),
}

impl WriteLock {
    pub(crate) fn release(self) {
        match self {
            Self::Sqlite(database) => database.execute_batch("ROLLBACK").expect("nothing was written"),
            Self::Postgres(mut psql) => {
                // Its session ends with its input.
                drop(psql.stdin.take());
                assert!(psql.wait().expect("it ends").success());
            }
        }
    }
}

/// A `psql` that holds a lock on the table of orders, which lets everyone read.
fn lock_table(keywords: &str) -> Child {
    let mut psql = Command::new(program("psql"))
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", keywords])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let stdin = psql.stdin.as_mut().expect("it is piped");
    stdin.write_all(b"BEGIN; LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE;\n\\echo locked\n").expect("it reads");
    let mut said = String::new();
    BufReader::new(psql.stdout.take().expect("it is piped")).read_line(&mut said).expect("it speaks text");
    assert_eq!(said, "locked\n");
    psql
}

/// An order of one item under `key`. What is ordered follows from scope and key.
pub(crate) fn order(scope: impl Into<String>, key: impl Into<String>) -> Request {
    order_of(scope, key, 1)
}

/// An order of so many items under `key`.
pub(crate) fn order_of(scope: impl Into<String>, key: impl Into<String>, items: usize) -> Request {
    let (scope, key) = (scope.into(), key.into());
    let item = json!({ "product_id": "prod1", "quantity": 2, "price": 10 });
    let body = json!({ "user_id": USER, "cart_id": format!("{scope}/{key}"), "items": vec![item; items] });
    Request { path: "/api/orders", scope, key, body: Bytes::from(body.to_string()), wait_s: None }
}

/// Each request once.
pub(crate) fn distinct(requests: impl IntoIterator<Item = Request>) -> Vec<Request> {
    let by_key: BTreeMap<_, _> =
        requests.into_iter().map(|request| ((request.scope.clone(), request.key.clone()), request)).collect();
    by_key.into_values().collect()
}

fn order_in(answer: &Answer) -> Option<String> {
    let order: Value = serde_json::from_slice(&answer.body).ok()?;
    order.get("order_id")?.as_str().map(str::to_owned)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("it is a string")
}
