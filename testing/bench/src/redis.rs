//! Redis: Keylatch and redis-benchmark on the same server, in turns. redis-benchmark sends the same commands, or the
//! scripts of the previous layout, which are the baseline.
//!
//! The server is on one core, and the load (redis-benchmark or Keylatch's store) on the other.

mod space;

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::ffi::OsStringExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keylatch::redis::Store;
use keylatch::{Outcome, Policy};
use testing_support::redis::{Config, Server};

use crate::Result;
use crate::connection::ORDER;
use crate::cores::{Cores, started_on};
use crate::load::in_flight;
use crate::pair::pair;
use crate::report::{Table, median};

const IN_FLIGHT: usize = 512;
/// redis-benchmark's connections. Each has its share of the calls in flight in one pipeline, which suits both it and
/// the server: a connection for each call would be far slower.
const CONNECTIONS: usize = 8;
const BASELINE_REACH: f64 = 3.0;
const COMMANDS_REACH: f64 = 0.85;
const LATENCY_REACH: f64 = 1.5;
const ROUNDS: usize = 5;

/// How much is done in a round.
#[derive(Clone, Copy)]
struct Effort {
    pairs: usize,
    alone: usize,
}

/// Pairs of claim and completion per second.
struct Rates {
    /// redis-benchmark, with the scripts of the previous layout.
    before: f64,
    /// redis-benchmark, with the commands that the store sends.
    commands: f64,
    store: f64,
}

pub(crate) async fn measure(cores: Cores, quick: bool) -> Result<[Table; 3]> {
    let (rounds, effort) = if quick {
        (1, Effort { pairs: 2_000, alone: 200 })
    } else {
        (ROUNDS, Effort { pairs: 100_000, alone: 10_000 })
    };
    // Each has its own server, so that none finds what another has left.
    let server = || started_on(cores.server, || Server::start(Config::new()));
    let (mut rates, mut latencies) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let ours = server()?;
        let store = Store::connect(&ours.url()).await?;
        let alone = one_after_the_other(&store, effort.alone).await?;
        latencies.push((ping(ours.port(), effort.alone)?, alone));
        let rate = at_once(&store, effort.pairs).await?;
        drop((store, ours));
        rates.push(Rates {
            before: of_before(&server()?, effort.pairs)?,
            commands: of_now(&server()?, effort.pairs)?,
            store: rate,
        });
    }
    Ok([beside_benchmark(&rates), added(&latencies), space::measure(&server()?, quick).await?])
}

// ---- Keylatch's store ----------------------------------------------------------------------------------

/// Claims and completes `pairs` keys, this many at once. Returns the pairs per second.
async fn at_once(store: &Store, pairs: usize) -> Result<f64> {
    let (started, policy) = (Instant::now(), Policy::default());
    in_flight(IN_FLIGHT, pairs, |number| pair(store, "at-once", number as u64, &policy)).await?;
    Ok(pairs as f64 / started.elapsed().as_secs_f64())
}

/// The median time of claim and completion together, in microseconds, if nothing else is in flight.
async fn one_after_the_other(store: &Store, pairs: usize) -> Result<f64> {
    let (mut took, policy) = (Vec::with_capacity(pairs), Policy::default());
    for number in 0..pairs {
        let begun = Instant::now();
        pair(store, "alone", number as u64, &policy).await?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(took))
}

// ---- redis-benchmark, and PING -------------------------------------------------------------------------

/// It replaces this by random digits, new ones each time.
const RANDOM: &str = "__rand_int__";
/// This many keys are claimed for each one that is completed: few of the keys that it picks are already completed.
const CLAIMED_FOR_EACH: usize = 10;
/// It picks from this many keys, so hardly any is picked twice.
const NEW_KEYS: usize = 100_000_000_000;

