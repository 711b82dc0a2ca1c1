//! The gateway beside nginx and a bare proxy, before the same service.
//!
//! What is measured is on one core; the service behind it, Redis or PostgreSQL where it needs them, and the load are on the
//! other. So a rate is not that of the proxy alone, and the processor time that a request takes of the proxy says more.

mod front;

use std::time::Duration;

use keylatch::Limits;
use testing_support::postgres::Cluster;

pub(crate) use self::front::{Front, Place};
use crate::Result;
use crate::app::App;
use crate::load::{Effort, Measured, Requests, distinct_keys, load};
use crate::report::{Table, median};
use crate::server::Launcher;

/// One comparison.
struct Row {
    title: &'static str,
    front: Front,
    requests: Requests,
    /// What it is compared with: the slower of these.
    against: &'static [Against],
    /// The ratio that must be reached.
    reach: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Against {
    Front(Front),
    /// The layer in the service's own process.
    Layer(App),
}

const HYPER: Against = Against::Front(Front::Hyper);

const ROWS: [Row; 6] = [
    Row { title: "nginx", front: Front::Nginx, requests: Requests::First, against: &[HYPER], reach: None },
    Row { title: "unguarded", front: Front::Unguarded, requests: Requests::First, against: &[HYPER], reach: Some(0.9) },
    Row {
        title: "first, memory",
        front: Front::Memory,
        requests: Requests::First,
        against: &[HYPER],
        reach: Some(0.75),
    },
    Row {
        title: "first, Redis",
        front: Front::Redis,
        requests: Requests::First,
        against: &[Against::Front(Front::HyperRedis)],
        reach: Some(0.8),
    },
    Row {
        title: "first, AtMostOnce on SQLite",
        front: Front::Sqlite,
        requests: Requests::First,
        against: &[HYPER, Against::Layer(App::SqliteAtMostOnce)],
        reach: Some(0.8),
    },
    Row {
        title: "replay, from the cache",
        front: Front::Memory,
        requests: Requests::Replay,
        against: &[HYPER],
        reach: Some(2.0),
    },
];

const ROUNDS: usize = 3;
const CLIENTS: usize = 50;

/// Measures each row whose title begins with `titles`; all of them, latency and memory if that is empty. Each table is shown as
/// soon as it is there.
pub(crate) async fn measure(launcher: &Launcher, titles: &str, quick: bool, show: impl Fn(Table)) -> Result<()> {
    show(rates(launcher, titles, quick).await?);
    if titles.is_empty() {
        show(latency(launcher, quick).await?);
        show(memory(launcher, quick).await?);
    }
    Ok(())
}

impl Against {
    async fn load(self, launcher: &Launcher, effort: Effort) -> Result<Measured> {
        let server = match self {
            Self::Front(front) => launcher.start_before(front, None)?,
            Self::Layer(app) => launcher.start(app)?,
        };
        load(&server, Requests::First, effort).await
    }
}

/// The row itself, and what it is compared with, in one round.
struct Pair {
    own: Measured,
    other: Measured,
}

async fn rates(launcher: &Launcher, titles: &str, quick: bool) -> Result<Table> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.title.starts_with(titles)).collect();
    let (rounds, warm_up, measured) = if quick { (1, 50, 500) } else { (ROUNDS, 500, 3_000) };
    let (warm_up, measured) = (Duration::from_millis(warm_up), Duration::from_millis(measured));
    let effort = Effort { clients: CLIENTS, warm_up, measured };
    let mut pairs: Vec<Vec<Pair>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (row, pairs) in rows.iter().zip(&mut pairs) {
            let mut others = Vec::new();
            for against in row.against {
                others.push(against.load(launcher, effort).await?);
            }
            let own = load(&launcher.start_before(row.front, None)?, row.requests, effort).await?;
            let other = others.into_iter().min_by(|one, two| one.rate.total_cmp(&two.rate));
            pairs.push(Pair { own, other: other.ok_or("a row is compared with something")? });
        }
    }
    let title = format!(
        "The gateway before a bare service: {CLIENTS} connections, {rounds} rounds of {measured:?}, medians; \
         \"other\" is a bare hyper proxy, for Redis one that sends the same two commands, for SQLite the slower of that \
         proxy and the layer alone"
    );
    let columns =
        ["", "ratio", "reach", "of the rounds", "by CPU time", "requests/s", "other/s", "µs/request", "other µs"];
    let mut table = Table::new(title, &columns);
    for (row, pairs) in rows.iter().zip(&pairs) {
        let of = |value: fn(&Pair) -> f64| pairs.iter().map(value).collect::<Vec<f64>>();
        let ratios = of(|pair| pair.own.rate / pair.other.rate);
        let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        table.line([
            row.title.to_owned(),
            format!("{:.2}", median(ratios)),
            row.reach.map_or(String::new(), |reach| format!("{reach:.2}")),
            all.join(" "),
            format!("{:.2}", median(of(|pair| pair.other.cpu.as_secs_f64() / pair.own.cpu.as_secs_f64()))),
            format!("{:.0}", median(of(|pair| pair.own.rate))),
            format!("{:.0}", median(of(|pair| pair.other.rate))),
            format!("{:.1}", median(of(|pair| pair.own.cpu.as_secs_f64() * 1e6))),
            format!("{:.1}", median(of(|pair| pair.other.cpu.as_secs_f64() * 1e6))),
        ]);
    }
    Ok(table)
}

