//! What the tests of the SQLite store share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keylatch::machine::{self, Claim, Claimed};
use keylatch::sqlite::{Loaned, Options, Session, Sqlite, Store};
use keylatch::store::{At, Error, Store as _};
use keylatch::tx::{Seen, Start, Transacted, Transactional as _, Verdict};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, Scope};
use tempfile::TempDir;

/// A store in its own directory.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) directory: TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_with(directory.path().join("keylatch.db"), options).await.unwrap();
        Self { store, directory }
    }

    /// With a table of the user's own, `item (name)`.
    pub(crate) async fn with_items() -> Self {
        let fixture = Self::new().await;
        fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();
        fixture
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("keylatch.db")
    }

    /// The file, as another process sees it.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        let raw = rusqlite::Connection::open(self.path()).unwrap();
        raw.busy_timeout(Duration::from_secs(30)).unwrap();
        raw
    }

    /// The log beside the file.
    pub(crate) fn log(&self) -> Log {
        Log(std::fs::read(self.directory.path().join("keylatch.db-wal")).unwrap())
    }

    /// Wins the key on a lease.
    pub(crate) async fn win(&self, claim: &Claim) -> Record {
        won(self.store.claim(claim.clone()).await)
    }

    /// The names in the user's table, in order.
    pub(crate) async fn items(&self) -> Vec<String> {
        self.store
            .query(|db| db.prepare("SELECT name FROM item ORDER BY name")?.query_map([], |row| row.get(0))?.collect())
            .await
            .unwrap()
    }

    /// One attempt in a transaction.
    pub(crate) async fn attempt<F>(
        &self,
        claim: Claim,
        handler: impl FnOnce(Loaned) -> F + Send + 'static,
    ) -> Result<At<Transacted>, Error>
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        attempt(&self.store, claim, handler).await
    }

    pub(crate) async fn record(&self, claim: &Claim) -> Option<Record> {
        self.store.read(claim.id()).await.unwrap().value
    }
}

/// One attempt in a transaction, as an engine makes it: it starts nothing if a look finds that the key is held.
pub(crate) async fn attempt<F>(
    store: &Store,
    claim: Claim,
    handler: impl FnOnce(Loaned) -> F + Send + 'static,
) -> Result<At<Transacted>, Error>
where
    F: Future<Output = Verdict> + Send + 'static,
{
    let At { value: Seen { record, .. }, now } = store.look(&claim).await?;
    if let Claimed::Held(record) = machine::claim(record.clone(), &claim, now) {
        return Ok(At { value: Transacted::Held(Some(record)), now });
    }
    let start: Start<Sqlite> = Box::new(|tx| {
        let work = handler(tx);
        Box::pin(async { work.await.ending(&Policy::default()) })
    });
    store.transact(claim, At { value: record, now }, start).await
}

pub(crate) fn scope() -> Scope {
    Scope::new("caller").unwrap().for_operation("POST /items").unwrap()
}

/// A claim of a key that nobody else has.
pub(crate) fn claim(guarantee: Guarantee) -> Claim {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    claim_of(&format!("key-{}", NEXT.fetch_add(1, Ordering::Relaxed)), guarantee)
}

pub(crate) fn claim_of(key: &str, guarantee: Guarantee) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    Claim::new(scope(), Key::new(key).unwrap(), fingerprint, guarantee, &Policy::default())
}

pub(crate) fn keep(answer: &'static str) -> Verdict {
    Verdict::Keep(Outcome::bytes(answer))
}

/// Adds an item in a handler's transaction.
pub(crate) async fn add(tx: &mut Session, name: &str) -> Result<(), keylatch::sqlite::TxError> {
    tx.run(|db| db.prepare_cached("INSERT INTO item (name) VALUES (?1)")?.execute([name]).map(drop)).await
}

/// The record that was committed.
pub(crate) fn committed(result: Result<At<Transacted>, Error>) -> Record {
    match result.unwrap().value {
        Transacted::Committed(record) => record,
        other => panic!("not committed: {other:?}"),
    }
}

/// The record that was won.
pub(crate) fn won(result: Result<At<Claimed>, Error>) -> Record {
    match result.unwrap().value {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("held: {record:?}"),
    }
}

/// The size of a log in bytes: a header, then frames, each a header and a page. See
/// <https://sqlite.org/walformat.html>.
pub(crate) struct Log(Vec<u8>);

impl Log {
    const HEADER_BYTES: usize = 32;
    const FRAME_HEADER_BYTES: usize = 24;
    pub(crate) const PAGE_BYTES: usize = 4_096;

    /// A number that changes whenever the log restarts.
    pub(crate) fn salt(&self) -> [u8; 8] {
        self.0[16..24].try_into().unwrap()
    }

    /// The number of commits since the log last restarted. The last frame of each commit holds the size of the file
    /// after it.
    pub(crate) fn commits(&self) -> usize {
        let frames = self.0[Self::HEADER_BYTES..].chunks_exact(Self::FRAME_HEADER_BYTES + Self::PAGE_BYTES);
        frames.take_while(|frame| frame[8..16] == self.salt()).filter(|frame| frame[4..8] != [0; 4]).count()
    }
}