/// A script of the store as it was before its records had a time to live: with three indexes, and Lua that builds a
/// record. The baseline.
macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("redis/lua/prelude.lua"), include_str!(concat!("redis/lua/", $name, ".lua")))
    };
}

/// The pairs per second of the two scripts, as the store sent them: as many bytes, and as much work. Identities are
/// random, so that hardly any is claimed twice, and 19 of 20 completions find a running record.
fn of_before(server: &Server, pairs: usize) -> Result<f64> {
    let claim = load_script(server, script!("claim"))?;
    let complete = load_script(server, script!("complete"))?;
    let id = format!("{:0>20}{RANDOM}", "");
    let keys = [format!("keylatch:{{0}}:{id}"), "ids".to_owned(), "due".to_owned(), "leases".to_owned()];
    let text = |text: &str| OsString::from(text);
    let owned = "e".repeat(24);
    // Format 1, running, a revision; epoch and owner; fingerprint. An identity follows the instants.
    let head = OsString::from_vec([b"\x01R1111", owned.as_bytes(), &[b'f'; 32]].concat());
    let tail = OsString::from_vec([b"\x01\x01".as_slice(), &[b'i'; 66]].concat());
    let spans = ["30000", "30000", "691200000"].map(text);
    let [lease, takeover, free] = spans;
    let claiming = [text(""), text(&id), head, lease, takeover, free, tail];
    let outcome = Outcome::bytes(ORDER).encode();
    let outcome = OsString::from_vec(outcome.into_iter().map(|byte| byte.max(1)).collect());
    let completing = [text(""), text(&id), text(&owned), text("86400000"), text("691200000"), outcome];

    run_pairs(server, pairs, &call(&claim, &keys, &claiming), &call(&complete, &keys, &completing))
}

/// The same for the two commands that the store sends now, without those that it sends once per batch.
fn of_now(server: &Server, pairs: usize) -> Result<f64> {
    let replace = load_script(server, include_str!("../../../crates/keylatch-redis/src/lua/replace.lua"))?;
    let key = format!("keylatch:{{0}}:{:0>20}{RANDOM}", "");
    let text = |text: &str| OsString::from(text);
    // A header of 54 bytes, and an identity.
    let header = "h".repeat(54);
    let claiming = ["SET", &key, &format!("{header}{:i<118}", ""), "NX", "GET", "PX", "691230000"].map(text);
    let outcome = Outcome::bytes(ORDER).encode();
    let outcome = outcome.into_iter().map(|byte| byte.max(1));
    let completed =
        OsString::from_vec(format!("{:c<54}{:i<118}", "", "").into_bytes().into_iter().chain(outcome).collect());
    let completing = [text(&header), text("PX"), text("691200000"), completed];
    run_pairs(server, pairs, &claiming, &call(&replace, &[key], &completing))
}

/// The call of a script.
fn call(sha: &str, keys: &[String], args: &[OsString]) -> Vec<OsString> {
    let mut call = vec!["EVALSHA".into(), sha.into(), keys.len().to_string().into()];
    call.extend(keys.iter().map(OsString::from));
    call.extend_from_slice(args);
    call
}

