//! The PostgreSQL store passes the conformance suite, directly and behind PgBouncer in transaction mode: all cases on one
//! server, each in a schema of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::conformance::Harness;
use keylatch::conformance::atomic::AtomicHarness;
use keylatch::conformance::outbox::{OutboxHarness, Part};
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::postgres::sqlx::{AssertSqlSafe, PgPool, query, query_scalar, raw_sql};
use keylatch::postgres::{Loaned, Options, Store};
use keylatch::store::{self, Applied, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, RecordId, Scope};
use testing_support::postgres::Cluster;
use testing_support::postgres::bouncer::Bouncer;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(""))
}

/// Fewer connections than the stores of a case may need.
fn bouncer() -> &'static Bouncer {
    static BOUNCER: OnceLock<Bouncer> = OnceLock::new();
    BOUNCER.get_or_init(|| Bouncer::start(cluster(), 8))
}

/// How a store reaches the server.
#[derive(Debug, Clone, Copy)]
enum Way {
    Directly,
    BehindPgBouncer,
}

struct Postgres {
    way: Way,
    store: Store,
    /// For statements that the store would not send.
    pool: PgPool,
    schema: String,
}

impl Postgres {
    async fn new(way: Way) -> Self {
        static CASES: AtomicU32 = AtomicU32::new(0);
        let schema = format!("case_{}", CASES.fetch_add(1, Ordering::Relaxed));
        let store = open(way, &schema).await;
        let pool = PgPool::connect(&cluster().url("postgres")).await.expect("the server is there");
        // The clock of all processes on this schema. It stands still.
        let clock = format!(
            "CREATE TABLE {schema}.still (now_ms bigint); INSERT INTO {schema}.still VALUES (1700000000000); \
             CREATE OR REPLACE FUNCTION {schema}.clock() RETURNS bigint LANGUAGE sql VOLATILE AS \
             'SELECT now_ms FROM {schema}.still'"
        );
        raw_sql(AssertSqlSafe(clock)).execute(&pool).await.expect("the clock is replaced");
        Self { way, store, pool, schema }
    }
}

async fn open(way: Way, schema: &str) -> Store {
    let options = Options::default().with_schema(schema).with_connections_max(10);
    let (url, options) = tokio::task::spawn_blocking(move || match way {
        Way::Directly => (cluster().url("postgres"), options),
        Way::BehindPgBouncer => (bouncer().url("postgres"), options.with_transaction_pooling()),
    })
    .await
    .expect("the servers start");
    Store::connect_with(&url, options).await.expect("the store opens")
}

impl Harness for Postgres {
    fn store(&self) -> Arc<dyn store::Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        Box::pin(async { Arc::new(open(self.way, &self.schema).await) as Arc<dyn store::Store> })
    }

    /// A process's own state ends with its connections. What the server keeps of it is tested by killing processes.
    fn restart(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        self.connect()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let sql = format!("UPDATE {}.still SET now_ms = now_ms + $1", self.schema);
            let by = i64::try_from(by.as_millis()).expect("a test waits less than for ever");
            query(AssertSqlSafe(sql)).bind(by).execute(&self.pool).await.expect("the clock moves");
        })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let sql = format!(
                "BEGIN; DELETE FROM {schema}.record WHERE id = '\\x{to}'; \
                 CREATE TEMP TABLE moved ON COMMIT DROP AS SELECT * FROM {schema}.record WHERE id = '\\x{from}'; \
                 UPDATE moved SET id = '\\x{to}'; INSERT INTO {schema}.record SELECT * FROM moved; COMMIT",
                schema = self.schema
            );
            raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.expect("the record is copied");
        })
    }
}

impl Postgres {
    async fn with_effects(way: Way) -> Self {
        let case = Self::new(way).await;
        let create = format!("CREATE TABLE {}.effect (text text NOT NULL)", case.schema);
        raw_sql(AssertSqlSafe(create)).execute(&case.pool).await.expect("the table is made");
        case
    }
}

