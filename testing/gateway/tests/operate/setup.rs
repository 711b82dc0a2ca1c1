//! A store with records in it, and the program that works on it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Completion, End, Terms};
use keylatch::store::{Applied, Owner, Store};
use keylatch::{Body, Fingerprint, Guarantee, Key, Lease, Outcome, Policy, Record, RecordId, Scope};
use keylatch::{cassandra, postgres, redis, sqlite};
use serde_json::Value;
use tempfile::TempDir;
use testing_support::cassandra::shared_keyspace;
use testing_support::postgres::shared::database;
use testing_support::redis::{Config, Server as Redis};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The exit codes, as `keylatch keys --help` tells them.
pub(crate) const DONE: i32 = 0;
pub(crate) const FAILED: i32 = 1;
pub(crate) const ARGUMENTS: i32 = 2;
pub(crate) const UNCHANGED: i32 = 3;
pub(crate) const NOT_FOUND: i32 = 4;
pub(crate) const UNSUPPORTED: i32 = 5;

/// The caller of all records.
pub(crate) const CALLER: &str = "alice";

/// A store, and how the program names it.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dir: TempDir,
    _server: Option<Redis>,
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Redis,
    /// On the node that all tests share, in a keyspace of its own. Making one takes seconds, so only some tests do.
    Cassandra,
}

/// A test of every store.
macro_rules! on_every_store {
    ($($(#[$doc:meta])* $case:ident;)*) => {
        mod on_sqlite { $(#[tokio::test] async fn $case() {
            super::$case(&$crate::setup::World::new($crate::setup::Kind::Sqlite).await).await;
        })* }
        mod on_postgres { $(#[tokio::test] async fn $case() {
            super::$case(&$crate::setup::World::new($crate::setup::Kind::Postgres).await).await;
        })* }
        mod on_redis { $(#[tokio::test] async fn $case() {
            super::$case(&$crate::setup::World::new($crate::setup::Kind::Redis).await).await;
        })* }
    };
}
pub(crate) use on_every_store;

/// The same of Cassandra alone.
macro_rules! on_cassandra {
    ($($case:ident;)*) => {
        mod on_cassandra { $(#[tokio::test] async fn $case() {
            super::$case(&$crate::setup::World::new($crate::setup::Kind::Cassandra).await).await;
        })* }
    };
}
pub(crate) use on_cassandra;

impl World {
    pub(crate) async fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        match kind {
            Kind::Sqlite => {
                let path = dir.path().join("keylatch.db");
                let store = sqlite::Store::open(&path).await.expect("the file can be opened");
                let url = format!("sqlite:{}", path.display());
                Self { url, store: Arc::new(store), dir, _server: None }
            }
            Kind::Postgres => {
                let url = database().await;
                let store = postgres::Store::connect(&url).await.expect("the database is there");
                Self { url, store: Arc::new(store), dir, _server: None }
            }
            Kind::Redis => {
                let server = Redis::start(Config::new());
                let store = redis::Store::connect(&server.url()).await.expect("the server is there");
                Self { url: server.url(), store: Arc::new(store), dir, _server: Some(server) }
            }
            Kind::Cassandra => {
                let url = shared_keyspace().await;
                let options = cassandra::Options::default().with_migration();
                let store = cassandra::Store::connect_with(&url, options).await.expect("the node is there");
                Self { url, store: Arc::new(store), dir, _server: None }
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `keylatch` on this store.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "").await
    }

