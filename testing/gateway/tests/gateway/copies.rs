//! Copies of final answers in a Redis that regions share: given while home is gone, no longer than home keeps them, and
//! nothing runs twice without them. In some worlds home has no part in it, in others it puts its own answers there.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use testing_support::eventually;
use testing_support::redis::{Config, Server};
use tokio::time::{sleep, sleep_until};

use crate::operators;
use crate::regions::{NAMES, Options, World, started};
use crate::setup::{Answer, SOON};

/// How long home keeps the answers of `/once`.
const RETENTION: Duration = Duration::from_secs(4);
/// A copy is given for less than that after home has let go of its answer.
const LATE_MAX: Duration = Duration::from_secs(1);

/// The regions that share the Redis if eu has no part in it.
const WITHOUT_HOME: &[&str] = &["ap", "us"];

async fn world(redis: &Server, share: &'static [&'static str]) -> World {
    let once = "retention = \"4s\"\ntombstone = \"1h\"\n";
    World::start(Options { cache: Some((redis.url(), share)), once, operators: true, ..Options::new() }).await
}

async fn redis() -> Server {
    tokio::task::spawn_blocking(|| Server::start(Config::new())).await.expect("it starts")
}

impl World {
    async fn is_replayed(&self, region: &str, path: &str, key: &str) -> bool {
        self.post(region, path, key, "a").await.is_replay()
    }

    async fn is_unreachable(&self, region: &str, path: &str, key: &str, body: &str) -> bool {
        let answer = self.post(region, path, key, body).await;
        answer.status == 503 && answer.code() == "IDEMPOTENCY_HOME_UNREACHABLE"
    }

