//! The same service on Fastify with node-idempotency, beside the service with the layer: both with records in Redis.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::app::App;
use crate::load::{Effort, Measured, Requests, load};
use crate::report::{Table, median};
use crate::server::Launcher;

const REACH: f64 = 4.0;
const ROUNDS: usize = 3;
const CLIENTS: usize = 50;
const ROWS: [(&str, App, Requests); 3] = [
    ("first", App::Redis, Requests::First),
    ("replay", App::Redis, Requests::Replay),
    ("replay from Redis", App::RedisAlone, Requests::Replay),
];

pub(crate) async fn measure(launcher: &Launcher, quick: bool) -> Result<Table> {
    let (rounds, warm_up, measured) = if quick { (1, 20, 100) } else { (ROUNDS, 2_000, 3_000) };
    let (warm_up, measured) = (Duration::from_millis(warm_up), Duration::from_millis(measured));
    let effort = Effort { clients: CLIENTS, warm_up, measured };
    let installed = install(launcher.scratch())?;
    let mut pairs: [Vec<(Measured, Measured)>; ROWS.len()] = Default::default();
    for _ in 0..rounds {
        for ((_, app, requests), pairs) in ROWS.into_iter().zip(&mut pairs) {
            let theirs = load(&launcher.start_fastify(&installed)?, requests, effort).await?;
            pairs.push((theirs, load(&launcher.start(app)?, requests, effort).await?));
        }
    }
    let title = format!(
        "Beside Fastify with node-idempotency, records of both in Redis on the core of the load; {CLIENTS} connections, \
         {rounds} rounds of {measured:?}, medians"
    );
    let mut table = Table::new(title, &["", "times its rate", "reach", "of the rounds", "requests/s", "Fastify/s"]);
    for ((title, ..), pairs) in ROWS.iter().zip(&pairs) {
        let of = |value: fn(&(Measured, Measured)) -> f64| pairs.iter().map(value).collect::<Vec<f64>>();
        let times = of(|(theirs, ours)| ours.rate / theirs.rate);
        let rounds = times.iter().map(|times| format!("{times:.1}")).collect::<Vec<_>>().join(" ");
        table.line([
            format!("beside Fastify, {title}"),
            format!("{:.1}", median(times)),
            format!("{REACH:.1}"),
            rounds,
            format!("{:.0}", median(of(|(_, ours)| ours.rate))),
            format!("{:.0}", median(of(|(theirs, _)| theirs.rate))),
        ]);
    }
    Ok(table)
}

/// Installs it, with its packages from the npm registry, in a new directory.
fn install(scratch: &Path) -> Result<PathBuf> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fastify");
    let to = scratch.join("fastify");
    fs::create_dir(&to)?;
    for file in ["package.json", "package-lock.json", "server.mjs"] {
        fs::copy(from.join(file), to.join(file))?;
    }
    let npm =
        Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&to).stdin(Stdio::null()).output()?;
    if !npm.status.success() {
        return Err(format!("npm cannot install Fastify: {}", String::from_utf8_lossy(&npm.stderr)).into());
    }
    Ok(to)
}