    /// The same with `input` on the standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        run(arguments, &[("KEYLATCH_STORE", &self.url)], input).await
    }

    /// Runs it with `--json`, and reads what it prints.
    pub(crate) async fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let ran = self.run(&[arguments, &["--json"]].concat()).await;
        (ran.code, ran.json())
    }

    // ---- Records -------------------------------------------------------------------------------------

    pub(crate) async fn read(&self, key: &str) -> Option<Record> {
        self.store.read(id(key)).await.expect("the store reads").value
    }

    /// A completed record, with this body.
    pub(crate) async fn completed(&self, key: &str, body: &str) -> Record {
        self.completed_with(key, body, &Policy::default()).await
    }

    pub(crate) async fn completed_with(&self, key: &str, body: &str, policy: &Policy) -> Record {
        let record = self.won(claim(key, Guarantee::Fenced, MINUTES)).await;
        let outcome = Outcome {
            status: http::StatusCode::CREATED,
            headers: vec![("content-type".parse().expect("a name"), "text/plain".parse().expect("a value"))],
            body: Body::Kept(body.to_owned().into()),
        };
        applied(self.store.complete(record.lease(), Completion::new(outcome, policy)).await.expect("it completes"));
        self.read(key).await.expect("it is there")
    }

    /// A run whose outcome is unknown.
    pub(crate) async fn unknown(&self, key: &str) -> Record {
        let record = self.won(claim(key, Guarantee::AtMostOnce, MINUTES)).await;
        applied(self.store.release(record.lease(), End::Unknown).await.expect("it ends"));
        self.read(key).await.expect("it is there")
    }

    /// A run that goes on.
    pub(crate) async fn running(&self, key: &str) -> Record {
        self.won(claim(key, Guarantee::AtMostOnce, MINUTES)).await
    }

    /// A run that a retry may take over.
    pub(crate) async fn abandoned(&self, key: &str) -> Record {
        self.won(claim(key, Guarantee::Fenced, Duration::ZERO)).await
    }

    async fn won(&self, claim: Claim) -> Record {
        match self.store.claim(claim).await.expect("the store claims").value {
            Claimed::Won(record) => record,
            Claimed::Held(record) => panic!("held by {record:?}"),
        }
    }

    /// What a retry of the request under `key` gets: the record that holds it, or a run.
    pub(crate) async fn retry(&self, key: &str) -> Claimed {
        self.store.claim(claim(key, Guarantee::AtMostOnce, MINUTES)).await.expect("the store claims").value
    }
}

/// A lease that no test outlives.
const MINUTES: Duration = Duration::from_secs(30 * 60);

/// The lease of a run that goes on, as a relay has one.
pub(crate) async fn lease_in(store: &impl Store) -> Lease {
    match store.claim(claim("relay", Guarantee::Fenced, MINUTES)).await.expect("the store claims").value {
        Claimed::Won(record) => record.lease(),
        Claimed::Held(record) => panic!("held by {record:?}"),
    }
}

pub(crate) fn applied(applied: Applied) {
    assert!(matches!(applied, Applied::Applied(_)), "{applied:?}");
}

pub(crate) fn id(key: &str) -> RecordId {
    RecordId::of(&Scope::new(CALLER).expect("a scope"), &Key::new(key).expect("a key"))
}

fn claim(key: &str, guarantee: Guarantee, lease: Duration) -> Claim {
    let (scope, key) = (Scope::new(CALLER).expect("a scope"), Key::new(key).expect("a key"));
    let fingerprint = Fingerprint::of([b"the request".as_slice()]);
    let policy = Policy { lease, ..Policy::default() };
    let claim = Claim::new(scope, key, fingerprint, guarantee, &policy);
    Claim { owner: Owner::random(), terms: Terms::of(guarantee, &policy), ..claim }
}

/// What the program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The object that it printed.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The objects that it printed, one on a line.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let parsed = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        self.out.lines().map(parsed).collect()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Asserts that it says all of this.
    #[track_caller]
    pub(crate) fn says(self, wanted: &[&str]) -> Self {
        let said = format!("{}{}", self.out, self.err);
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted:?} is not in:\n{said}");
        }
        self
    }
}

/// Runs the program with nothing but these variables.
pub(crate) async fn run(arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-under-test"));
    command.args(arguments).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it has an input");
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    Ran { code: output.status.code().expect("it exits"), out: text(output.stdout), err: text(output.stderr) }
}
