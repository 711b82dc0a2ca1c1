//! What writes to the server: Keylatch's engine in this process, or pgbench beside it.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use futures_util::future::{join_all, try_join_all};
use keylatch::entry_point::{Answer, Request};
use keylatch::outbox::Event;
use keylatch::postgres::{Options, Postgres, Store, sqlx};
use keylatch::tx::Verdict;
use keylatch::{Body, Engine, Fingerprint, Key, Limits, Outcome, Policy, Scope};
use testing_support::postgres::{Cluster, program};

use crate::Result;
use crate::connection::KEY_PREFIX;

/// Keylatch's engine on a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// An order for each request, in the transaction of its record.
    Atomic,
    /// The same, with an event.
    AtomicWithEvent,
    /// Claim and completion, with nothing in between.
    Leases,
}

/// A source of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Pgbench {
        name: &'static str,
        script: &'static str,
    },
    First(Mode),
    /// Answered from the record, because the process keeps nothing.
    Replay(Mode),
}

/// The server, and the engines on it.
pub(super) struct Arena<'a> {
    pub(super) cluster: &'a Cluster,
    atomic: Engine,
    leases: Engine,
    /// Numbers the keys.
    next: Cell<u64>,
}

pub(super) const DATABASE: &str = "bench";

impl<'a> Arena<'a> {
    pub(super) async fn new(cluster: &'a Cluster, connections: u32) -> Result<Self> {
        cluster.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let options = || Options::default().with_connections_max(connections);
        let store = Store::connect_with(&cluster.url(DATABASE), options()).await?;
        sqlx::raw_sql(include_str!("tables.sql")).execute(store.pool()).await?;
        let limits = Limits { cache_bytes_max: 0, ..Limits::default() };
        let atomic = Engine::atomic(store.clone(), Policy::default(), limits)?;
        let leases = Engine::fenced(store, Policy::default(), limits)?;
        Ok(Self { cluster, atomic, leases, next: Cell::new(0) })
    }

    /// The requests per second of this many clients, each of which sends its next request after an answer.
    pub(super) async fn rate(&self, contestant: Contestant, clients: usize, time: Duration) -> Result<f64> {
        match contestant {
            Contestant::Pgbench { name, script } => pgbench(self.cluster, name, script, clients, time),
            Contestant::First(mode) => self.ours(mode, false, clients, time).await,
            Contestant::Replay(mode) => self.ours(mode, true, clients, time).await,
        }
    }

    async fn ours(&self, mode: Mode, replay: bool, clients: usize, time: Duration) -> Result<f64> {
        // Connections are made and statements prepared before the measurement.
        let keys: Vec<u64> = (0..clients).map(|_| self.number()).collect();
        try_join_all(keys.iter().map(|key| self.ask(mode, *key, false))).await?;
        let (started, end) = (Instant::now(), Instant::now() + time);
        let counts = join_all(keys.iter().map(|own| async move {
            let mut count = 0_u64;
            while Instant::now() < end {
                let key = if replay { *own } else { self.number() };
                self.ask(mode, key, replay).await?;
                count += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(count)
        }))
        .await;
        let total = counts.into_iter().sum::<Result<u64>>()?;
        Ok(total as f64 / started.elapsed().as_secs_f64())
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    async fn ask(&self, mode: Mode, key: u64, replay: bool) -> Result<()> {
        let request = Request {
            scope: Scope::new(&format!("user-{}", key % 50))?.for_operation("POST /api/orders")?,
            key: Key::new(&format!("{KEY_PREFIX}{key:016x}"))?,
            fingerprint: Fingerprint::of([b"an order".as_slice()]),
            wait: Duration::ZERO,
        };
        let answer = match mode {
            Mode::Leases => self.leases.answer(request, |_| async { (Verdict::Keep(outcome(1)), ()) }).await?,
            Mode::Atomic | Mode::AtomicWithEvent => {
                let work = move |handed: keylatch::entry_point::RunOrTx| async move {
                    let mut tx = handed.tx::<Postgres>().expect("it is a transaction of PostgreSQL");
                    if mode == Mode::AtomicWithEvent {
                        let event = Event::new("orders").with_key("user123").with_value(vec![b'o'; 200]);
                        tx.publish(event).expect("it is a valid event");
                    }
                    let insert = "INSERT INTO orders (cart_id, total_cents) VALUES ($1, $2) RETURNING order_id";
                    let insert = sqlx::query_scalar(insert).bind("cart456").bind(2500_i64);
                    match insert.fetch_one(&mut *tx).await {
                        Ok(order) => (Verdict::Keep(outcome(order)), ()),
                        Err(_) => (Verdict::Retry, ()),
                    }
                };
                self.atomic.answer(request, work).await?
            }
        };
        match answer {
            Answer::Ran(ran) if !replay && ran.expires_at.is_some() => Ok(()),
            Answer::Replayed(_) if replay => Ok(()),
            answer => Err(format!("an order got {answer:?}").into()),
        }
    }
}

fn outcome(order: i64) -> Outcome {
    let items = r#"[{"product_id":"prod1","quantity":2,"price_cents":1000},{"product_id":"prod2","quantity":1}]"#;
    let body = format!(r#"{{"order_id":{order},"user_id":"user123","status":"pending","items":{items}}}"#);
    Outcome {
        status: StatusCode::CREATED,
        headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: Body::Kept(body.into()),
    }
}

/// What pgbench reaches with a script, with prepared statements.
fn pgbench(cluster: &Cluster, name: &str, script: &str, clients: usize, time: Duration) -> Result<f64> {
    let file = cluster.dir().join(format!("{name}.sql"));
    std::fs::write(&file, script)?;
    let seconds = time.as_secs().max(1).to_string();
    let output = Command::new(program("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--time", &seconds])
        .args(["--client", &clients.to_string(), "--file"])
        .args([Path::new(&file).as_os_str()])
        .arg(cluster.keywords(DATABASE))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rate = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| format!("pgbench: {said}{}", String::from_utf8_lossy(&output.stderr)).into())
}
