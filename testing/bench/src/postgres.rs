//! PostgreSQL: Keylatch and pgbench on the same server, in turns.
//!
//! The server is on one core, and the load (pgbench or Keylatch's engine) on the other.

mod contest;

use std::thread;
use std::time::Duration;

use keylatch::postgres::sqlx::{self, Connection as _, PgConnection};
use testing_support::postgres::Cluster;

use self::contest::{Arena, Contestant, DATABASE, Mode};
use crate::Result;
use crate::cores::{Cores, started_on};
use crate::report::{Table, median};

/// What is measured, and the earlier row that it is compared with.
struct Row {
    title: &'static str,
    clients: usize,
    contestant: Contestant,
    against: Option<(usize, f64)>,
}

const fn pgbench(title: &'static str, clients: usize, name: &'static str, script: &'static str) -> Row {
    Row { title, clients, contestant: Contestant::Pgbench { name, script }, against: None }
}

const fn ours(title: &'static str, clients: usize, contestant: Contestant, against: (usize, f64)) -> Row {
    Row { title, clients, contestant, against: Some(against) }
}

const INSERT_THEN_UPDATE: &str = include_str!("postgres/insert_then_update.sql");

const ROWS: [Row; 12] = [
    pgbench("pgbench: the same statements in a transaction", 16, "atomic", include_str!("postgres/atomic.sql")),
    ours("Atomic, an order each", 16, Contestant::First(Mode::Atomic), (0, 0.85)),
    pgbench("pgbench: the order alone in a transaction", 16, "order", include_str!("postgres/order.sql")),
    pgbench("pgbench: one insert", 64, "insert", include_str!("postgres/insert.sql")),
    pgbench("pgbench: insert, then update", 64, "insert_then_update", INSERT_THEN_UPDATE),
    ours("leases: claim, then complete", 64, Contestant::First(Mode::Leases), (4, 5.0)),
    pgbench("pgbench: insert, then update", 1, "insert_then_update", INSERT_THEN_UPDATE),
    // For latency: if a request may take n times as long, the rate may be 1/n.
    ours("leases: claim, then complete", 1, Contestant::First(Mode::Leases), (6, 1.0 / 1.3)),
    pgbench("pgbench: select by primary key", 16, "select", include_str!("postgres/select.sql")),
    ours("Atomic, replay from the record", 16, Contestant::Replay(Mode::Atomic), (8, 0.8)),
    ours("leases, replay from the record", 16, Contestant::Replay(Mode::Leases), (8, 0.8)),
    ours("Atomic, an order and an event each", 16, Contestant::First(Mode::AtomicWithEvent), (1, 0.85)),
];

/// The rows that are measured again on a full table.
const AGAIN: [usize; 4] = [1, 5, 9, 10];
const FULL_GOAL: f64 = 0.8;
const MILLIONS: u64 = 10;

const ROUNDS: usize = 3;
/// Besides fsync, which is on: memory for hot data, and checkpoints that do not burden one row more than another.
const CONFIG: &str = "shared_buffers = 1GB\nmax_wal_size = 16GB\ncheckpoint_timeout = 30min\nwal_compression = off";

/// Measures every row; or those whose title begins with `titles`, and the rows that they are compared with.
pub(crate) async fn measure(cores: Cores, titles: &str, quick: bool) -> Result<Vec<Table>> {
    let cluster = started_on(cores.server, || Cluster::start(CONFIG))?;
    let arena = Arena::new(&cluster, 20).await?;
    if !titles.is_empty() {
        let wanted = |at: &usize| {
            let compared =
                |row: &Row| row.title.starts_with(titles) && row.against.is_some_and(|(other, _)| other == *at);
            ROWS[*at].title.starts_with(titles) || ROWS.iter().any(compared)
        };
        let some: Vec<usize> = (0..ROWS.len()).filter(wanted).collect();
        let made = rounds(&arena, &some, quick).await?;
        return Ok(vec![beside_pgbench(&some, &made, quick)]);
    }
    let every: Vec<usize> = (0..ROWS.len()).collect();
    let empty = rounds(&arena, &every, quick).await?;
    let full = if quick {
        None
    } else {
        fill(&cluster).await?;
        Some(rounds(&arena, &AGAIN, quick).await?)
    };
    let mut tables = vec![beside_pgbench(&every, &empty, quick)];
    if let Some(full) = full {
        tables.push(on_a_full_table(&empty, &full));
    }
    Ok(tables)
}

