//! Measures Keylatch, and prints tables. `cargo run --release -p bench` measures everything, in some minutes;
//! `-- --quick` takes seconds, tries every row once, and checks only that every answer is right.
//!
//! The server is a process on one core, and the load another on the other core. Each row is compared with the same
//! service without the layer, in alternating rounds, so that noise of the machine affects both.
#![expect(clippy::print_stdout, reason = "it prints tables")]

mod app;
mod cassandra;
mod client;
mod clients;
mod connection;
mod cores;
mod drive;
mod fastify;
mod gateway;
mod growth;
mod kafka;
mod least;
mod load;
mod machine;
mod orders;
mod outbox;
mod pair;
mod postgres;
mod proxy;
mod redis;
mod regions;
mod report;
mod rows;
mod serve;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use app::{App, Setup};
use load::Requests;
use server::Launcher;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: bench [--quick] [rows|rows=TITLE] [clients] [client] [growth] [gateway|gateway=TITLE] [regions] [redis] [fastify] [postgres|postgres=TITLE] [kafka|kafka=TITLE] [outbox] [cassandra|cassandra=NODES,RECORDS|cassandra=gone,KEYS]
  rows     ratios to the same service without the layer; with TITLE, those rows whose title begins with it
  clients  64 clients: the rate to that of one commit for each request, and the latency
  client   a call of the client beside one of reqwest
  growth   the memory of a server over many distinct keys
  gateway  the gateway beside nginx and a bare proxy, before the same service; needs nginx, Redis and PostgreSQL;
           with TITLE, those rows whose title begins with it, without latency and memory
  regions  a request whose home is another region, with and without a distance between them
  redis    the Redis store beside redis-benchmark, and the latency that it adds; needs Redis, as its rows do
  fastify  the service with the layer beside Fastify with node-idempotency, both with records in Redis; needs Redis and
           Node.js, and fetches packages with npm
  postgres the PostgreSQL store beside pgbench, and with 10,000,000 records more; needs PostgreSQL;
           with TITLE, those rows whose title begins with it, without the 10,000,000
  kafka    a consumer beside one that only polls, and beside the same writes; needs Kafka and PostgreSQL;
           with TITLE, those rows whose title begins with it
  outbox   a relay beside its producer alone, and beside reading and deleting alone; needs Kafka and PostgreSQL
  cassandra the Cassandra store beside the two bare transactions, and with 1,000,000 records more; needs Java and Maven;
           on one node, or on three with 3 as NODES; with RECORDS, so many more, or 0 for none;
           with gone, what is left of 1,000,000 keys that came and went, or of KEYS
All of them without arguments. For the instructions of one request, see instructions.sh.";

const PARTS: [&str; 12] = [
    "rows",
    "clients",
    "client",
    "growth",
    "gateway",
    "regions",
    "redis",
    "fastify",
    "postgres",
    "kafka",
    "outbox",
    "cassandra",
];
/// Those that take a part of themselves.
const TITLED: [&str; 5] = ["rows", "gateway", "postgres", "kafka", "cassandra"];

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", app, dir, core, kept_ms] => serve::serve(App::named(app)?, &setup(dir, kept_ms)?, core.parse().ok()),
        ["drive", app, requests, count] => drive::drive(App::named(app)?, Requests::named(requests)?, count.parse()?),
        ["proxy", port, upstream, redis] => {
            proxy::serve(port.parse()?, upstream.parse()?, Some(redis).filter(|redis| *redis != "none"))
        }
        // Its own command line, in a process of its own.
        ["gateway", "--listen", ..] => return Ok(keylatch_gateway::main()),
        _ => measure(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn setup(dir: &str, kept_ms: &str) -> Result<Setup> {
    let kept = kept_ms.parse().ok().map(Duration::from_millis);
    Ok(Setup { dir: PathBuf::from(dir), kept, redis: server::redis_url() })
}

fn measure(args: &[&str]) -> Result<()> {
    let quick = args.contains(&"--quick");
    let parts: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--quick").collect();
    let names = parts.iter().map(|part| part.split('=').next().unwrap_or_default());
    let titles = |part| parts.iter().filter_map(|given| given.split_once('=')).find(|(of, _)| *of == part);
    let titles = |part| titles(part).map_or("", |(_, titles)| titles);
    let titled = |part: &&str| part.split_once('=').is_none_or(|(name, _)| TITLED.contains(&name));
    if !parts.iter().all(titled) || names.clone().any(|name| !PARTS.contains(&name)) {
        return Err(format!("cannot measure {parts:?}\n{USAGE}").into());
    }
    let wanted = |part| parts.is_empty() || names.clone().any(|name| name == part);
    let cores = cores::allowed()?;
    let launcher = Launcher::new(cores)?;
    cores::pin(cores.load)?;
    println!("{}", machine::describe(&cores, launcher.scratch())?);
    if cfg!(debug_assertions) && !quick {
        println!("This is a debug build: its figures say nothing. Use `cargo run --release -p bench`.");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if cores.load.is_some() {
            tokio::spawn(stay_awake());
        }
        if wanted("rows") {
            println!("\n{}", rows::measure(&launcher, titles("rows"), quick).await?);
        }
        if wanted("fastify") {
            println!("\n{}", fastify::measure(&launcher, quick).await?);
        }
        if wanted("clients") {
            println!("\n{}", clients::measure(&launcher, quick).await?);
        }
        if wanted("growth") {
            println!("\n{}", growth::measure(&launcher, quick).await?);
        }
        if wanted("gateway") {
            gateway::measure(&launcher, titles("gateway"), quick, |table| println!("\n{table}")).await?;
        }
        if wanted("regions") {
            println!("\n{}", regions::measure(&cores, launcher.scratch(), quick).await?);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    if wanted("client") {
        // A separate runtime, where nothing else uses this process's time.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        println!("\n{}", runtime.block_on(client::measure(&launcher, quick))?);
    }
    if wanted("redis") {
        // A separate runtime for redis-benchmark, too, where nothing else keeps its core busy.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for table in runtime.block_on(redis::measure(cores, quick))? {
            println!("\n{table}");
        }
    }
    if wanted("postgres") {
        // A separate runtime, where nothing keeps pgbench's core busy.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for table in runtime.block_on(postgres::measure(cores, titles("postgres"), quick))? {
            println!("\n{table}");
        }
    }
    if wanted("kafka") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let scratch = launcher.scratch();
        println!("\n{}", runtime.block_on(kafka::measure(cores, scratch, titles("kafka"), quick))?);
    }
    if wanted("outbox") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for table in runtime.block_on(outbox::measure(cores, quick))? {
            println!("\n{table}");
        }
    }
    if wanted("cassandra") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for table in runtime.block_on(cassandra::measure(cores, titles("cassandra"), quick))? {
            println!("\n{table}");
        }
    }
    Ok(())
}

/// Keeps the load's core from sleeping. Otherwise each answer would cost the server the time to wake that core up, and
/// more often so for a slow server: a slow row would look slower than it is.
async fn stay_awake() {
    loop {
        // Redis, if there is one, is on the same core, and goes first.
        std::thread::yield_now();
        tokio::task::yield_now().await;
    }
}
