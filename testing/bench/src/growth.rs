//! The memory of a server while many distinct keys come and go.

use std::time::{Duration, Instant};

use crate::Result;
use crate::app::App;
use crate::load::distinct_keys;
use crate::report::Table;
use crate::server::Launcher;

const ROWS: [(&str, App); 2] = [("memory", App::Memory), ("SQLite Atomic", App::SqliteAtomic)];
const CLIENTS: usize = 50;
const KEYS: u64 = 1_000_000;
/// How long an answer is kept, and then its tombstone.
const KEPT: Duration = Duration::from_secs(1);
/// How much more memory may be used at the end than after half of the keys. It shows whether something is kept for each
/// key.
const GROWTH_MAX: f64 = 1.5;

/// Sends many keys, with short retention and a sweeper, and observes the memory.
pub(crate) async fn measure(launcher: &Launcher, quick: bool) -> Result<Table> {
    let keys = if quick { 2_000 } else { KEYS };
    let step = keys / 10;
    let title = format!(
        "Memory of the server over {keys} distinct keys in MiB; answers kept for {KEPT:?}, tombstones for {KEPT:?} more"
    );
    let mut table = Table::new(title, &["", "at start", "10 %", "20 %", "50 %", "100 %", "keys/s"]);
    for (name, app) in ROWS {
        let server = launcher.start_with(app, Some(KEPT))?;
        let mut seen = vec![server.memory()?];
        let started = Instant::now();
        distinct_keys(&server, CLIENTS, keys, step, || {
            seen.push(server.memory()?);
            Ok(())
        })
        .await?;
        let rate = keys as f64 / started.elapsed().as_secs_f64();
        let growth = seen[10] as f64 / seen[5] as f64;
        if !quick && growth > GROWTH_MAX {
            return Err(format!("{name}: {growth:.2} times the memory after twice the keys: {seen:?}").into());
        }
        let cells = [0, 1, 2, 5, 10].map(|at| format!("{:.0}", seen[at] as f64 / f64::from(1 << 20)));
        table.line([name.to_owned()].into_iter().chain(cells).chain([format!("{rate:.0}")]));
    }
    Ok(table)
}
