//! Ratios to the same service without the layer.

use std::time::Duration;

use crate::Result;
use crate::app::App;
use crate::load::{Effort, Measured, Requests, load};
use crate::report::{Table, median};
use crate::server::Launcher;

/// One comparison.
struct Row {
    title: &'static str,
    app: App,
    requests: Requests,
    /// The ratio to reach, and the ratio to aim at.
    goal: Option<(f64, f64)>,
}

const ROWS: [Row; 12] = [
    Row { title: "memory, first", app: App::Memory, requests: Requests::First, goal: Some((0.74, 0.80)) },
    Row { title: "memory, replay", app: App::Memory, requests: Requests::Replay, goal: Some((0.92, 1.0)) },
    Row { title: "the least layer, first", app: App::Least, requests: Requests::First, goal: None },
    Row { title: "the least layer, replay", app: App::Least, requests: Requests::Replay, goal: None },
    Row { title: "SQLite leases, first", app: App::SqliteLease, requests: Requests::First, goal: Some((0.14, 0.20)) },
    Row { title: "SQLite leases, replay", app: App::SqliteLease, requests: Requests::Replay, goal: Some((0.90, 1.0)) },
    Row { title: "SQLite Atomic, first", app: App::SqliteAtomic, requests: Requests::First, goal: Some((0.17, 0.20)) },
    Row { title: "SQLite Atomic, replay", app: App::SqliteAtomic, requests: Requests::Replay, goal: Some((0.90, 1.0)) },
    Row { title: "Redis, first", app: App::Redis, requests: Requests::First, goal: Some((0.42, 0.50)) },
    Row { title: "Redis, replay", app: App::Redis, requests: Requests::Replay, goal: Some((0.85, 1.0)) },
    Row {
        title: "Redis, replay from Redis",
        app: App::RedisAlone,
        requests: Requests::Replay,
        goal: Some((0.50, 0.60)),
    },
    Row { title: "the order alone, no record", app: App::SqliteOrder, requests: Requests::First, goal: None },
];

/// How often each comparison is repeated; the median counts.
const ROUNDS: usize = 3;
const CLIENTS: usize = 50;

/// Measures each row whose title begins with `titles`, and the bare service, in turns.
pub(crate) async fn measure(launcher: &Launcher, titles: &str, quick: bool) -> Result<Table> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.title.starts_with(titles)).collect();
    let (rounds, warm_up, measured) = if quick { (1, 20, 100) } else { (ROUNDS, 500, 3_000) };
    let (warm_up, measured) = (Duration::from_millis(warm_up), Duration::from_millis(measured));
    let effort = Effort { clients: CLIENTS, warm_up, measured };
    let mut pairs: Vec<Vec<(Measured, Measured)>> = rows.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (row, pairs) in rows.iter().zip(&mut pairs) {
            let bare = load(&launcher.start(App::Bare)?, Requests::First, effort).await?;
            let with = load(&launcher.start(row.app)?, row.requests, effort).await?;
            pairs.push((bare, with));
        }
    }
    let title = format!("{CLIENTS} connections, {rounds} rounds of {measured:?}, medians");
    let columns = [
        "",
        "ratio",
        "reach",
        "aim",
        "of the rounds",
        "by CPU time",
        "requests/s",
        "bare/s",
        "server µs/request",
        "bare µs",
    ];
    let mut table = Table::new(title, &columns);
    for (row, pairs) in rows.iter().zip(&pairs) {
        table.line(row.line(pairs));
    }
    Ok(table)
}

impl Row {
    fn line(&self, pairs: &[(Measured, Measured)]) -> Vec<String> {
        let of = |value: fn(&(Measured, Measured)) -> f64| pairs.iter().map(value).collect::<Vec<f64>>();
        let ratios = of(|(bare, with)| with.rate / bare.rate);
        let goal = |goal: Option<f64>| goal.map_or("".to_owned(), |goal| format!("{goal:.2}"));
        let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
        vec![
            self.title.to_owned(),
            format!("{:.3}", median(ratios)),
            goal(self.goal.map(|(reach, _)| reach)),
            goal(self.goal.map(|(_, aim)| aim)),
            all.join(" "),
            format!("{:.3}", median(of(|(bare, with)| bare.cpu.as_secs_f64() / with.cpu.as_secs_f64()))),
            format!("{:.0}", median(of(|(_, with)| with.rate))),
            format!("{:.0}", median(of(|(bare, _)| bare.rate))),
            format!("{:.1}", median(of(|(_, with)| with.cpu.as_secs_f64() * 1e6))),
            format!("{:.1}", median(of(|(bare, _)| bare.cpu.as_secs_f64() * 1e6))),
        ]
    }
}
