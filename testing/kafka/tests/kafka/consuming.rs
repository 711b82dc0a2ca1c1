//! Databases of both kinds, consumers, and the oracle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::store::Store;
use keylatch::{Engine, Guarantee, Limits, Policy, postgres, sqlite};
use keylatch_core::inbox::{DeadLetter, DeadLettersRequest, Inbox, Order, PlaceName, Places};
use keylatch_core::outbox::Outbox;
use keylatch_kafka::{Consumer, Count, InvalidConsumer, Kafka, Message, Running, Stats};
use testing_kafka::{
    Effect, Outside, apply_outside, apply_postgres, apply_sqlite, open_outside, open_postgres, open_sqlite,
};
use testing_support::{eventually, postgres as servers};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::setup::{SOON, client, clients};

/// A database with the table of effects.
pub(crate) enum Db {
    Sqlite(sqlite::Store, tempfile::TempDir),
    Postgres(postgres::Store, String),
}

impl Db {
    pub(crate) async fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open_sqlite(dir.path().join("db").to_str().expect("a plain path")).await;
        Self::Sqlite(store, dir)
    }

    pub(crate) async fn postgres() -> Self {
        let url = servers::shared::database().await;
        Self::Postgres(open_postgres(&url).await, url)
    }

    pub(crate) async fn both() -> [Self; 2] {
        [Self::sqlite().await, Self::postgres().await]
    }

    /// SQLite, where one process reads on a lease, and PostgreSQL with both group protocols.
    pub(crate) async fn each_way() -> [(Self, Kafka); 3] {
        let [classic, consumer] = clients();
        [(Self::sqlite().await, client()), (Self::postgres().await, classic), (Self::postgres().await, consumer)]
    }

    /// As the program wants it.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Sqlite(_, dir) => format!("sqlite:{}", dir.path().join("db").display()),
            Self::Postgres(_, url) => url.clone(),
        }
    }

    /// Whether nobody holds SQLite's write lock.
    pub(crate) fn can_be_written(&self) -> bool {
        let Self::Sqlite(_, dir) = self else { panic!("PostgreSQL has no such lock") };
        let db = rusqlite::Connection::open(dir.path().join("db")).expect("the file is there");
        db.busy_timeout(Duration::ZERO).expect("it can be set");
        match db.execute_batch("BEGIN IMMEDIATE; ROLLBACK") {
            Ok(()) => true,
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The effects, in the order in which they were written.
    pub(crate) async fn effects(&self) -> Vec<Effect> {
        const SELECT: &str = "SELECT id, key, sequence FROM effects ORDER BY number";
        match self {
            Self::Sqlite(store, _) => {
                let effects = store.query(|db| {
                    let mut statement = db.prepare(SELECT)?;
                    let row = |row: &rusqlite::Row<'_>| {
                        Ok(Effect { id: row.get(0)?, key: row.get(1)?, sequence: row.get(2)? })
                    };
                    statement.query_map([], row)?.collect()
                });
                effects.await.expect("the table can be read")
            }
            Self::Postgres(store, _) => {
                let rows: Vec<(String, String, i64)> =
                    sqlx::query_as(SELECT).fetch_all(store.pool()).await.expect("the table can be read");
                rows.into_iter().map(|(id, key, sequence)| Effect { id, key, sequence }).collect()
            }
        }
    }

    pub(crate) fn outbox(&self) -> &dyn Outbox {
        match self {
            Self::Sqlite(store, _) => store,
            Self::Postgres(store, _) => store,
        }
    }

    /// What operators use.
    pub(crate) fn places(&self) -> &dyn Places {
        match self {
            Self::Sqlite(store, _) => store,
            Self::Postgres(store, _) => store,
        }
    }

    pub(crate) async fn dead_letters(&self) -> Vec<DeadLetter> {
        let request = DeadLettersRequest { limit: 1_000, ..DeadLettersRequest::default() };
        let letters = self.places().dead_letters(request).await;
        letters.expect("letters can be read").value.items
    }

    pub(crate) async fn order(&self, letter: &DeadLetter, order: Order) -> bool {
        let ordered = self.places().order(letter.id.clone(), order).await;
        ordered.expect("the store answers")
    }

    pub(crate) async fn go_on(&self, consumer: &str, topic: &str, offset: Option<i64>) {
        // The owner may take the place at the same moment.
        eventually(SOON, "the place to be moved", async || {
            let moved = keylatch_kafka::go_on(self.places(), consumer, topic, 0, offset).await;
            moved.is_ok()
        })
        .await;
    }

    /// Starts a consumer in this process, in batches.
    pub(crate) fn start(&self, consumer: Consumer) -> Consuming {
        match self {
            Self::Sqlite(store, _) => Consuming::start(consumer.each(store.clone(), apply_sqlite)),
            Self::Postgres(store, _) => Consuming::start(consumer.each(store.clone(), apply_postgres)),
        }
    }

    /// Starts one in lanes. `before` comes before the handler.
    pub(crate) fn start_lanes(&self, consumer: Consumer, before: Before) -> Consuming {
        match self {
            Self::Sqlite(store, _) => {
                let handler = move |tx, message: Message| {
                    let waiting = before(message.clone());
                    async move {
                        waiting.await;
                        apply_sqlite(tx, message).await
                    }
                };
                Consuming::start(consumer.lanes(store.clone(), handler))
            }
            Self::Postgres(store, _) => {
                let handler = move |tx, message: Message| {
                    let waiting = before(message.clone());
                    async move {
                        waiting.await;
                        apply_postgres(tx, message).await
                    }
                };
                Consuming::start(consumer.lanes(store.clone(), handler))
            }
        }
    }

    /// Starts one in lanes on a lease of `engine`.
    pub(crate) async fn start_on_lease(&self, consumer: Consumer, engine: Engine) -> Consuming {
        let outside = self.outside().await;
        let handler = move |run, message| apply_outside(outside.clone(), run, message);
        match self {
            Self::Sqlite(store, _) => Consuming::start(consumer.lanes_on_lease(engine, store.clone(), handler)),
            Self::Postgres(store, _) => Consuming::start(consumer.lanes_on_lease(engine, store.clone(), handler)),
        }
    }

    /// What handlers on a lease do.
    pub(crate) async fn outside(&self) -> Outside {
        match self {
            Self::Sqlite(store, _) => open_outside(Outside::Sqlite(store.clone())).await,
            Self::Postgres(store, _) => open_outside(Outside::Postgres(store.pool().clone())).await,
        }
    }

    /// An engine whose records are in this database.
    pub(crate) fn engine(&self, guarantee: Guarantee) -> Engine {
        let (policy, limits) = (Policy { lease: Duration::from_secs(2), ..Policy::default() }, Limits::default());
        let store: Arc<dyn Store> = match self {
            Self::Sqlite(store, _) => Arc::new(store.clone()),
            Self::Postgres(store, _) => Arc::new(store.clone()),
        };
        match guarantee {
            Guarantee::AtMostOnce => Engine::at_most_once(store, policy, limits),
            _ => Engine::fenced(store, policy, limits),
        }
        .expect("the policy can be kept")
    }

    /// The next offset of a place.
    pub(crate) async fn next(&self, consumer: &str, topic: &str) -> Option<i64> {
        let name = PlaceName::new(consumer, topic, 0).expect("a name");
        let place = match self {
            Self::Sqlite(store, _) => store.place(name).await,
            Self::Postgres(store, _) => store.place(name).await,
        };
        place.expect("the store answers").value.and_then(|place| place.next)
    }

    pub(crate) async fn await_next(&self, consumer: &str, topic: &str, next: i64) {
        eventually(SOON, "the place", async || self.next(consumer, topic).await == Some(next)).await;
    }

    pub(crate) async fn await_effects(&self, count: usize) {
        eventually(SOON, &format!("{count} effects"), async || self.effects().await.len() >= count).await;
    }
}

