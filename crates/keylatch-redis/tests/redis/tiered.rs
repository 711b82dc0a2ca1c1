//! Redis as a cache in front of a store of truth: it changes no answer, whatever happens to it.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::machine::{Claim, Claimed, Completion};
use keylatch::redis::{Cache, Options};
use keylatch::store::{Durability, State, Store as _};
use keylatch::tiered::{CACHE_REST, COPY_AGE_MAX, Cache as _, Tiered};
use keylatch::{Clock, Outcome, Policy, Record, memory};
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::common::faulty::{Faulty, Op};
use crate::support::{applied, claim};

const SOON: Duration = Duration::from_secs(10);

type Store = Tiered<Faulty, Cache>;

/// A store of truth, and a Redis that may evict and does not persist.
struct Fixture {
    truth: Faulty,
    server: Server,
    clock: Clock,
}

impl Fixture {
    fn new() -> Self {
        let clock = Clock::system();
        let truth = Faulty::with_durability(memory::Store::with_clock(clock.clone()), Durability::Disk);
        let config = Config::new().with("appendonly", "no").with("maxmemory-policy", "allkeys-lru");
        Self { truth, server: Server::start(config), clock }
    }

    /// Another process.
    async fn process(&self) -> Store {
        let cache = Cache::connect(&self.server.url(), Options::default()).await.expect("a cache may evict");
        Tiered::new(self.truth.clone(), cache)
    }

    async fn raw(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.server.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// The places of all copies, without those from which one was taken out.
    async fn copies(&self) -> Vec<Vec<u8>> {
        let mut raw = self.raw().await;
        let all: Vec<Vec<u8>> = redis::cmd("KEYS").arg("keylatch-cache:*").query_async(&mut raw).await.unwrap();
        let mut copies = Vec::new();
        for place in all {
            let value: Vec<u8> = redis::cmd("GET").arg(&place).query_async(&mut raw).await.unwrap();
            if !value.is_empty() && value != b"forgotten" {
                copies.push(place);
            }
        }
        copies
    }

    /// Completes `keys`, and waits until all have been copied.
    async fn copied(&self, store: &Store, keys: &[String]) {
        for key in keys {
            let record = won(store.claim(claim(key)).await.unwrap().value);
            applied(&store.complete(record.lease(), answer_of(key)).await);
        }
        // On a busy machine the cache may take too long for a copy. The next replay makes it.
        eventually(SOON, "copies", async || {
            for key in keys {
                assert_answer(store, key).await;
            }
            self.copies().await.len() == keys.len()
        })
        .await;
    }
}

fn answer_of(key: &str) -> Completion {
    Completion::new(Outcome::bytes(format!("answer to {key}")), &Policy::default())
}

fn won(claimed: Claimed) -> Record {
    match claimed {
        Claimed::Won(record) => record,
        Claimed::Held(record) => panic!("held by {record:?}"),
    }
}

/// The same request, sent again, gets the same answer.
async fn assert_answer(store: &Store, key: &str) {
    let again: Claim = claim(key);
    match store.claim(again.clone()).await.expect("the truth is there").value {
        Claimed::Held(Record { state: State::Completed { outcome, .. }, .. }) => {
            assert_eq!(outcome, Some(answer_of(key).outcome));
        }
        other => panic!("{key}: {other:?}"),
    }
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("key-{at}")).collect()
}

#[tokio::test]
async fn answers_come_from_the_cache_without_asking_the_truth() {
    let fixture = Fixture::new();
    let keys = keys(20);
    fixture.copied(&fixture.process().await, &keys).await;
    let other = fixture.process().await;
    // A process that does not know the time of the store of truth yet asks it once.
    let running = won(other.claim(claim("running")).await.unwrap().value);
    let asked = fixture.truth.calls(Op::Claim) + fixture.truth.calls(Op::Read);
    for key in &keys {
        assert_answer(&other, key).await;
        assert!(other.read(claim(key).id()).await.unwrap().value.is_some());
    }
    assert_eq!(fixture.truth.calls(Op::Claim) + fixture.truth.calls(Op::Read), asked);
    // It holds only final outcomes.
    let held = other.claim(claim("running")).await.unwrap().value;
    assert_eq!(held, Claimed::Held(running));
    assert_eq!(fixture.copies().await.len(), keys.len());
}

#[tokio::test]
async fn i9_wrong_bytes_in_the_cache_are_rejected() {
    let fixture = Fixture::new();
    let store = fixture.process().await;
    let keys = keys(3);
    fixture.copied(&store, &keys).await;
    let mut raw = fixture.raw().await;
    let places = fixture.copies().await;
    let value: Vec<u8> = redis::cmd("GET").arg(&places[0]).query_async(&mut raw).await.unwrap();
    // Another record's bytes, truncated ones, a later format, nothing, and something unrelated.
    let wrong = [value.clone(), value[..50].to_vec(), [&[9], &value[1..]].concat(), Vec::new(), b"wrong".to_vec()];
    for bytes in wrong {
        for place in &places[1..] {
            let _: () = redis::cmd("SET").arg(place).arg(&bytes).query_async(&mut raw).await.unwrap();
        }
        for key in &keys {
            assert_answer(&store, key).await;
        }
    }
    for place in &places {
        let _: () = redis::cmd("DEL").arg(place).query_async(&mut raw).await.unwrap();
        let _: () = redis::cmd("LPUSH").arg(place).arg("a list").query_async(&mut raw).await.unwrap();
    }
    for key in &keys {
        assert_answer(&store, key).await;
    }
}

