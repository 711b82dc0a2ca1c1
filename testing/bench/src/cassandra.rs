//! Cassandra: Keylatch's store beside the two bare transactions of a pair, through the same driver, in turns.
//!
//! The nodes are on one core, and the load on the other.

mod bare;
mod gone;

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use keylatch::cassandra::{Options, Store, Survives};
use keylatch::{Key, Policy};
use testing_support::cassandra::Cluster;

use self::bare::Bare;
use crate::Result;
use crate::cores::{Cores, started_on};
use crate::pair::pair;
use crate::report::{Table, median};

const IN_FLIGHT: [usize; 2] = [1, 64];
const REACH: f64 = 0.8;
const ROUNDS: usize = 3;
const WARM_UP_MIN: Duration = Duration::from_secs(30);
const WARM_UP_MAX: Duration = Duration::from_secs(240);
/// A rate that is less than this much of the best one before is not rising.
const STEADY: f64 = 1.03;
const RECORDS: u64 = 1_000_000;
const KEYSPACE: &str = "bench";

/// What is measured: `NODES` or `NODES,RECORDS` of the command line.
#[derive(Debug, Clone, Copy)]
struct Asked {
    nodes: usize,
    /// How many records there are more, the second time.
    records: u64,
}

impl Asked {
    fn of(text: &str, quick: bool) -> Result<Self> {
        let (nodes, records) = text.split_once(',').unwrap_or((text, ""));
        let given = |text: &str, default: u64| if text.is_empty() { Ok(default) } else { text.parse() };
        let nodes = usize::try_from(given(nodes, 1)?)?;
        if ![1, 3].contains(&nodes) {
            return Err("cassandra is measured on 1 or 3 nodes".into());
        }
        Ok(Self { nodes, records: given(records, if quick { 1_000 } else { RECORDS })? })
    }
}

/// Pairs of claim and completion per second.
#[derive(Debug, Clone, Copy)]
struct Rates {
    bare: f64,
    store: f64,
}

/// Measures on as many nodes as `asked` says, and again with as many records more; or what is left of keys that are gone.
pub(crate) async fn measure(cores: Cores, asked: &str, quick: bool) -> Result<Vec<Table>> {
    if let Some(keys) = asked.strip_prefix("gone") {
        let keys = keys.trim_start_matches(',');
        return gone::measure(cores, if keys.is_empty() { RECORDS } else { keys.parse()? }).await;
    }
    let asked = Asked::of(asked, quick)?;
    let start = if asked.nodes == 1 { || Cluster::start(1) } else { || Cluster::start(3) };
    let cluster = started_on(cores.server, start)?;
    let replicas = u32::try_from(asked.nodes)?;
    cluster.make_keyspace(KEYSPACE, &[("dc1", replicas)]).await;
    let options = Options::default().with_migration().with_survives(Survives::Nothing);
    let store = Store::connect_with(&cluster.url(KEYSPACE), options).await?;
    pair(&store, "first", 0, &Policy::default()).await?;
    let bare = Bare::connect(&cluster, KEYSPACE).await?;
    if !quick {
        warm_up(&store, &bare).await?;
    }
    let (times, time) = if quick { (1, Duration::from_millis(300)) } else { (ROUNDS, Duration::from_secs(5)) };
    let empty = rounds(&store, &bare, times, time).await?;
    if asked.records == 0 {
        return Ok(vec![beside_bare(asked, &empty)]);
    }
    let begun = Instant::now();
    bare.fill(asked.records).await?;
    eprintln!("{} records in {:?}", asked.records, begun.elapsed());
    let full = rounds(&store, &bare, times, time).await?;
    Ok(vec![beside_bare(asked, &empty), on_a_full_table(asked, &empty, &full)])
}

/// Until the bare pairs are no longer faster than before: Java compiles what runs often, and goes on doing so for a while.
async fn warm_up(store: &Store, bare: &Bare) -> Result<()> {
    let (begun, mut best) = (Instant::now(), 0.0);
    loop {
        let [_, many] = rounds(store, bare, 1, Duration::from_secs(5)).await?;
        let rate = many[0].bare;
        eprintln!("warming up for {:?}: {rate:.0} bare pairs/s", begun.elapsed());
        let steady = begun.elapsed() >= WARM_UP_MIN && rate < best * STEADY;
        if steady || begun.elapsed() >= WARM_UP_MAX {
            return Ok(());
        }
        best = rate.max(best);
    }
}

