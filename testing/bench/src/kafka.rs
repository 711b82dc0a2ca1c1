//! Kafka: Keylatch's consumer beside a consumer that only polls, and beside the same writes without Kafka, in turns.
//!
//! The broker and PostgreSQL are on one core, and what is measured on the other.

mod consumers;
mod raw;
mod topic;

use std::path::Path;
use std::time::Duration;

use keylatch::postgres::sqlx::{self, Connection as _, PgConnection};
use testing_support::kafka;
use testing_support::postgres::Cluster;

use self::topic::Topic;
use crate::Result;
use crate::cores::{Cores, started_on};
use crate::report::{Table, median};

/// Messages that share a transaction.
const BATCH: usize = 500;
const ROUNDS: usize = 3;
const DATABASE: &str = "bench";
/// As for the other rows of PostgreSQL; and every statement is counted.
const CONFIG: &str = "shared_buffers = 1GB\nmax_wal_size = 16GB\ncheckpoint_timeout = 30min\nwal_compression = off\n\
                      shared_preload_libraries = 'pg_stat_statements'";

/// How messages are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// 500 in a transaction, with an insert each.
    Each,
    /// 500 in a transaction, with one insert.
    All,
    /// One in a transaction.
    Alone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    Postgres,
    Sqlite,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    title: &'static str,
    database: Database,
    mode: Mode,
    /// Whether messages have ids: each has a record then, and the row of an inbox in the raw writes.
    ids: bool,
    goal: f64,
}

const fn row(title: &'static str, database: Database, mode: Mode, ids: bool, goal: f64) -> Row {
    Row { title, database, mode, ids, goal }
}

const ROWS: [Row; 6] = [
    row("an insert each, with ids", Database::Postgres, Mode::Each, true, 0.7),
    row("an insert each, without ids", Database::Postgres, Mode::Each, false, 0.7),
    row("one insert for all, with ids", Database::Postgres, Mode::All, true, 0.6),
    row("one by one, without ids", Database::Postgres, Mode::Alone, false, 0.6),
    row("SQLite, an insert each, with ids", Database::Sqlite, Mode::Each, true, 0.6),
    row("SQLite, an insert each, without ids", Database::Sqlite, Mode::Each, false, 0.6),
];

/// Messages, and how long they took.
#[derive(Debug, Clone, Copy)]
struct Applied {
    messages: usize,
    time: Duration,
    /// All messages, with those before the clock was started.
    in_all: usize,
}

impl Applied {
    fn rate(self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }
}

/// What a row came to.
#[derive(Debug, Clone, Copy)]
struct Made {
    polled: Applied,
    raw: Applied,
    ours: Applied,
    /// What PostgreSQL did in the raw writes, and in ours.
    raw_work: Work,
    work: Work,
}

/// Measures each row whose title begins with `titles`.
pub(crate) async fn measure(cores: Cores, scratch: &Path, titles: &str, quick: bool) -> Result<Table> {
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| row.title.starts_with(titles)).collect();
    let brokers = started_on(cores.server, || kafka::Cluster::start(1))?;
    let cluster = started_on(cores.server, || Cluster::start(CONFIG))?;
    cluster.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
    let url = cluster.url(DATABASE);
    let (rounds, messages, alone) = if quick { (1, 2_000, 200) } else { (ROUNDS, 100_000, 5_000) };
    let topics = [
        Topic::filled(&brokers.servers(), "without-ids", messages, false).await?,
        Topic::filled(&brokers.servers(), "with-ids", messages, true).await?,
    ];
    let mut counter = Counter::new(&url).await?;
    let mut made: Vec<Vec<Made>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (row, made) in rows.iter().zip(&mut made) {
            eprintln!("round {round} of {rounds}: {}", row.title);
            let topic = &topics[usize::from(row.ids)];
            let count = if row.mode == Mode::Alone { alone } else { messages };
            let dir = tempfile::TempDir::new_in(scratch)?;
            let polled = topic.poll_and_drop(messages).await?;
            counter.since().await?;
            let raw = match row.database {
                Database::Postgres => raw::postgres(*row, &url, count).await?,
                Database::Sqlite => raw::sqlite(*row, &dir.path().join("raw.db"), count)?,
            };
            let raw_work = counter.since().await?;
            let ours = match row.database {
                Database::Postgres => consumers::postgres(*row, &url, topic, count).await?,
                Database::Sqlite => consumers::sqlite(*row, &dir.path().join("ours.db"), topic, count).await?,
            };
            made.push(Made { polled, raw, ours, raw_work, work: counter.since().await? });
        }
    }
    let title = format!("A consumer in batches of {BATCH}; {rounds} rounds of {messages} messages, medians");
    Ok(table(title, &rows, &made))
}

fn table(title: String, rows: &[Row], made: &[Vec<Made>]) -> Table {
    let columns = [
        "",
        "ratio",
        "reach",
        "messages/s",
        "raw writes/s",
        "poll and drop/s",
        "statements/message",
        "raw",
        "WAL bytes/message",
        "raw",
    ];
    let mut table = Table::new(title, &columns);
    for (row, made) in rows.iter().zip(made) {
        let of = |figure: &dyn Fn(&Made) -> f64| median(made.iter().map(figure).collect());
        let work = |figure: &dyn Fn(&Made) -> f64, digits: usize| match row.database {
            Database::Postgres => format!("{:.digits$}", of(figure)),
            Database::Sqlite => String::new(),
        };
        table.line([
            row.title.to_owned(),
            format!("{:.2}", of(&|made| made.ours.rate() / made.raw.rate().min(made.polled.rate()))),
            format!("{:.2}", row.goal),
            format!("{:.0}", of(&|made| made.ours.rate())),
            format!("{:.0}", of(&|made| made.raw.rate())),
            format!("{:.0}", of(&|made| made.polled.rate())),
            work(&|made| made.work.statements / made.ours.in_all as f64, 2),
            work(&|made| made.raw_work.statements / made.raw.in_all as f64, 2),
            work(&|made| made.work.wal_bytes / made.ours.in_all as f64, 0),
            work(&|made| made.raw_work.wal_bytes / made.raw.in_all as f64, 0),
        ]);
    }
    table
}

/// Statements, and bytes of the write-ahead log.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    statements: f64,
    wal_bytes: f64,
}

/// Counts what the server does.
struct Counter {
    connection: PgConnection,
    before: Work,
}

impl Counter {
    async fn new(url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql("CREATE EXTENSION pg_stat_statements").execute(&mut connection).await?;
        Ok(Self { connection, before: Work::default() })
    }

    /// What it did since the last call.
    async fn since(&mut self) -> Result<Work> {
        let sql =
            "SELECT sum(calls)::float8, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 FROM pg_stat_statements";
        let (statements, wal_bytes): (f64, f64) = sqlx::query_as(sql).fetch_one(&mut self.connection).await?;
        let now = Work { statements, wal_bytes };
        let before = std::mem::replace(&mut self.before, now);
        Ok(Work { statements: statements - before.statements, wal_bytes: wal_bytes - before.wal_bytes })
    }
}