/// A consumer that runs in this process.
pub(crate) struct Consuming {
    pub(crate) stats: Stats,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// What comes before a handler.
pub(crate) type Before = Arc<dyn Fn(Message) -> BoxFuture<'static, ()> + Send + Sync>;

/// Nothing.
pub(crate) fn nothing() -> Before {
    Arc::new(|_| Box::pin(async {}))
}

impl Consuming {
    fn start<S: Inbox>(running: Result<Running<S>, InvalidConsumer>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let running = running.expect("it is valid");
        Self { stats: running.stats(), stop, task: tokio::spawn(running.run_until(async { drop(stopped.await) })) }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("the consumer ends in order");
    }

    pub(crate) async fn await_count(&self, count: Count, least: u64) {
        eventually(SOON, &format!("{least} of {count:?}"), async || self.stats.of(count) >= least).await;
    }

    pub(crate) async fn await_stopped(&self) -> String {
        eventually(SOON, "the partition to stand still", async || !self.stats.stopped().is_empty()).await;
        self.stats.stopped()[0].why.clone()
    }
}

/// A consumer whose tries come fast.
pub(crate) fn consumer(kafka: Kafka, name: &str, topic: &str) -> Consumer {
    Consumer::new(kafka, name, [topic]).with_tries(3, Duration::from_millis(10), Duration::from_millis(50))
}

/// Fails unless each id has one effect at most, the numbers of each key ascend, and nothing is both applied and dead.
pub(crate) fn check(effects: &[Effect], letters: &[DeadLetter]) {
    let mut ids = HashSet::new();
    let mut last: HashMap<&str, i64> = HashMap::new();
    for effect in effects {
        assert!(ids.insert(&effect.id), "{} has two effects", effect.id);
        let last = last.entry(&effect.key).or_insert(-1);
        assert!(effect.sequence > *last, "{}: {} after {last}", effect.key, effect.sequence);
        *last = effect.sequence;
    }
    for letter in letters {
        let place = format!("{}/{}/{}", letter.id.place.topic(), letter.id.place.partition(), letter.id.offset);
        assert!(!ids.contains(&place), "{place} is both applied and dead");
    }
}
