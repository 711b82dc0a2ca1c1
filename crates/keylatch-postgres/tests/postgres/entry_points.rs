//! Claims in transactions of different clients: sqlx, tokio-postgres and diesel. All must behave alike.

use std::time::Duration;

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use keylatch::machine::{self, Claim, Claimed, Completion, Decision};
use keylatch::postgres::sqlx::{self, Connection as _, PgConnection};
use keylatch::postgres::{InOwn, Options, OwnTx, Store};
use keylatch::store::{Applied, At, Error, ErrorKind, Store as _};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use testing_support::eventually;
use testing_support::postgres::proxy::{Break, Proxy};
use tokio::sync::{Notify, Semaphore};

use crate::support::{cluster, database, items, records, store, store_with};

/// A client of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Sqlx,
    TokioPostgres,
    Diesel,
}

const CLIENTS: [Client; 3] = [Client::Sqlx, Client::TokioPostgres, Client::Diesel];

/// What a transaction does.
#[derive(Default)]
struct Way<'a> {
    /// A statement before the claim.
    first: Option<&'a str>,
    /// Waits there after it has claimed the key.
    gate: Option<&'a Gate>,
    /// Completes in another transaction on the same connection.
    elsewhere: bool,
    rolls_back: bool,
}

struct Gate {
    reached: Notify,
    open: Semaphore,
}

/// The result of a transaction.
#[derive(Debug)]
enum Got {
    Ran(At<Record>),
    Held(At<Record>),
    Busy,
}

#[derive(Debug)]
enum Failed {
    Store(Error),
    /// A statement of the test's own failed.
    Statement,
    /// The commit failed, or its reply was lost.
    Commit,
    RolledBack,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<diesel::result::Error> for Failed {
    fn from(_: diesel::result::Error) -> Self {
        Self::Commit
    }
}

impl Failed {
    fn kind(&self) -> Option<ErrorKind> {
        if let Self::Store(error) = self { Some(error.kind()) } else { None }
    }
}

/// A client's transaction, in which the client can run its own statements.
trait Sql: OwnTx + Send {
    fn run(&mut self, sql: &str) -> impl Future<Output = Result<(), Failed>> + Send;
}

impl Sql for PgConnection {
    async fn run(&mut self, sql: &str) -> Result<(), Failed> {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(self).await;
        done.map(drop).map_err(|_| Failed::Statement)
    }
}

impl Sql for tokio_postgres::Transaction<'_> {
    async fn run(&mut self, sql: &str) -> Result<(), Failed> {
        self.batch_execute(sql).await.map_err(|_| Failed::Statement)
    }
}

impl Sql for AsyncPgConnection {
    async fn run(&mut self, sql: &str) -> Result<(), Failed> {
        self.batch_execute(sql).await.map_err(|_| Failed::Statement)
    }
}

/// What every client does between BEGIN and COMMIT.
async fn inside<T: Sql>(tx: &mut T, store: &Store, claim: &Claim, way: &Way<'_>) -> Result<Got, Failed> {
    if let Some(sql) = way.first {
        tx.run(sql).await?;
    }
    let entered = match store.claim_in(tx, claim).await? {
        InOwn::Entered(entered) => entered,
        InOwn::Held(held) => return Ok(Got::Held(held)),
        InOwn::Busy => return Ok(Got::Busy),
    };
    if let Some(gate) = way.gate {
        gate.reached.notify_one();
        gate.open.acquire().await.expect("it stays").forget();
    }
    tx.run(&format!("INSERT INTO item VALUES ('{}')", claim.key().as_str())).await?;
    if way.elsewhere {
        tx.run("ROLLBACK; BEGIN").await?;
    }
    let completion = Completion::new(Outcome::bytes("done ".repeat(1_000)), &Policy::default());
    let written = store.complete_in(tx, entered, completion).await?.expect("nobody else has it");
    if way.rolls_back { Err(Failed::RolledBack) } else { Ok(Got::Ran(written)) }
}

