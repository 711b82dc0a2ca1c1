//! The memory of records, what a pair adds to the append-only file, and what is left of keys that come and go.

use std::time::{Duration, Instant};

use keylatch::redis::Store;
use keylatch::{Lease, Policy};
use parking_lot::Mutex;
use testing_support::redis::Server;
use tokio::time::sleep;

use super::IN_FLIGHT;
use crate::Result;
use crate::connection::ORDER;
use crate::load::in_flight;
use crate::pair::{claim, complete, pair};
use crate::report::Table;

/// How long the server may take until it has removed what has expired.
const REMOVED_MAX: Duration = Duration::from_secs(300);

/// How much is done.
struct Effort {
    /// So few that the append-only file is not rewritten meanwhile.
    records: usize,
    /// Keys that come and go, and how long they stay: longer than it takes to write them all.
    passing: usize,
    stay: Duration,
}

/// Measures it on a server without other keys.
pub(super) async fn measure(server: &Server, quick: bool) -> Result<Table> {
    let effort = if quick {
        Effort { records: 2_000, passing: 2_000, stay: Duration::from_secs(1) }
    } else {
        Effort { records: 50_000, passing: 1_000_000, stay: Duration::from_secs(60) }
    };
    let store = Store::connect(&server.url()).await?;
    let policy = Policy::default();
    pair(&store, "warm-up", 0, &policy).await?;

    let (empty, file) = (memory(server)?, file_bytes(server)?);
    let leases: Mutex<Vec<Lease>> = Mutex::default();
    in_flight(IN_FLIGHT, effort.records, async |number| {
        let lease = claim(&store, "space", number as u64, &policy).await?;
        leases.lock().push(lease);
        Ok(())
    })
    .await?;
    let running = memory(server)?;
    let leases = leases.into_inner();
    in_flight(IN_FLIGHT, leases.len(), async |number| complete(&store, leases[number], &policy).await).await?;
    let (completed, file) = (memory(server)?, file_bytes(server)?.saturating_sub(file));
    let each = |bytes: u64| format!("{:.0}", bytes as f64 / effort.records as f64);

    let policy = Policy { retention: effort.stay, tombstone: Duration::ZERO, ..Policy::default() };
    in_flight(IN_FLIGHT, effort.passing, |number| pair(&store, "passing", number as u64, &policy)).await?;
    let most = memory(server)?;
    let written = Instant::now();
    while keys(server)? > u64::try_from(effort.records)? + 10 {
        if written.elapsed() > effort.stay + REMOVED_MAX {
            return Err("Redis does not remove what has expired".into());
        }
        sleep(Duration::from_millis(100)).await;
    }
    let (gone, left) = (written.elapsed(), memory(server)?);

    let mut table = Table::new(format!("Space in Redis, answers of {} bytes", ORDER.len()), &["", "bytes"]);
    let mut line = |name: String, bytes: String| table.line([name, bytes]);
    line("a running record, in memory".to_owned(), each(running.saturating_sub(empty)));
    line("a completed record, in memory".to_owned(), each(completed.saturating_sub(empty)));
    line("a pair, in the append-only file".to_owned(), each(file));
    line(format!("memory before {} keys", effort.passing), completed.to_string());
    line("memory with all of them".to_owned(), most.to_string());
    line(format!("memory once they are gone, {} s later", gone.as_secs()), left.to_string());
    Ok(table)
}

fn memory(server: &Server) -> Result<u64> {
    field(server, "INFO memory", "used_memory:")
}

/// The size of the append-only file.
fn file_bytes(server: &Server) -> Result<u64> {
    field(server, "INFO persistence", "aof_current_size:")
}

fn field(server: &Server, command: &str, name: &str) -> Result<u64> {
    let info = server.ask(command);
    let found =
        info.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name} in {command}"))?;
    Ok(found.trim().parse()?)
}

fn keys(server: &Server) -> Result<u64> {
    Ok(server.ask("DBSIZE").trim().trim_start_matches(':').parse()?)
}
