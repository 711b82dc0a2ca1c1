//! `keylatch stats`: how much there is.

use keylatch_admin::ops::{self, CountView, OutboxStats, StatsOf};

use super::args::Stats;
use super::failure::Failure;
use super::output::Output;
use super::table::{Cell, Paint};
use super::words::{instant, optional};

pub(super) async fn run(args: Stats, output: Output) -> Result<(), Failure> {
    let of = StatsOf { caller: args.scope, operation: args.operation };
    let stats = args.common.operator().await?.stats(of).await?;
    if output.json {
        return Ok(output.object(&stats)?);
    }
    let mut pairs = of_store(&stats);
    match &stats.outbox {
        Some(outbox) => pairs.extend(of_outbox(outbox)),
        None => pairs.push(("events", "this store has no outbox; PostgreSQL and SQLite have one".into())),
    }
    Ok(output.pairs(&pairs)?)
}

fn of_store(stats: &ops::Stats) -> Vec<(&'static str, Cell)> {
    let lapsed = |count: u64| count_of(CountView { count, at_least: stats.lapsed.at_least });
    let mut pairs = vec![
        ("store's clock (UTC)", instant(stats.store.now).into()),
        ("a write survives", survives(stats.store.durability).into()),
        ("unknown outcomes", alert(lapsed(stats.lapsed.unknown), stats.lapsed.unknown)),
        ("abandoned runs", lapsed(stats.lapsed.abandoned).into()),
    ];
    if let Some(records) = stats.records {
        pairs.push(("records of the scope", count_of(records).into()));
    }
    pairs
}

pub(super) fn of_outbox(outbox: &OutboxStats) -> Vec<(&'static str, Cell)> {
    vec![
        ("events that wait", count_of(outbox.waiting).into()),
        ("oldest of them (UTC)", optional(outbox.oldest_at).into()),
        ("events refused", alert(count_of(outbox.refused), outbox.refused.count)),
        ("events behind those", count_of(outbox.held).into()),
        ("events put aside", alert(count_of(outbox.set_aside), outbox.set_aside.count)),
    ]
}

/// What needs a person, if there is any.
fn alert(text: String, count: u64) -> Cell {
    Cell::from(text).painted(if count > 0 { Paint::Alert } else { Paint::Plain })
}

fn count_of(CountView { count, at_least }: CountView) -> String {
    if at_least { format!("{count} or more") } else { count.to_string() }
}

fn survives(durability: &str) -> &'static str {
    match durability {
        "disk" => "a crash of the machine",
        "replica" => "a crash of the process, and perhaps not one of the machine",
        _ => "nothing",
    }
}
