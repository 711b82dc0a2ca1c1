//! 64 clients at once: the gain from sharing a commit, and the latency.

use std::time::Duration;

use crate::Result;
use crate::app::App;
use crate::load::{Effort, Measured, Requests, load};
use crate::report::{Table, median};
use crate::server::Launcher;

const ROWS: [(&str, App); 3] = [
    ("SQLite Atomic, first", App::SqliteAtomic),
    ("SQLite leases, first", App::SqliteLease),
    ("one commit for each request", App::SqliteCommitEach),
];

const CLIENTS: usize = 64;
const ROUNDS: usize = 3;

/// Measures the rows in turns, each long enough for several checkpoints of SQLite.
pub(crate) async fn measure(launcher: &Launcher, quick: bool) -> Result<Table> {
    let (rounds, warm_up, measured) = if quick { (1, 50, 500) } else { (ROUNDS, 500, 6_000) };
    let (warm_up, measured) = (Duration::from_millis(warm_up), Duration::from_millis(measured));
    let effort = Effort { clients: CLIENTS, warm_up, measured };
    let mut rows: Vec<Vec<Measured>> = ROWS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, app), row) in ROWS.iter().zip(&mut rows) {
            row.push(load(&launcher.start(*app)?, Requests::First, effort).await?);
        }
    }
    let rate = |row: &[Measured]| median(row.iter().map(|measured| measured.rate).collect());
    let one_each = rows.last().map_or(f64::NAN, |row| rate(row));
    let title = format!(
        "{CLIENTS} connections, {rounds} rounds of {measured:?}, medians; goals: 5 times the rate, p99/p50 under 20"
    );
    let mut table = Table::new(title, &["", "requests/s", "times the rate", "p50 ms", "p99 ms", "p99/p50", "max ms"]);
    for ((name, _), row) in ROWS.iter().zip(&rows) {
        let at = |part| median(row.iter().map(|measured| measured.percentile(part).as_secs_f64() * 1e3).collect());
        let tails = row.iter().map(|row| row.percentile(0.99).as_secs_f64() / row.percentile(0.5).as_secs_f64());
        table.line([
            (*name).to_owned(),
            format!("{:.0}", rate(row)),
            format!("{:.1}", rate(row) / one_each),
            format!("{:.2}", at(0.5)),
            format!("{:.2}", at(0.99)),
            format!("{:.1}", median(tails.collect())),
            format!("{:.1}", row.iter().map(|row| row.longest().as_secs_f64() * 1e3).fold(0.0, f64::max)),
        ]);
    }
    Ok(table)
}