/// Requests continue while the cache dies, stays down, hangs and returns empty: no answer changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_dies_under_load_changes_no_answer() {
    let mut fixture = Fixture::new();
    let store = fixture.process().await;
    let keys = keys(50);
    fixture.copied(&store, &keys).await;
    let load = |part: &'static str| {
        let (store, keys) = (store.clone(), keys.clone());
        tokio::spawn(async move {
            for round in 0..10 {
                join_all(keys.iter().map(|key| assert_answer(&store, key))).await;
                let record = won(store.claim(claim(&format!("{part}-{round}"))).await.unwrap().value);
                applied(&store.complete(record.lease(), answer_of("new")).await);
            }
        })
    };
    let dying = load("dying");
    fixture.server.kill();
    dying.await.unwrap();
    load("dead").await.unwrap();
    fixture.server.start_again();
    tokio::time::sleep(CACHE_REST).await;
    load("back").await.unwrap();
    eventually(SOON, "copies anew", async || {
        assert_answer(&store, &keys[0]).await;
        !fixture.copies().await.is_empty()
    })
    .await;
    fixture.server.pause();
    load("standing").await.unwrap();
    fixture.server.resume();
}

/// An answer is replayed until it expires, and never after, by the clock of the store of truth.
#[tokio::test]
async fn i4_no_answer_outlives_its_retention() {
    let fixture = Fixture::new();
    let store = fixture.process().await;
    let record = won(store.claim(claim("key")).await.unwrap().value);
    let policy = Policy { retention: Duration::from_millis(700), ..Policy::default() };
    applied(&store.complete(record.lease(), Completion::new(Outcome::bytes("answer"), &policy)).await);
    let Some(Record { state: State::Completed { expires_at, .. }, .. }) = store.read(record.id()).await.unwrap().value
    else {
        panic!("it is completed")
    };
    eventually(SOON, "a copy", async || fixture.copies().await.len() == 1).await;
    let (mut given, asked) = (0, fixture.truth.calls(Op::Read));
    loop {
        let before = fixture.clock.now();
        let read = store.read(record.id()).await.unwrap();
        if read.now >= expires_at {
            // From now on the machine sees that it has expired.
            break;
        }
        assert!(before < expires_at, "given at {before}, after its end at {expires_at}");
        given += 1;
        tokio::task::yield_now().await;
    }
    assert!(given > 10, "it was given {given} times");
    assert!(fixture.truth.calls(Op::Read) - asked < given, "most were given by the cache");
    assert!(fixture.clock.now() + Duration::from_millis(200) > expires_at, "it was not given for long enough");
}

/// Whether a retry is told that it took effect, without the answer.
async fn is_forgotten(store: &Store, key: &str) -> bool {
    match store.claim(claim(key)).await.expect("the truth is there").value {
        Claimed::Held(Record { state: State::Completed { outcome, .. }, .. }) => outcome.is_none(),
        other => panic!("{key}: {other:?}"),
    }
}

/// An operator's process forgets an answer: no process gives its copy from then on, although all share the cache.
#[tokio::test]
async fn a_forgotten_answer_is_given_by_no_process() {
    let fixture = Fixture::new();
    let (store, other, operator) = (fixture.process().await, fixture.process().await, fixture.process().await);
    let keys = keys(2);
    fixture.copied(&store, &keys).await;
    assert_answer(&other, &keys[0]).await;
    let record = store.read(claim(&keys[0]).id()).await.unwrap().value.unwrap();
    applied(&operator.forget(record.lease()).await);
    for process in [&store, &other, &operator] {
        assert!(is_forgotten(process, &keys[0]).await);
        assert_eq!(process.read(record.id()).await.unwrap().value.unwrap().owner, record.owner);
        assert_answer(process, &keys[1]).await;
    }
}

/// A process has read the answer before it was forgotten, and copies it afterwards: the copy is not kept.
#[tokio::test]
async fn a_copy_under_way_does_not_bring_a_forgotten_answer_back() {
    let fixture = Fixture::new();
    let (store, operator) = (fixture.process().await, fixture.process().await);
    fixture.copied(&store, &keys(1)).await;
    let late = store.read(claim("key-0").id()).await.unwrap().value.unwrap();
    applied(&operator.forget(late.lease()).await);
    let cache = Cache::connect(&fixture.server.url(), Options::default()).await.unwrap();
    cache.keep(late.clone(), Duration::from_secs(60)).await.unwrap();
    assert_eq!(cache.find(late.id()).await.unwrap(), None);
    assert!(is_forgotten(&store, "key-0").await);
}

/// A cache that cannot be told is an error, and no silence: sent again when the cache is back, the copy is gone.
#[tokio::test]
async fn forgetting_is_not_done_until_the_cache_is_told() {
    let fixture = Fixture::new();
    let (store, operator) = (fixture.process().await, fixture.process().await);
    fixture.copied(&store, &keys(1)).await;
    let lease = store.read(claim("key-0").id()).await.unwrap().value.unwrap().lease();
    fixture.server.pause();
    let error = operator.forget(lease).await.unwrap_err();
    assert!(error.retryable() && error.to_string().contains("send this again"), "{error}");
    fixture.server.resume();
    eventually(SOON, "the cache is told", async || operator.forget(lease).await.is_ok()).await;
    assert!(is_forgotten(&store, "key-0").await);
}

/// No copy outlives its bound, whatever the retention: it is also how long a copy is given if its answer was forgotten by a
/// process that does not know of the cache.
#[tokio::test]
async fn copies_are_kept_for_a_bounded_time() {
    let fixture = Fixture::new();
    fixture.copied(&fixture.process().await, &keys(3)).await;
    let mut raw = fixture.raw().await;
    for copy in fixture.copies().await {
        let left: i64 = redis::cmd("PTTL").arg(&copy).query_async(&mut raw).await.unwrap();
        assert!(left > 0 && left <= i64::try_from(COPY_AGE_MAX.as_millis()).unwrap(), "{left} ms");
    }
}