impl AtomicHarness for Postgres {
    type Store = Store;

    fn transactional(&self) -> Store {
        self.store.clone()
    }

    fn connect_transactional(&self) -> BoxFuture<'_, Store> {
        Box::pin(open(self.way, &self.schema))
    }

    fn table(&self) -> String {
        format!("{}.effect", self.schema)
    }

    fn write(tx: &mut Loaned, table: String, effect: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let insert = format!("INSERT INTO {table} (text) VALUES ('{effect}')");
            raw_sql(AssertSqlSafe(insert)).execute(&mut **tx).await.map(drop).map_err(|error| error.to_string())
        })
    }

    fn fail(tx: &mut Loaned) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(raw_sql("SELECT 1 / 0").execute(&mut **tx).await.expect_err("nothing is divided by 0")) })
    }

    fn end(tx: &mut Loaned) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(raw_sql("COMMIT").execute(&mut **tx).await) })
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async {
            let select = format!("SELECT text FROM {}.effect ORDER BY text", self.schema);
            query_scalar(AssertSqlSafe(select)).fetch_all(&self.pool).await.expect("the effects are read")
        })
    }
}

impl OutboxHarness for Postgres {
    fn damage(&self, seq: u64, part: Part, stored: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let column = match part {
                Part::Id => "id",
                Part::Headers => "headers",
            };
            let update = format!("UPDATE {}.event SET {column} = $2 WHERE seq = $1", self.schema);
            let update = query(AssertSqlSafe(update)).bind(seq.cast_signed()).bind(stored);
            assert_eq!(update.execute(&self.pool).await.expect("the event is changed").rows_affected(), 1);
        })
    }
}

/// Each batch holds a connection only while there is work: with a single connection, everyone has their turn.
#[tokio::test]
async fn one_connection_is_enough() {
    let url = tokio::task::spawn_blocking(|| cluster().url("postgres")).await.expect("the cluster starts");
    let options = Options::default().with_schema("one_connection").with_connections_max(1);
    let store = Store::connect_with(&url, options).await.expect("the store opens");
    for key in 0..20 {
        let (scope, key) = (Scope::new("user").unwrap(), Key::new(&key.to_string()).unwrap());
        let fingerprint = Fingerprint::of([b"request".as_slice()]);
        let claim = Claim::new(scope, key, fingerprint, Guarantee::Fenced, &Policy::default());
        let Claimed::Won(record) = store.claim(claim).await.unwrap().value else { panic!("it is free") };
        let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
        assert!(matches!(store.complete(record.lease(), completion).await.unwrap(), Applied::Applied(_)));
        assert!(store.read(record.id()).await.unwrap().value.is_some());
    }
}

mod directly {
    use super::{Postgres, Way};

    keylatch::conformance!(Postgres::new(Way::Directly).await);

    mod atomic {
        use super::{Postgres, Way};

        keylatch::conformance_atomic!(Postgres::with_effects(Way::Directly).await);
    }

    mod outbox {
        use super::{Postgres, Way};

        keylatch::conformance_outbox!(Postgres::with_effects(Way::Directly).await);
    }

    mod inbox {
        use super::{Postgres, Way};

        keylatch::conformance_inbox!(Postgres::with_effects(Way::Directly).await);
    }
}

mod behind_pgbouncer {
    use super::{Postgres, Way};

    keylatch::conformance!(Postgres::new(Way::BehindPgBouncer).await);

    mod atomic {
        use super::{Postgres, Way};

        keylatch::conformance_atomic!(Postgres::with_effects(Way::BehindPgBouncer).await);
    }

    mod outbox {
        use super::{Postgres, Way};

        keylatch::conformance_outbox!(Postgres::with_effects(Way::BehindPgBouncer).await);
    }

    mod inbox {
        use super::{Postgres, Way};

        keylatch::conformance_inbox!(Postgres::with_effects(Way::BehindPgBouncer).await);
    }
}