// ---- Latency -------------------------------------------------------------------------------------------

const ALONE: [(&str, Option<Front>, Requests); 7] = [
    ("the service alone", None, Requests::First),
    ("hyper", Some(Front::Hyper), Requests::First),
    ("nginx", Some(Front::Nginx), Requests::First),
    ("the gateway, unguarded", Some(Front::Unguarded), Requests::First),
    ("the gateway, memory", Some(Front::Memory), Requests::First),
    ("the gateway, SQLite", Some(Front::Sqlite), Requests::First),
    ("the gateway, replay", Some(Front::Memory), Requests::Replay),
];

/// One client that sends one request after the other.
async fn latency(launcher: &Launcher, quick: bool) -> Result<Table> {
    let (rounds, warm_up, measured) = if quick { (1, 50, 500) } else { (ROUNDS, 500, 2_000) };
    let (warm_up, measured) = (Duration::from_millis(warm_up), Duration::from_millis(measured));
    let effort = Effort { clients: 1, warm_up, measured };
    let mut all: Vec<Vec<Measured>> = ALONE.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, front, requests), measured) in ALONE.iter().zip(&mut all) {
            let server = match front {
                Some(front) => launcher.start_before(*front, None)?,
                None => launcher.start(App::Bare)?,
            };
            measured.push(load(&server, *requests, effort).await?);
        }
    }
    let at = |measured: &[Measured], part| {
        median(measured.iter().map(|measured| measured.percentile(part).as_secs_f64() * 1e6).collect())
    };
    let title =
        format!("One client, one request after the other, in microseconds; {rounds} rounds of {measured:?}, medians");
    let mut table = Table::new(title, &["", "p50", "added", "p99", "added"]);
    for ((name, ..), measured) in ALONE.iter().zip(&all) {
        let cells = [0.5, 0.99].map(|part| (at(measured, part), at(measured, part) - at(&all[0], part)));
        let cells = cells.into_iter().flat_map(|(whole, added)| [format!("{whole:.0}"), format!("{added:.0}")]);
        table.line([(*name).to_owned()].into_iter().chain(cells));
    }
    Ok(table)
}

// ---- Memory --------------------------------------------------------------------------------------------

const KEYS: u64 = 1_000_000;
/// Beside what the cache may take.
const MEMORY_MAX: u64 = 64 << 20;

/// The gateway's memory over many keys in PostgreSQL.
async fn memory(launcher: &Launcher, quick: bool) -> Result<Table> {
    let keys = if quick { 2_000 } else { KEYS };
    let cluster = Cluster::start("max_wal_size = 16GB");
    let server = launcher.start_before(Front::Postgres, Some(cluster.url("postgres")))?;
    let mut seen = vec![server.memory()?];
    distinct_keys(&server, CLIENTS, keys, keys / 10, || {
        seen.push(server.memory()?);
        Ok(())
    })
    .await?;
    let limit = MEMORY_MAX + Limits::default().cache_bytes_max;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let title = format!(
        "Resident memory of the gateway over {keys} keys on PostgreSQL, in MiB; the limit is 64 beside the cache's {:.0}",
        mib(Limits::default().cache_bytes_max)
    );
    let mut table = Table::new(title, &["", "at start", "10 %", "20 %", "50 %", "100 %", "limit"]);
    let cells = [0, 1, 2, 5, 10].map(|at| format!("{:.0}", mib(seen[at])));
    table.line(["the gateway".to_owned()].into_iter().chain(cells).chain([format!("{:.0}", mib(limit))]));
    if seen[10] > limit {
        return Err(format!("{table}\nthat is over the limit").into());
    }
    Ok(table)
}
