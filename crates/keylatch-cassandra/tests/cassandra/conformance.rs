//! The conformance suite, on one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::cassandra::{Options, Store};
use keylatch::conformance::Harness;
use keylatch::{Clock, RecordId, Timestamp, store};
use testing_support::cassandra::Cluster;

use crate::one_node::{as_store, node, on_one_node};
use crate::support::connect;

/// How many cases share a keyspace. Where nothing ends by itself, a sweep reads the records of all of them.
const CASES_IN_A_KEYSPACE: usize = 32;

pub(crate) struct Cassandra {
    cluster: &'static Cluster,
    keyspace: String,
    prefix: String,
    options: Options,
    clock: Clock,
    store: Store,
}

impl Cassandra {
    pub(crate) async fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let case = NEXT.fetch_add(1, Ordering::Relaxed);
        let keyspace = format!("conformance_{}", case / CASES_IN_A_KEYSPACE);
        let cluster = node(&keyspace).await;
        // It stands still. Nothing ends by itself, so the machine decides by this clock alone. What Cassandra removes
        // is tested in `expiry`.
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let prefix = format!("case-{case}-");
        let options = on_one_node().with_prefix(&prefix).with_clock(clock.clone());
        let store = connect(cluster, &keyspace, options.clone()).await;
        Self { cluster, keyspace, prefix, options, clock, store }
    }

    /// Sets this case's rows apart from those of all others.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A store as another process would have it.
    pub(crate) async fn process(&self) -> Store {
        connect(self.cluster, &self.keyspace, self.options.clone()).await
    }

    fn row(&self, id: RecordId) -> Vec<u8> {
        [self.prefix.as_bytes(), id.as_bytes()].concat()
    }
}

/// The columns of a record's row.
type Columns = (Option<i64>, Option<Vec<u8>>, Option<i64>, Option<Vec<u8>>, Option<Vec<u8>>);

impl Harness for Cassandra {
    fn store(&self) -> Arc<dyn store::Store> {
        as_store(&self.store)
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        Box::pin(async { as_store(&self.process().await) })
    }

    /// A process's own state ends with its connections. What nodes keep is tested by killing them.
    fn restart(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        self.connect()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (session, keyspace) = (self.cluster.session().await, &self.keyspace);
            let read = format!("SELECT epoch, owner, revision, record, outcome FROM {keyspace}.record WHERE id = ?");
            let found = session.query_unpaged(read, (self.row(from),)).await.expect("a row can be read");
            let found = found.into_rows_result().expect("a read has rows");
            let (epoch, owner, revision, record, outcome) = found.first_row::<Columns>().expect("there is a record");
            let write = format!(
                "UPDATE {keyspace}.record SET epoch = ?, owner = ?, revision = ?, record = ?, outcome = ? WHERE id = ?"
            );
            let values = (epoch, owner, revision, record, outcome, self.row(to));
            session.query_unpaged(write, values).await.expect("a row can be written");
            // The entry by which the damaged row is found.
            let name = format!("INSERT INTO {keyspace}.by_scope (scope, bucket, key, at) VALUES (?, ?, ?, 0)");
            let scope = [self.prefix.as_bytes(), &to.as_bytes()[..16]].concat();
            let key = &to.as_bytes()[16..];
            session.query_unpaged(name, (scope, i32::from(key[1]) % 16, key)).await.expect("a row can be written");
        })
    }
}

keylatch::conformance!(Cassandra::new().await);
