//! The gateway on Cassandra: it serves requests, has a cache in front of the store, and is killed.

#[allow(dead_code, reason = "other tests need its other parts")]
#[path = "../gateway/load.rs"]
mod load;
#[allow(dead_code, reason = "other tests need its other parts")]
#[path = "../gateway/setup.rs"]
mod setup;

use http::Method;
use keylatch::cassandra::Store;
use keylatch::store::{Inspect as _, PageRequest, Store as _};
use testing_support::eventually;
use testing_support::redis::{Config, Server as Redis};
use testing_support::server::Server;
use tokio::task::JoinSet;

use self::setup::{Answer, Pair, Service, gateway, send};
use crate::setup::{Kind, World, applied};

/// How long something may take that many do at once.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

async fn start(world: &World, upstream: &str, arguments: &[&str]) -> Server {
    let given = ["--store", &world.url, "--scope", "header:X-User-Id", "--upstream-key", "received"];
    let program = gateway(upstream, &[&given[..], arguments].concat());
    program.start().await.unwrap_or_else(|error| panic!("{error}"))
}

/// A gateway before a service in this process.
async fn pair(world: &World, arguments: &[&str]) -> Pair {
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let upstream = Service::start(&dir.path().join("ledger"), 0).await;
    Pair::of(start(world, &upstream.url, arguments).await, upstream, dir)
}

/// What every answer to one request has in common, to the last byte.
fn kept(answer: &Answer) -> (u16, Vec<Option<String>>, Vec<u8>) {
    let names = ["content-type", "content-length", "idempotency-key", "idempotency-expires"];
    let headers = names.iter().map(|name| answer.header(name).map(str::to_owned));
    (answer.status, headers.collect(), answer.body.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_alike_at_two_gateways_on_cassandra_are_one_letter_and_outlive_both() {
    let world = World::new(Kind::Cassandra).await;
    let arguments = ["--guarantee", "at-most-once"];
    let mut pair = pair(&world, &arguments).await;
    let other = start(&world, &pair.upstream.url, &arguments).await;
    let mut clients = JoinSet::new();
    for number in 0..200 {
        let url = format!("{}/letters", [pair.gateway.url(), other.url()][number % 2]);
        clients.spawn(async move {
            let headers = [("x-user-id", "alice"), ("idempotency-key", "k"), ("prefer", "wait=10")];
            let begun = std::time::Instant::now();
            loop {
                let answer = send(Method::POST, &url, &headers, "a").await;
                // Still under way, on a machine that is busy.
                if answer.status == 201 || begun.elapsed() > SOON {
                    return answer;
                }
                assert!([409, 503].contains(&answer.status), "{answer:?}");
            }
        });
    }
    let answers = clients.join_all().await;
    let first = kept(&answers[0]);
    assert_eq!(first.0, 201, "{:?}", answers[0]);
    assert!(answers.iter().all(|answer| kept(answer) == first));
    // The one that ran may have been told 503 on a machine that is very busy.
    assert!(answers.iter().filter(|answer| !answer.is_replay()).count() <= 1);
    assert_eq!((pair.starts("k"), pair.upstream.upstream.seen().len()), (1, 1));

    other.kill().await;
    let next = start(&world, &pair.upstream.url, &arguments).await;
    std::mem::replace(&mut pair.gateway, next).kill().await;
    let again = pair.post("/letters", "k", "a").await;
    assert!(again.is_replay() && kept(&again) == first, "{again:?}");
    let other = pair.post("/letters", "k", "b").await;
    assert_eq!((other.status, other.code().as_str()), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(pair.upstream.upstream.seen().len(), 1);
}

/// Answers come from the cache, even one that was forgotten in the store behind its back; and without the cache nothing
/// changes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_in_front_of_cassandra_gives_answers_and_can_be_gone() {
    let (world, redis) = (World::new(Kind::Cassandra).await, Redis::start(Config::new()));
    let cache = redis.url();
    let arguments = ["--guarantee", "fenced", "--cache", &cache];
    let pair = pair(&world, &arguments).await;
    // Each process has answers of its own, too: one runs, one repeats what it reads, and one has only the cache.
    let (second, third) =
        (start(&world, &pair.upstream.url, &arguments).await, start(&world, &pair.upstream.url, &arguments).await);
    let ask = async |gateway: &Server, key: &str| {
        let headers = [("x-user-id", "alice"), ("idempotency-key", key)];
        send(Method::POST, &format!("{}/letters", gateway.url()), &headers, "a").await
    };
    let mut runs = 0;
    // A copy is given only while the store's clock is known, so on a busy machine this may take more than one key.
    loop {
        let key = format!("key-{runs}");
        let first = ask(&pair.gateway, &key).await;
        assert_eq!((first.status, first.is_replay()), (201, false), "{first:?}");
        let replay = ask(&second, &key).await;
        assert!(replay.is_replay() && kept(&replay) == kept(&first), "{replay:?}");
        eventually(SOON, "a copy", async || redis.ask("DBSIZE").trim() == format!(":{}", runs + 1)).await;
        let page = world.store.list(PageRequest { limit: 100, ..PageRequest::default() }).await.expect("it lists");
        let record = page.value.records.into_iter().find(|record| record.key.as_str() == key).expect("it is there");
        applied(world.store.forget(record.lease()).await.expect("it forgets"));
        // From this it knows the store's clock.
        assert_eq!(ask(&third, &format!("clock-{runs}")).await.status, 201);
        runs += 1;
        let copy = ask(&third, &key).await;
        if copy.status == 201 {
            assert!(copy.is_replay() && kept(&copy) == kept(&first), "{copy:?}");
            break;
        }
        assert_eq!((copy.status, copy.code().as_str()), (409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED"));
        assert!(runs < 20, "no answer comes from the cache");
    }

    drop(redis);
    let first = ask(&pair.gateway, "without").await;
    assert_eq!((first.status, first.is_replay()), (201, false), "{first:?}");
    let replay = ask(&second, "without").await;
    assert!(replay.is_replay() && kept(&replay) == kept(&first), "{replay:?}");
    assert_eq!(pair.upstream.upstream.seen().len(), 2 * runs + 1, "each ran once");
}

/// Opens the store of `world` after the last kill.
fn open(world: &World) -> impl AsyncFnOnce() -> Store {
    let url = world.url.clone();
    async move || Store::connect(&url).await.expect("the node is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_never_two_starts_on_cassandra_when_either_is_killed_at_random() {
    let world = World::new(Kind::Cassandra).await;
    load::never_two_starts(world.dir.path(), &world.url, open(&world)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_one_effect_in_fenced_on_cassandra_when_either_is_killed_at_random() {
    let world = World::new(Kind::Cassandra).await;
    load::one_effect(world.dir.path(), &world.url, open(&world)).await;
}