    /// A key that `via` was asked for, whose home is eu and whose answer `to` has got from the cache, while eu was cut off;
    /// and the first answer.
    async fn copied(&self, path: &str, via: &str, to: &str) -> (String, Answer) {
        let (mut number, mut found) = (0, None);
        // On a busy machine the cache may take too long for a copy.
        eventually(SOON, "a copy", async || {
            number += 1;
            let key = format!("eu.{number}");
            self.mend().await;
            let first = self.post(via, path, &key, "a").await;
            assert_eq!((first.status, first.is_replay()), (201, false));
            self.cut("eu").await;
            for _ in 0..20 {
                if self.is_replayed(to, path, &key).await {
                    found = Some((key, first));
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
            found.is_some()
        })
        .await;
        found.expect("it was given")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_what_home_alone_was_asked_for_is_given_elsewhere_while_home_is_gone() {
    let redis = redis().await;
    let mut world = world(&redis, &NAMES).await;
    let (key, first) = world.copied("/letters", "eu", "us").await;
    world.regions.get_mut("eu").expect("it is there").gateway.take().expect("it runs").kill().await;
    for region in ["us", "ap"] {
        let again = world.post(region, "/letters", &key, "a").await;
        assert_eq!((again.status, again.is_replay(), &again.body), (201, true, &first.body), "{region}");
        assert_eq!(again.header("idempotency-expires"), first.header("idempotency-expires"), "by home's clock");
        assert_eq!(again.header("content-type"), first.header("content-type"));
        // I7, I8: another body, and another caller, never get it.
        assert!(world.is_unreachable(region, "/letters", &key, "another body").await);
        let bob = [("x-user-id", "bob"), ("idempotency-key", key.as_str())];
        assert_eq!(world.send(region, "/letters", &bob, "a").await.code(), "IDEMPOTENCY_HOME_UNREACHABLE");
        assert!(world.is_unreachable(region, "/once", &key, "a").await, "another operation");
    }
    assert_eq!(world.starts(&key), ["eu"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_what_home_has_shipped_ends_with_its_answer() {
    let redis = redis().await;
    let world = world(&redis, &NAMES).await;
    let (key, _) = world.copied("/once", "eu", "us").await;
    let end = Instant::now() + RETENTION;
    // One that is written late: the cache is silent when home answers, and goes on shortly before the end.
    redis.pause();
    assert_eq!(world.post("eu", "/once", "eu.late", "a").await.status, 201);
    let end_of_late = Instant::now() + RETENTION;
    sleep_until((end + LATE_MAX).into()).await;
    for region in ["ap", "us"] {
        assert!(world.is_unreachable(region, "/once", &key, "a").await, "{region} gives what home no longer has");
    }
    redis.resume();
    sleep_until((end_of_late + LATE_MAX).into()).await;
    for region in ["ap", "us"] {
        for key in [&*key, "eu.late"] {
            assert!(world.is_unreachable(region, "/once", key, "a").await, "{region} gives what home no longer has");
        }
    }
    world.mend().await;
    for key in [&*key, "eu.late"] {
        let gone = async || world.post("ap", "/once", key, "a").await.status == 410;
        eventually(SOON, "home to be asked", gone).await;
        assert_eq!(world.starts(key), ["eu"]);
    }
}

/// Home tells the cache, so a region that has not given the answer does not give it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_what_an_operator_takes_away_at_home_leaves_the_shared_cache() {
    let redis = redis().await;
    let mut world = world(&redis, &NAMES).await;
    let (key, _) = world.copied("/letters", "eu", "us").await;
    let api = operators::admin(world.regions["eu"].gateway.as_ref().expect("it runs")).await + "/api/v1/records";
    let (_, page) = operators::ask(Method::GET, api.clone(), None, None).await;
    let record = page["records"].as_array().expect("a list").iter().find(|record| record["key"] == key.as_str());
    let record = record.unwrap_or_else(|| panic!("{page}"));
    let forget = format!("{api}/{}/forget", record["id"].as_str().expect("an id"));
    let change = json!({ "epoch": record["epoch"], "reason": "asked by the customer" });
    let (status, acted) = operators::ask(Method::POST, forget, None, Some(&change)).await;
    assert_eq!((status, &acted["applied"]), (200, &json!(true)), "{acted}");
    assert!(world.is_unreachable("ap", "/letters", &key, "a").await, "it has never seen this key");
    // Home's own process remembers it for a while.
    let eu = world.regions.get_mut("eu").expect("it is there");
    eu.gateway.take().expect("it runs").kill().await;
    eu.gateway = Some(started(&eu.program).await);
    world.mend().await;
    eventually(SOON, "home to be asked", async || world.post("ap", "/letters", &key, "a").await.status == 410).await;
    assert_eq!(world.starts(&key), ["eu"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_a_copy_in_a_shared_redis_is_given_while_home_is_gone() {
    let redis = redis().await;
    let world = world(&redis, WITHOUT_HOME).await;
    // ap has never seen this key: only the cache has its answer.
    let (key, first) = world.copied("/letters", "us", "ap").await;
    let again = world.post("ap", "/letters", &key, "a").await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("idempotency-expires"), first.header("idempotency-expires"), "by home's clock");
    assert!(world.is_unreachable("ap", "/letters", &key, "another body").await, "only home can refuse it");
    assert!(world.is_unreachable("ap", "/letters", "eu.another", "a").await);
    world.mend().await;
    assert_eq!(world.starts(&key), ["eu"]);
    assert!(world.starts("eu.another").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_a_copy_ends_when_home_no_longer_has_the_answer() {
    let redis = redis().await;
    let world = world(&redis, WITHOUT_HOME).await;
    let (key, _) = world.copied("/once", "us", "ap").await;
    let end = Instant::now() + RETENTION;
    // One that is written late: the cache is silent when the answer comes, and goes on shortly before its end.
    world.mend().await;
    redis.pause();
    assert_eq!(world.post("us", "/once", "eu.late", "a").await.status, 201);
    let end_of_late = Instant::now() + RETENTION;
    world.cut("eu").await;
    sleep_until((end + LATE_MAX).into()).await;
    for region in ["ap", "us"] {
        assert!(world.is_unreachable(region, "/once", &key, "a").await, "{region} gives what home no longer has");
    }
    redis.resume();
    sleep_until((end_of_late + LATE_MAX).into()).await;
    for region in ["ap", "us"] {
        assert!(world.is_unreachable(region, "/once", "eu.late", "a").await, "{region} gives what home no longer has");
    }
    world.mend().await;
    for key in [&*key, "eu.late"] {
        assert_eq!(world.post("ap", "/once", key, "a").await.status, 410);
        assert_eq!(world.starts(key), ["eu"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_nothing_runs_twice_without_the_shared_redis() {
    let mut redis = redis().await;
    let world = world(&redis, WITHOUT_HOME).await;
    assert_eq!(world.post("us", "/letters", "eu.before", "a").await.status, 201);
    for (nth, down) in [("paused", false), ("killed", true)] {
        if down {
            redis.kill();
        } else {
            redis.pause();
        }
        let key = format!("eu.{nth}");
        assert_eq!(world.post("us", "/letters", &key, "a").await.status, 201);
        for region in ["us", "ap", "eu"] {
            assert!(world.is_replayed(region, "/letters", &key).await, "{region} while the cache is {nth}");
        }
        world.cut("eu").await;
        // It was asked for here before, so the copy is in this process.
        assert!(world.is_replayed("us", "/letters", &key).await);
        let new = format!("eu.{nth}-new");
        assert!(world.is_unreachable("ap", "/letters", &new, "a").await);
        assert!(world.starts(&new).is_empty());
        world.mend().await;
        let run = async || world.post("ap", "/letters", &new, "a").await.status == 201;
        eventually(SOON, "home to be there again", run).await;
        for key in [&*key, &*new, "eu.before"] {
            assert_eq!(world.starts(key), ["eu"], "while the cache is {nth}");
        }
        if !down {
            redis.resume();
        }
    }
    redis.start_again();
    sleep(Duration::from_millis(100)).await;
    for key in ["eu.before", "eu.paused", "eu.killed"] {
        assert!(world.is_replayed("ap", "/letters", key).await);
        assert_eq!(world.starts(key), ["eu"]);
    }
}