fn load_script(server: &Server, script: &str) -> Result<String> {
    let mut cli = Command::new("redis-cli")
        .args(["-p", &server.port().to_string(), "-x", "SCRIPT", "LOAD"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    cli.stdin.take().ok_or("it is piped")?.write_all(script.as_bytes())?;
    let output = cli.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Claims this many keys, and completes some. Returns the pairs per second.
fn run_pairs(server: &Server, pairs: usize, claiming: &[OsString], completing: &[OsString]) -> Result<f64> {
    let new_keys = run(server, pairs, NEW_KEYS, claiming)?;
    // Nearly all of these keys are claimed, and few of them are completed so far.
    run(server, pairs * 3, pairs, claiming)?;
    let completions = run(server, pairs / CLAIMED_FOR_EACH, pairs, completing)?;
    Ok(1.0 / (1.0 / new_keys + 1.0 / completions))
}

/// Sends the command `count` times, with identities from `range`. Returns times per second.
fn run(server: &Server, count: usize, range: usize, command: &[OsString]) -> Result<f64> {
    let count = count.max(1);
    let output = Command::new("redis-benchmark")
        .args(["-p", &server.port().to_string(), "-n", &count.to_string()])
        .args(["-c", &CONNECTIONS.to_string(), "-P", &(IN_FLIGHT / CONNECTIONS).to_string()])
        .args(["-r", &range.to_string(), "--csv"])
        .args(command)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || said.contains("ERR") || complaints.contains("Error") {
        return Err(format!("redis-benchmark: {said}{complaints}").into());
    }
    // The name of the test, which contains quotes and commas of the arguments, and then the figures, first the rate.
    let rate = said.lines().last().and_then(|line| line.rsplit(',').nth(6)?.trim_matches('"').parse().ok());
    rate.ok_or_else(|| format!("redis-benchmark: {said}{complaints}").into())
}

/// The median round trip of PING, in microseconds, as `redis-cli --latency` takes it.
fn ping(port: u16, count: usize) -> Result<f64> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply)?;
        took.push(Duration::as_secs_f64(&begun.elapsed()) * 1e6);
    }
    Ok(median(took))
}

// ---- Tables --------------------------------------------------------------------------------------------

fn beside_benchmark(rates: &[Rates]) -> Table {
    let title = format!(
        "Redis on one core, the load on the other; claim and completion of a key, {IN_FLIGHT} in flight, {} rounds",
        rates.len()
    );
    let mut table = Table::new(title, &["", "pairs/s", "times the scripts of before", "reach", "of the rounds"]);
    let rate = |of: fn(&Rates) -> f64| format!("{:.0}", median(rates.iter().map(of).collect()));
    let ratios = |of: fn(&Rates) -> f64| {
        let ratios: Vec<f64> = rates.iter().map(of).collect();
        let rounds = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ");
        (format!("{:.2}", median(ratios)), rounds)
    };
    let blank = String::new;
    let before = "redis-benchmark, the scripts of before".to_owned();
    table.line([before, rate(|rates| rates.before), blank(), blank(), blank()]);
    let (times, rounds) = ratios(|rates| rates.commands / rates.before);
    table.line(["redis-benchmark, the same commands".to_owned(), rate(|rates| rates.commands), times, blank(), rounds]);
    let (times, rounds) = ratios(|rates| rates.store / rates.before);
    let reach = format!("{BASELINE_REACH:.2}");
    table.line([format!("Keylatch, {IN_FLIGHT} in flight"), rate(|rates| rates.store), times, reach, rounds]);
    let (part, rounds) = ratios(|rates| rates.store / rates.commands);
    let reach = format!("{COMMANDS_REACH:.2}");
    table.line(["Keylatch, part of the same commands".to_owned(), blank(), part, reach, rounds]);
    table
}

fn added(latencies: &[(f64, f64)]) -> Table {
    let title = "The same, one key after the other; medians in microseconds; at most so many times two PINGs";
    let mut table = Table::new(title, &["", "µs", "times two PINGs", "at most", "of the rounds"]);
    let of = |of: fn(&(f64, f64)) -> f64| format!("{:.0}", median(latencies.iter().map(of).collect()));
    let times: Vec<f64> = latencies.iter().map(|(ping, ours)| ours / (2.0 * ping)).collect();
    table.line(["PING".to_owned(), of(|(ping, _)| *ping), String::new(), String::new(), String::new()]);
    table.line([
        "Keylatch, claim and completion".to_owned(),
        of(|(_, ours)| *ours),
        format!("{:.2}", median(times.clone())),
        format!("{LATENCY_REACH:.2}"),
        times.iter().map(|times| format!("{times:.2}")).collect::<Vec<_>>().join(" "),
    ]);
    table
}
