//! The cases of `Atomic` on SQLite behind a cache: the cache changes no answer.
#![cfg(feature = "sqlite")]

#[path = "../../keylatch-sqlite/tests/common/effects.rs"]
mod effects;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, ready};
use keylatch::conformance::Harness;
use keylatch::conformance::atomic::AtomicHarness;
use keylatch::sqlite::{self, Loaned, Options};
use keylatch::store::{Error, Store};
use keylatch::tiered::{Cache, Tiered};
use keylatch::{Clock, Record, RecordId, Timestamp};
use parking_lot::Mutex;
use tempfile::TempDir;

/// A cache that all processes share, and that loses nothing.
#[derive(Debug, Clone, Default)]
struct Map(Arc<Mutex<HashMap<RecordId, Option<Record>>>>);

impl Cache for Map {
    fn find(&self, id: RecordId) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        Box::pin(ready(Ok(self.0.lock().get(&id).cloned().flatten())))
    }

    fn keep(&self, record: Record, _: Duration) -> BoxFuture<'_, Result<(), Error>> {
        self.0.lock().entry(record.id()).or_insert(Some(record));
        Box::pin(ready(Ok(())))
    }

    fn forget(&self, id: RecordId, _: Duration) -> BoxFuture<'_, Result<(), Error>> {
        self.0.lock().insert(id, None);
        Box::pin(ready(Ok(())))
    }
}

type Cached = Tiered<sqlite::Store, Map>;

struct Case {
    clock: Clock,
    cache: Map,
    store: Cached,
    directory: TempDir,
}

impl Case {
    async fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
        let (cache, directory) = (Map::default(), tempfile::tempdir().expect("a directory for the case"));
        let truth = open(directory.path().join("keylatch.db"), clock.clone()).await;
        effects::create(&truth).await;
        Self { store: Tiered::new(truth, cache.clone()), clock, cache, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("keylatch.db")
    }

    async fn process(&self) -> Cached {
        Tiered::new(open(self.path(), self.clock.clone()).await, self.cache.clone())
    }
}

async fn open(path: PathBuf, clock: Clock) -> sqlite::Store {
    sqlite::Store::open_with(path, Options::default().with_clock(clock)).await.expect("the file can be opened")
}

impl Harness for Case {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        Box::pin(async { Arc::new(self.process().await) as Arc<dyn Store> })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn Store>> {
        self.connect()
    }

    /// The cache takes the time from the store's latest reply. This clock jumps without a reply, so the copies are
    /// removed.
    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.clock.advance(by);
            self.cache.0.lock().clear();
        })
    }

    fn misplace(&self, _: RecordId, _: RecordId) -> BoxFuture<'_, ()> {
        unreachable!("the cases of Atomic damage nothing")
    }
}

impl AtomicHarness for Case {
    type Store = Cached;

    fn transactional(&self) -> Cached {
        self.store.clone()
    }

    fn connect_transactional(&self) -> BoxFuture<'_, Cached> {
        Box::pin(self.process())
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
        effects::all(self.store.store())
    }
}

keylatch::conformance_atomic!(Case::new().await);
