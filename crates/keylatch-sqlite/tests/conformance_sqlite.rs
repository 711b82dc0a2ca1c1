//! The conformance suite on SQLite.

#[path = "common/effects.rs"]
mod effects;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::conformance::Harness;
use keylatch::conformance::atomic::AtomicHarness;
use keylatch::conformance::outbox::{OutboxHarness, Part};
use keylatch::sqlite::{self, Loaned, Options};
use keylatch::store::Store;
use keylatch::{Clock, RecordId, Timestamp};
use tempfile::TempDir;

struct Sqlite {
    clock: Clock,
    store: sqlite::Store,
    directory: TempDir,
}

impl Sqlite {
    async fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let directory = tempfile::tempdir().expect("a directory for the case");
        let store = open(directory.path().join("keylatch.db"), clock.clone()).await;
        Self { clock, store, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("keylatch.db")
    }

    /// A store with its own threads and connections: for the file, it is a second process.
    fn open_another(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(open(self.path(), self.clock.clone()).await) as Arc<dyn Store> })
    }
}

async fn open(path: PathBuf, clock: Clock) -> sqlite::Store {
    sqlite::Store::open_with(path, Options::default().with_clock(clock)).await.expect("the file can be opened")
}

impl Harness for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        self.open_another()
    }

    /// The store before it stays as it is: open, and in the middle of its work.
    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        self.open_another()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.clock.advance(by) })
    }

    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let file = rusqlite::Connection::open(self.path()).expect("the file can be opened");
            let copied = file
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE;
                     CREATE TEMP TABLE moved AS SELECT * FROM keylatch_record WHERE hex(id) = upper('{from}');
                     UPDATE moved SET id = unhex('{to}');
                     DELETE FROM keylatch_record WHERE id = unhex('{to}');
                     INSERT INTO keylatch_record SELECT * FROM moved;
                     COMMIT;"
                ))
                .and_then(|()| file.query_row("SELECT count(*) FROM moved", [], |row| row.get::<_, i64>(0)));
            assert_eq!(copied.expect("the record can be copied"), 1, "there is a record to misplace");
        })
    }
}

keylatch::conformance!(Sqlite::new().await);

impl Sqlite {
    async fn with_effects() -> Self {
        let case = Self::new().await;
        effects::create(&case.store).await;
        case
    }
}

impl AtomicHarness for Sqlite {
    type Store = sqlite::Store;

    fn transactional(&self) -> sqlite::Store {
        self.store.clone()
    }

    fn connect_transactional(&self) -> BoxFuture<'_, sqlite::Store> {
        Box::pin(open(self.path(), self.clock.clone()))
    }

    fn table(&self) -> String {
        effects::TABLE.to_owned()
    }

    fn write(tx: &mut Loaned, table: String, effect: String) -> BoxFuture<'_, Result<(), String>> {
        effects::write(tx, &table, effect)
    }

    fn fail(tx: &mut Loaned) -> BoxFuture<'_, ()> {
        effects::fail(tx)
    }

    fn end(tx: &mut Loaned) -> BoxFuture<'_, ()> {
        effects::end(tx)
    }

    fn effects(&self) -> BoxFuture<'_, Vec<String>> {
        effects::all(&self.store)
    }
}

impl OutboxHarness for Sqlite {
    fn damage(&self, seq: u64, part: Part, stored: Vec<u8>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let file = rusqlite::Connection::open(self.path()).expect("the file can be opened");
            let update = match part {
                Part::Id => "UPDATE keylatch_event SET id = ?2 WHERE seq = ?1",
                Part::Headers => "UPDATE keylatch_event SET headers = ?2 WHERE seq = ?1",
            };
            let seq = i64::try_from(seq).expect("it is a number of SQLite");
            assert_eq!(file.execute(update, (seq, stored)), Ok(1));
        })
    }
}

mod atomic {
    use super::Sqlite;

    keylatch::conformance_atomic!(Sqlite::with_effects().await);
}

mod outbox {
    use super::Sqlite;

    keylatch::conformance_outbox!(Sqlite::with_effects().await);
}

mod inbox {
    use super::Sqlite;

    keylatch::conformance_inbox!(Sqlite::with_effects().await);
}
