//! Copies of final answers in a Redis that two regions share: given while home is gone, no longer than home keeps them, and
//! nothing runs twice without them.

use std::time::{Duration, Instant};

use testing_support::eventually;
use testing_support::redis::{Config, Server};
use tokio::time::{sleep, sleep_until};

use crate::regions::{Options, World};
use crate::setup::SOON;

/// How long home keeps the answers of `/once`.
const RETENTION: Duration = Duration::from_secs(4);
/// A copy is given for less than that after home has let go of its answer.
const LATE_MAX: Duration = Duration::from_secs(1);

async fn world(redis: &Server) -> World {
    let once = "retention = \"4s\"\ntombstone = \"1h\"\n";
    World::start(Options { cache: Some(redis.url()), once, ..Options::new() }).await
}

impl World {
    async fn is_replayed(&self, region: &str, path: &str, key: &str) -> bool {
        self.post(region, path, key, "a").await.is_replay()
    }

    async fn is_unreachable(&self, region: &str, path: &str, key: &str, body: &str) -> bool {
        let answer = self.post(region, path, key, body).await;
        answer.status == 503 && answer.code() == "IDEMPOTENCY_HOME_UNREACHABLE"
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_a_copy_in_a_shared_redis_is_given_while_home_is_gone() {
    let redis = tokio::task::spawn_blocking(|| Server::start(Config::new())).await.expect("it starts");
    let world = world(&redis).await;
    let first = world.post("us", "/letters", "eu.1", "a").await;
    assert_eq!((first.status, first.is_replay()), (201, false));
    world.cut("eu").await;
    // ap has never seen this key: only the cache has its answer.
    eventually(SOON, "a copy", async || world.is_replayed("ap", "/letters", "eu.1").await).await;
    let again = world.post("ap", "/letters", "eu.1", "a").await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("idempotency-expires"), first.header("idempotency-expires"), "by home's clock");
    assert!(world.is_unreachable("ap", "/letters", "eu.1", "another body").await, "only home can refuse it");
    assert!(world.is_unreachable("ap", "/letters", "eu.2", "a").await);
    world.mend().await;
    assert_eq!(world.starts("eu.1"), ["eu"]);
    assert!(world.starts("eu.2").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_a_copy_ends_when_home_no_longer_has_the_answer() {
    let redis = tokio::task::spawn_blocking(|| Server::start(Config::new())).await.expect("it starts");
    let world = world(&redis).await;
    let (mut number, mut given) = (0, None);
    eventually(SOON, "a copy to be given in time", async || {
        number += 1;
        let key = format!("eu.{number}");
        world.mend().await;
        assert_eq!(world.post("us", "/once", &key, "a").await.status, 201);
        let end = Instant::now() + RETENTION;
        world.cut("eu").await;
        while given.is_none() && Instant::now() < end {
            if world.is_replayed("ap", "/once", &key).await {
                given = Some((key.clone(), end));
            }
        }
        given.is_some()
    })
    .await;
    let (key, end) = given.expect("it was given");
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
    let mut redis = tokio::task::spawn_blocking(|| Server::start(Config::new())).await.expect("it starts");
    let world = world(&redis).await;
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