/// The measurements of one row.
#[derive(Debug, Clone, Copy)]
struct Made {
    rate: f64,
    wal_bytes: f64,
    commits: f64,
}

/// Measures these rows in turns. Returns the medians of each.
async fn rounds(arena: &Arena<'_>, rows: &[usize], quick: bool) -> Result<Vec<Made>> {
    let (rounds, time) = if quick { (1, Duration::from_secs(1)) } else { (ROUNDS, Duration::from_secs(4)) };
    let mut made: Vec<Vec<Made>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (row, made) in rows.iter().map(|row| &ROWS[*row]).zip(&mut made) {
            eprintln!("round {round} of {rounds}: {}, {} clients", row.title, row.clients);
            let (wal, commits) = written(arena.cluster);
            let rate = arena.rate(row.contestant, row.clients, time).await?;
            let (wal_after, commits_after) = written(arena.cluster);
            let requests = rate * time.as_secs_f64();
            made.push(Made {
                rate,
                wal_bytes: (wal_after - wal) / requests,
                commits: (commits_after - commits) / requests,
            });
        }
    }
    let of = |all: &[Made], figure: fn(&Made) -> f64| median(all.iter().map(figure).collect());
    Ok(made
        .iter()
        .map(|all| Made {
            rate: of(all, |made| made.rate),
            wal_bytes: of(all, |made| made.wal_bytes),
            commits: of(all, |made| made.commits),
        })
        .collect())
}

/// Bytes of write-ahead log, and transactions, since the server was created.
fn written(cluster: &Cluster) -> (f64, f64) {
    // The counts of other sessions arrive within a second after these are idle.
    thread::sleep(Duration::from_millis(1_100));
    let sql = format!(
        "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, xact_commit FROM pg_stat_database WHERE datname = '{DATABASE}'"
    );
    let said = cluster.sql("postgres", &sql);
    let mut figures = said.split('|').map(|figure| figure.parse().unwrap_or(f64::NAN));
    (figures.next().unwrap_or(f64::NAN), figures.next().unwrap_or(f64::NAN))
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let mut connection = PgConnection::connect(&cluster.url(DATABASE)).await?;
    for million in 0..MILLIONS {
        eprintln!("filling the table: {million} of {MILLIONS} million records");
        let from = i64::try_from(million * 1_000_000 + 1)?;
        sqlx::query(include_str!("postgres/fill.sql")).bind(from).execute(&mut connection).await?;
    }
    for tidy in ["VACUUM ANALYZE keylatch.record", "CHECKPOINT"] {
        sqlx::raw_sql(tidy).execute(&mut connection).await?;
    }
    Ok(())
}

fn beside_pgbench(rows: &[usize], made: &[Made], quick: bool) -> Table {
    let title = format!(
        "PostgreSQL on one core, fsync on; pgbench, or Keylatch's engine without its cache, on the other; {} rounds, medians",
        if quick { 1 } else { ROUNDS }
    );
    let columns = ["", "clients", "requests/s", "ratio", "reach", "ms", "WAL bytes/request", "transactions/request"];
    let mut table = Table::new(title, &columns);
    let rate = |of: usize| rows.iter().zip(made).find(|(row, _)| **row == of).map_or(f64::NAN, |(_, made)| made.rate);
    for (row, own) in rows.iter().map(|row| &ROWS[*row]).zip(made) {
        let against = row.against.map(|(other, goal)| (own.rate / rate(other), goal));
        table.line([
            row.title.to_owned(),
            row.clients.to_string(),
            format!("{:.0}", own.rate),
            against.map_or(String::new(), |(ratio, _)| format!("{ratio:.2}")),
            against.map_or(String::new(), |(_, goal)| format!("{goal:.2}")),
            format!("{:.2}", row.clients as f64 * 1e3 / own.rate),
            format!("{:.0}", own.wal_bytes),
            format!("{:.2}", own.commits),
        ]);
    }
    table
}

fn on_a_full_table(empty: &[Made], full: &[Made]) -> Table {
    let title = format!("The same with {MILLIONS},000,000 more records in the table");
    let mut table = Table::new(title, &["", "clients", "requests/s", "of the rate before", "reach"]);
    for (at, own) in AGAIN.iter().zip(full) {
        let row = &ROWS[*at];
        table.line([
            row.title.to_owned(),
            row.clients.to_string(),
            format!("{:.0}", own.rate),
            format!("{:.2}", own.rate / empty[*at].rate),
            format!("{FULL_GOAL:.2}"),
        ]);
    }
    table
}
