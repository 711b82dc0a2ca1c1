//! The same suite behind a cache in Redis, which changes no answer.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::cassandra::Store;
use keylatch::conformance::Harness;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::redis::{self, Cache};
use keylatch::store::{Applied, State, Store as _};
use keylatch::tiered::{COPY_AGE_MAX, Cache as _, Tiered};
use keylatch::{Fingerprint, Guarantee, Key, Outcome, Policy, Record, RecordId, Scope, store};
use parking_lot::Mutex;
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::conformance::Cassandra;

/// What all cases share: a Redis that may evict, and does not persist.
static REDIS: LazyLock<Server> =
    LazyLock::new(|| Server::start(Config::new().with("appendonly", "no").with("maxmemory-policy", "allkeys-lru")));
const SOON: Duration = Duration::from_secs(30);

type Cached = Tiered<Store, Cache>;

struct Behind {
    truth: Cassandra,
    cache: Cache,
    /// The first is the case's own. Each has seen the store's time when it last asked.
    processes: Mutex<Vec<Cached>>,
}

impl Behind {
    async fn new() -> Self {
        let truth = Cassandra::new().await;
        let server = tokio::task::spawn_blocking(|| REDIS.url()).await.expect("Redis starts");
        let cache = Cache::connect(&server, redis::Options::default().with_prefix(truth.prefix())).await;
        let this = Self { truth, cache: cache.expect("a cache may evict"), processes: Mutex::default() };
        this.process().await;
        this
    }

    async fn process(&self) -> Cached {
        let process = Tiered::new(self.truth.process().await, self.cache.clone());
        self.processes.lock().push(process.clone());
        process
    }

    fn first(&self) -> Cached {
        self.processes.lock()[0].clone()
    }
}

impl Harness for Behind {
    fn store(&self) -> Arc<dyn store::Store> {
        Arc::new(self.first())
    }

    fn connect(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        Box::pin(async { Arc::new(self.process().await) as Arc<dyn store::Store> })
    }

    fn restart(&self) -> BoxFuture<'_, Arc<dyn store::Store>> {
        self.connect()
    }

    /// Copies are given by the time in the store's latest reply. This clock jumps without one, so each process gets one.
    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.truth.advance(by).await;
            let processes = self.processes.lock().clone();
            for process in processes {
                process.read(claim("nothing").id()).await.expect("the store reads");
            }
        })
    }

    /// A copy of what was there before would hide the damage.
    fn misplace(&self, from: RecordId, to: RecordId) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.truth.misplace(from, to).await;
            self.cache.forget(to, COPY_AGE_MAX).await.expect("the cache is there");
        })
    }
}

fn claim(key: &str) -> Claim {
    let fingerprint = Fingerprint::of([b"request".as_slice()]);
    let scope = Scope::new("a caller that no case has").unwrap();
    Claim::new(scope, Key::new(key).unwrap(), fingerprint, Guarantee::Fenced, &Policy::default())
}

/// The answer that a request gets which is sent again.
async fn replayed(store: &impl store::Store) -> Option<Arc<Outcome>> {
    match store.claim(claim("key")).await.expect("the store is there").value {
        Claimed::Held(Record { state: State::Completed { outcome, .. }, .. }) => outcome,
        other => panic!("it is completed: {other:?}"),
    }
}

/// Copies are given: the store itself has forgotten the answer, by a process that does not know of the cache.
#[tokio::test]
async fn a_replay_comes_from_the_cache() {
    let case = Behind::new().await;
    let store = case.first();
    let Claimed::Won(won) = store.claim(claim("key")).await.unwrap().value else { panic!("it is new") };
    let answer = Completion::new(Outcome::bytes("answer"), &Policy::default());
    assert!(matches!(store.complete(won.lease(), answer.clone()).await.unwrap(), Applied::Applied(_)));
    eventually(SOON, "a copy", async || {
        assert_eq!(replayed(&store).await.as_deref(), Some(&*answer.outcome));
        case.cache.find(won.id()).await.is_ok_and(|copy| copy.is_some())
    })
    .await;
    let truth = store.store();
    assert!(matches!(truth.forget(won.lease()).await.unwrap(), Applied::Applied(_)));
    assert_eq!(replayed(truth).await, None);
    eventually(SOON, "the copy to be given", async || replayed(&store).await.is_some()).await;
}

keylatch::conformance!(Behind::new().await);