impl Client {
    /// One transaction on its own connection.
    async fn attempt(self, url: &str, store: &Store, claim: &Claim, way: Way<'_>) -> Result<Got, Failed> {
        match self {
            Self::Sqlx => {
                let mut conn = PgConnection::connect(url).await.unwrap();
                let mut tx = conn.begin().await.unwrap();
                let got = inside(&mut *tx, store, claim, &way).await?;
                tx.commit().await.map_err(|_| Failed::Commit)?;
                Ok(got)
            }
            Self::TokioPostgres => {
                let (mut client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
                drop(tokio::spawn(connection));
                let mut tx = client.transaction().await.unwrap();
                let got = inside(&mut tx, store, claim, &way).await?;
                tx.commit().await.map_err(|_| Failed::Commit)?;
                Ok(got)
            }
            Self::Diesel => {
                let mut conn = AsyncPgConnection::establish(url).await.unwrap();
                // If the connection has broken, diesel reports that the rollback failed, and not why it was needed.
                let mut kind = None;
                let work = async |conn: &mut AsyncPgConnection| {
                    let got = inside(conn, store, claim, &way).await;
                    kind = got.as_ref().err().and_then(Failed::kind);
                    got
                };
                let got = conn.transaction(work).await;
                got.map_err(|failed| kind.map_or(failed, |kind| Failed::Store(Error::new(kind, "in the transaction"))))
            }
        }
    }

    async fn runs(self, url: &str, store: &Store, claim: &Claim) -> Record {
        match self.attempt(url, store, claim, Way::default()).await.unwrap() {
            Got::Ran(written) => written.value,
            got => panic!("{self:?}: {got:?}"),
        }
    }
}

fn claim(key: &str, input: &str) -> Claim {
    let (scope, key) = (Scope::new("job é").unwrap(), Key::new(key).unwrap());
    Claim::new(scope, key, Fingerprint::of([input.as_bytes()]), Guarantee::Atomic, &Policy::default())
}

async fn place() -> (String, Store) {
    let database = database().await;
    (cluster().tcp_url(&database), store(&database).await)
}

/// Each client reads what the others write: the same record, and so the same answer, or none for another request.
#[tokio::test]
async fn a_record_is_the_same_for_every_client() {
    let (url, store) = place().await;
    for client in CLIENTS {
        let key = format!("{client:?}");
        let first = claim(&key, "input");
        let written = client.runs(&url, &store, &first).await;
        assert_eq!(store.read(first.id()).await.unwrap().value.as_ref(), Some(&written));
        for reader in CLIENTS {
            for (input, same) in [("input", true), ("other", false)] {
                let claim = claim(&key, input);
                let Got::Held(held) = reader.attempt(&url, &store, &claim, Way::default()).await.unwrap() else {
                    panic!("{reader:?} runs what {client:?} has done");
                };
                assert_eq!(held.value, written);
                match machine::decide(Some(&held.value), claim.fingerprint, held.now) {
                    Decision::Replay(outcome) => assert!(same && *outcome == Outcome::bytes("done ".repeat(1_000))),
                    decision => assert!(!same && decision == Decision::Mismatch),
                }
            }
        }
    }
    assert_eq!(items(&store).await, ["Diesel", "Sqlx", "TokioPostgres"]);
}

/// A running record with everything that a run can leave in it.
#[tokio::test]
async fn a_lease_is_the_same_for_every_client() {
    let (url, store) = place().await;
    let lease = Claim { guarantee: Guarantee::Fenced, ..claim("key", "input") };
    let Claimed::Won(mut record) = store.claim(lease.clone()).await.unwrap().value else { panic!("it is free") };
    for step in ["one", "two", "three"] {
        for client in CLIENTS {
            let asked = claim("key", "input");
            let Got::Held(held) = client.attempt(&url, &store, &asked, Way::default()).await.unwrap() else {
                panic!("{client:?} runs beside a lease");
            };
            assert_eq!(held.value, record, "{client:?}");
        }
        let step = Some((step.to_owned(), step.repeat(7).into()));
        let renewed = store.renew(record.lease(), lease.terms, step).await.unwrap();
        assert!(matches!(renewed, Applied::Applied(_)));
        record = store.read(lease.id()).await.unwrap().value.expect("it is there");
    }
}

#[tokio::test]
async fn a_rollback_leaves_nothing() {
    let (url, store) = place().await;
    for client in CLIENTS {
        let claim = claim(&format!("{client:?}"), "input");
        let way = Way { rolls_back: true, ..Way::default() };
        let failed = client.attempt(&url, &store, &claim, way).await.unwrap_err();
        assert!(matches!(failed, Failed::RolledBack), "{client:?}: {failed:?}");
    }
    assert_eq!((items(&store).await.len(), records(&store).await), (0, 0));
    for client in CLIENTS {
        client.runs(&url, &store, &claim(&format!("{client:?}"), "input")).await;
    }
    assert_eq!((items(&store).await.len(), records(&store).await), (3, 3));
}

/// While one client's transaction holds the key, the others are told so and do not wait.
#[tokio::test]
async fn a_key_in_use_is_busy_for_every_client() {
    let (url, store) = place().await;
    for client in CLIENTS {
        let gate = Gate { reached: Notify::new(), open: Semaphore::new(0) };
        let key = format!("{client:?}");
        let first = claim(&key, "input");
        let way = Way { gate: Some(&gate), ..Way::default() };
        let others = async {
            gate.reached.notified().await;
            for other in CLIENTS {
                let got = other.attempt(&url, &store, &claim(&key, "input"), Way::default()).await.unwrap();
                assert!(matches!(got, Got::Busy), "{other:?} beside {client:?}: {got:?}");
            }
            gate.open.add_permits(1);
        };
        let (got, ()) = tokio::join!(client.attempt(&url, &store, &first, way), others);
        assert!(matches!(got.unwrap(), Got::Ran(_)));
    }
}

/// A process that stops half-way holds the key only as long as a transaction may be idle.
#[tokio::test]
async fn a_caller_that_falls_silent_loses_the_key() {
    let database = database().await;
    let bounded = Options::default().with_handler_pause_max(Some(Duration::from_secs(2)));
    let (bounded, store) = (store_with(&database, bounded).await, store(&database).await);
    let url = cluster().tcp_url(&database);
    for client in CLIENTS {
        let gate = Gate { reached: Notify::new(), open: Semaphore::new(0) };
        let key = format!("{client:?}");
        let first = claim(&key, "input");
        let way = Way { gate: Some(&gate), ..Way::default() };
        let others = async {
            gate.reached.notified().await;
            let free = async || {
                let got = client.attempt(&url, &store, &claim(&key, "input"), Way::default()).await.unwrap();
                !matches!(got, Got::Busy)
            };
            eventually(Duration::from_secs(30), "the key to be free", free).await;
            gate.open.add_permits(1);
        };
        let (got, ()) = tokio::join!(client.attempt(&url, &bounded, &first, way), others);
        assert!(matches!(got, Err(Failed::Statement | Failed::Commit)), "{client:?}: {got:?}");
    }
    assert_eq!((items(&store).await.len(), records(&store).await), (3, 3));
}

/// A limit that the caller has set is kept.
#[tokio::test]
async fn a_callers_own_bound_stays() {
    let (_, store) = place().await;
    for (bound, expected) in [("0", "30s"), ("7s", "7s")] {
        let mut tx = store.pool().begin().await.unwrap();
        tx.run(&format!("SET LOCAL idle_in_transaction_session_timeout = '{bound}'")).await.unwrap();
        assert!(matches!(store.claim_in(&mut tx, &claim("key", "input")).await.unwrap(), InOwn::Entered(_)));
        let sql = "SHOW idle_in_transaction_session_timeout";
        let there: String = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(there, expected);
        tx.rollback().await.unwrap();
    }
}

/// The commit or its reply was lost: a new claim finds out which.
#[tokio::test]
async fn a_lost_commit_is_settled_by_a_claim() {
    let database = database().await;
    let store = store(&database).await;
    let proxy = Proxy::start(cluster().port()).await;
    let (url, direct) = (proxy.url(&database), cluster().tcp_url(&database));
    for (made, (client, at)) in
        CLIENTS.into_iter().flat_map(|client| [(client, Break::BeforeReply), (client, Break::BeforeServer)]).enumerate()
    {
        let claim = claim(&format!("{client:?}-{at:?}"), "input");
        proxy.cut("COMMIT", at);
        let failed = client.attempt(&url, &store, &claim, Way::default()).await.unwrap_err();
        assert!(matches!(failed, Failed::Commit), "{client:?} {at:?}: {failed:?}");
        assert_eq!(proxy.cuts_made(), made + 1);
        // The server may not have noticed the end of the connection yet, and then the key is still held.
        let settled = async || {
            let got = client.attempt(&direct, &store, &claim, Way::default()).await.unwrap();
            match (got, at) {
                (Got::Busy, _) => return false,
                (Got::Held(held), Break::BeforeReply) => assert_eq!(held.value.owner, claim.owner),
                (Got::Ran(_), Break::BeforeServer) => {}
                (got, _) => panic!("{client:?} {at:?}: {got:?}"),
            }
            true
        };
        eventually(Duration::from_secs(30), "the commit to be settled", settled).await;
    }
    assert_eq!((items(&store).await.len(), records(&store).await), (6, 6));
}

/// A failure means the same for every client.
#[tokio::test]
async fn failures_are_the_same_for_every_client() {
    let database = database().await;
    let store = store(&database).await;
    let proxy = Proxy::start(cluster().port()).await;
    let (url, direct) = (proxy.url(&database), cluster().tcp_url(&database));
    for client in CLIENTS {
        let claim = claim(&format!("{client:?}"), "input");
        let elsewhere = Way { elsewhere: true, ..Way::default() };
        let failed = client.attempt(&direct, &store, &claim, elsewhere).await.unwrap_err();
        assert_eq!(failed.kind(), Some(ErrorKind::Refused), "{client:?}: {failed:?}");

        for part in ["keylatch.enter_own", "Writes a finished record"] {
            for at in [Break::BeforeServer, Break::BeforeReply] {
                proxy.cut(part, at);
                let broken = async || match client.attempt(&url, &store, &claim, Way::default()).await {
                    // The server may not have noticed the end of the connection before, and then the key is still held.
                    Ok(Got::Busy) => false,
                    Err(failed) => {
                        assert_eq!(failed.kind(), Some(ErrorKind::Unavailable), "{client:?} {part} {at:?}: {failed:?}");
                        true
                    }
                    got => panic!("{client:?} {part} {at:?}: {got:?}"),
                };
                eventually(Duration::from_secs(30), "the connection to break", broken).await;
            }
        }

        // The transaction waits for a lock on the table only as long as its own limit allows.
        let mut blocker = store.pool().begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE keylatch.record").execute(&mut *blocker).await.unwrap();
        let bounded = Way { first: Some("SET LOCAL statement_timeout = '100ms'"), ..Way::default() };
        let failed = client.attempt(&direct, &store, &claim, bounded).await.unwrap_err();
        assert_eq!(failed.kind(), Some(ErrorKind::Unavailable), "{client:?}: {failed:?}");
        blocker.rollback().await.unwrap();
    }
    assert_eq!((items(&store).await.len(), records(&store).await), (0, 0));
}
