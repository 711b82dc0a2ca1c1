//! Keys that came and went: what is left of them on the disk, and how long it takes to read past it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use keylatch::cassandra::{Options, Store, Survives};
use keylatch::store::{Inspect as _, PageRequest};
use keylatch::{Policy, Scope};
use scylla::client::session::Session;
use testing_support::cassandra::Cluster;
use testing_support::eventually;

use crate::Result;
use crate::cores::{Cores, started_on};
use crate::pair::{OPERATION, pair};
use crate::report::Table;

const KEYSPACE: &str = "gone";
const USER: &str = "everyone";
const AT_ONCE: u64 = 64;
const POLICY: Policy =
    Policy { lease: Duration::from_secs(30), retention: Duration::from_secs(1), tombstone: Duration::from_secs(1) };
/// How long columns stay: the tombstone, and what the store adds. Then how long the indexes keep tombstones.
const GONE_AFTER: Duration = Duration::from_secs(2 + 62 + 60);
/// A node that has started looks for something to compact after five minutes, or when it has written a table to the disk.
const COMPACTED_MAX: Duration = Duration::from_secs(420);
const COMMIT_LOG_SYNCED: Duration = Duration::from_secs(2);
/// As if the ten days were over for which tombstones are kept, and the day after which Cassandra looks for them.
const TEN_DAYS_LATER: &str = "ALTER TABLE gone.record WITH gc_grace_seconds = 0 AND compaction = {'class': \
     'LeveledCompactionStrategy', 'tombstone_compaction_interval': '1', 'unchecked_tombstone_compaction': 'true'}";
const TABLES: [(&str, &str); 4] =
    [(KEYSPACE, "record"), (KEYSPACE, "running"), (KEYSPACE, "by_scope"), ("system", "paxos")];

/// Runs so many keys through the store, one run each, and looks at the tables.
pub(super) async fn measure(cores: Cores, keys: u64) -> Result<Vec<Table>> {
    let cluster = started_on(cores.server, || Cluster::start(1))?;
    cluster.make_keyspace(KEYSPACE, &[("dc1", 1)]).await;
    let options = Options::default().with_migration().with_survives(Survives::Nothing);
    let store = Store::connect_with(&cluster.url(KEYSPACE), options.clone()).await?;
    let begun = Instant::now();
    come_and_go(&store, keys).await?;
    let title = format!(
        "Cassandra 5.0.9, one node: {keys} keys of one scope came and went in {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    drop(store);
    let columns =
        ["", "record MiB", "running MiB", "by_scope MiB", "paxos MiB", "records", "list ms", "lapsed ms", "count ms"];
    let mut table = Table::new(title, &columns);
    for when in ["after the last", "all ended", "ten days later"] {
        match when {
            "all ended" => tokio::time::sleep(GONE_AFTER).await,
            "ten days later" => {
                cluster.session().await.query_unpaged(TEN_DAYS_LATER, ()).await?;
                // Something that it writes to the disk when it starts.
                let store = Store::connect_with(&cluster.url(KEYSPACE), options.clone()).await?;
                pair(&store, USER, keys, &POLICY).await?;
            }
            _ => {}
        }
        // What it has in memory is on the disk then, up to the last sync of its log.
        tokio::time::sleep(COMMIT_LOG_SYNCED).await;
        cluster.start_again(0);
        let session = cluster.session().await;
        if when == "ten days later" {
            let is_empty = async || mebibytes(&session, TABLES[0]).await.is_ok_and(|size| size == 0);
            eventually(COMPACTED_MAX, "the table is compacted", is_empty).await;
        }
        let store = Store::connect_with(&cluster.url(KEYSPACE), options.clone()).await?;
        let line = line(when, &session, &store).await?;
        eprintln!("{}", line.join(", "));
        table.line(line);
    }
    Ok(vec![table])
}

async fn come_and_go(store: &Store, keys: u64) -> Result<()> {
    let (next, begun) = (Cell::new(0), Instant::now());
    let one = async || {
        while next.get() < keys {
            let number = next.replace(next.get() + 1);
            pair(store, USER, number, &POLICY).await?;
            if (number + 1) % (keys / 20).max(1) == 0 {
                eprintln!("{} of {keys} keys in {:.0?}", number + 1, begun.elapsed());
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    try_join_all((0..AT_ONCE).map(|_| one())).await.map(drop)
}

async fn line(when: &str, session: &Session, store: &Store) -> Result<Vec<String>> {
    let mut line = vec![when.to_owned()];
    for table in TABLES {
        line.push(mebibytes(session, table).await?.to_string());
    }
    let (begun, mut records, mut page) = (Instant::now(), 0, PageRequest { limit: 100, ..PageRequest::default() });
    loop {
        let found = store.list(page.clone()).await?.value;
        records += found.records.len();
        page.after = found.next;
        if page.after.is_none() {
            break;
        }
    }
    let listed = begun.elapsed();
    let begun = Instant::now();
    store.lapsed(None, 100).await?;
    let lapsed = begun.elapsed();
    let begun = Instant::now();
    store.count(Scope::new(USER)?.for_operation(OPERATION)?, 1_000).await?;
    let counted = begun.elapsed();
    line.push(records.to_string());
    line.extend([listed, lapsed, counted].map(|took| took.as_millis().to_string()));
    Ok(line)
}

/// How much of the disk a table takes.
async fn mebibytes(session: &Session, (keyspace, table): (&str, &str)) -> Result<i64> {
    let read = "SELECT mebibytes FROM system_views.disk_usage WHERE keyspace_name = ? AND table_name = ?";
    let rows = session.query_unpaged(read, (keyspace, table)).await?.into_rows_result()?;
    Ok(rows.first_row::<(i64,)>()?.0)
}