/// Measures both in turns, for each number in flight.
async fn rounds(store: &Store, bare: &Bare, rounds: usize, time: Duration) -> Result<[Vec<Rates>; 2]> {
    let (mut made, policy) = ([Vec::new(), Vec::new()], Policy::default());
    for round in 1..=rounds {
        for (in_flight, made) in IN_FLIGHT.into_iter().zip(&mut made) {
            eprintln!("round {round} of {rounds}, {in_flight} in flight");
            let run = Key::new(&format!("{:?}", Instant::now()).replace(|no: char| !no.is_ascii_digit(), ""))?;
            let bare = rate(in_flight, time, |number| bare.pair(run.as_str(), number)).await?;
            let store = rate(in_flight, time, |number| pair(store, run.as_str(), number, &policy)).await?;
            made.push(Rates { bare, store });
        }
    }
    Ok(made)
}

/// How many calls a second there are, if this many are made at once.
async fn rate<F>(at_once: usize, time: Duration, call: impl Fn(u64) -> F) -> Result<f64>
where
    F: Future<Output = Result<()>>,
{
    let (next, begun) = (Cell::new(0), Instant::now());
    let one = async || {
        while begun.elapsed() < time {
            call(next.replace(next.get() + 1)).await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    try_join_all((0..at_once).map(|_| one())).await?;
    Ok(next.get() as f64 / begun.elapsed().as_secs_f64())
}

fn beside_bare(asked: Asked, made: &[Vec<Rates>; 2]) -> Table {
    let title = format!(
        "Cassandra 5.0.9, {} on one core, the load on the other; claim and completion of a key, and the same two \
         transactions alone; {} rounds, medians",
        nodes(asked.nodes),
        made[0].len()
    );
    let columns = ["", "in flight", "pairs/s", "bare/s", "ratio", "reach", "of the rounds", "ms", "bare ms"];
    let mut table = Table::new(title, &columns);
    for (in_flight, made) in IN_FLIGHT.into_iter().zip(made) {
        let [bare, store] = medians(made);
        let ratios: Vec<f64> = made.iter().map(|made| made.store / made.bare).collect();
        let each = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ");
        let millis = |rate: f64| format!("{:.2}", in_flight as f64 * 1e3 / rate);
        table.line([
            format!("{}, claim and completion", nodes(asked.nodes)),
            in_flight.to_string(),
            format!("{store:.0}"),
            format!("{bare:.0}"),
            format!("{:.2}", median(ratios)),
            format!("{REACH:.2}"),
            each,
            millis(store),
            millis(bare),
        ]);
    }
    table
}

fn on_a_full_table(asked: Asked, empty: &[Vec<Rates>; 2], full: &[Vec<Rates>; 2]) -> Table {
    let title = format!("The same with {} records more", asked.records);
    let columns =
        ["", "in flight", "pairs/s", "bare/s", "ratio", "reach", "of the rate before", "of the bare rate before"];
    let mut table = Table::new(title, &columns);
    for (in_flight, (empty, full)) in IN_FLIGHT.into_iter().zip(empty.iter().zip(full)) {
        let ([bare_before, store_before], [bare, store]) = (medians(empty), medians(full));
        table.line([
            format!("{}, full", nodes(asked.nodes)),
            in_flight.to_string(),
            format!("{store:.0}"),
            format!("{bare:.0}"),
            format!("{:.2}", median(full.iter().map(|made| made.store / made.bare).collect())),
            format!("{REACH:.2}"),
            format!("{:.2}", store / store_before),
            format!("{:.2}", bare / bare_before),
        ]);
    }
    table
}

fn nodes(nodes: usize) -> &'static str {
    if nodes == 1 { "one node" } else { "three nodes" }
}

fn medians(made: &[Rates]) -> [f64; 2] {
    let of = |of: fn(&Rates) -> f64| median(made.iter().map(of).collect());
    [of(|made| made.bare), of(|made| made.store)]
}
