//! Final outcomes that a process keeps in memory.

use std::time::{Duration, Instant};

use keylatch::entry_point::Answer;
use keylatch::store::{Applied, Durability, Store as _};
use keylatch::{Clock, Limits, Policy, RecordId, Refused};

use crate::common::faulty::Op;
use crate::world::{Expect, World, answer, ask, request, under};

fn durable() -> World {
    World::on(Clock::system(), Durability::Disk)
}

#[tokio::test]
async fn a_kept_answer_is_given_without_asking_the_store() {
    let world = durable();
    // A process that ran it, and one that has read it once.
    for engine in [world.fenced(), world.fenced()] {
        ask(&engine, request("buy"), answer("bought")).await.unwrap();
        let claims = world.store.calls(Op::Claim);
        world.store.goes_down();
        for _ in 0..3 {
            assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
            assert_eq!(ask(&engine, request("sell"), answer("never")).await.unwrap().refused(), Refused::Mismatch);
        }
        world.store.is_mended();
        assert_eq!(world.store.calls(Op::Claim), claims);
    }
}

#[tokio::test]
async fn nothing_is_kept_where_that_gains_nothing() {
    let none = Limits { cache_bytes_max: 0, ..Limits::default() };
    let worlds = [(durable(), none), (World::on(Clock::system(), Durability::Process), Limits::default())];
    for (world, limits) in worlds {
        let engine = world.fenced_with(Policy::default(), limits);
        for claims in 1..=3 {
            ask(&engine, request("buy"), answer("bought")).await.unwrap();
            assert_eq!(world.store.calls(Op::Claim), claims);
        }
    }
}

/// It is used exactly as long as the store would replay it.
#[tokio::test]
async fn a_kept_answer_expires_when_the_stored_one_does() {
    let world = durable();
    let policy = Policy { retention: Duration::from_millis(1_500), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    let expires_at = ask(&engine, request("buy"), answer("bought")).await.unwrap().ran().expires_at.unwrap();
    let claims = world.store.calls(Op::Claim);
    let mut replays = 0;
    loop {
        let before = world.clock.now();
        match ask(&engine, request("buy"), answer("never")).await.unwrap() {
            Answer::Replayed(found) => {
                assert_eq!(found.expires_at(), expires_at);
                assert!(before < expires_at, "it was given after its time");
                replays += 1;
            }
            other => {
                assert_eq!(other.refused(), Refused::Expired);
                assert!(world.clock.now() >= expires_at, "it was refused before its time");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(replays > 0);
    // Only at the end is the store asked.
    let asked = world.store.calls(Op::Claim) - claims;
    assert!(asked * 2 < replays, "the store was asked {asked} times for {replays} replays");
}

/// Its size in bytes is limited, and an evicted answer comes from the store.
#[tokio::test]
async fn i13_the_cache_is_bounded() {
    let world = durable();
    let limits = Limits { cache_bytes_max: 64 << 10, ..Limits::default() };
    let engine = world.fenced_with(Policy::default(), limits);
    let large = "x".repeat(10_000);
    for key in 0..50 {
        ask(&engine, under(&format!("key-{key}"), "buy"), answer(&large)).await.unwrap().ran();
    }
    let claims = world.store.calls(Op::Claim);
    for key in 0..50 {
        let again = ask(&engine, under(&format!("key-{key}"), "buy"), answer("never")).await.unwrap();
        assert_eq!(again.replayed(), large);
    }
    let asked = world.store.calls(Op::Claim) - claims;
    assert!(asked >= 40, "at most six fit, but only {asked} of 50 were asked for");
}

/// An operator has taken the answer away, in another process: it is given until the cached one has reached its age, and then
/// never again, nor does the request run.
#[tokio::test]
async fn a_forgotten_answer_is_given_for_no_longer_than_the_age_of_the_cache() {
    let world = durable();
    let age = Duration::from_millis(200);
    let engine = world.fenced_with(Policy::default(), Limits { cache_age_max: age, ..Limits::default() });
    ask(&engine, request("buy"), answer("bought")).await.unwrap().ran();
    let id = RecordId::of(&request("buy").scope, &request("buy").key);
    let lease = world.store.read(id).await.unwrap().value.expect("it is completed").lease();
    assert!(matches!(world.store.forget(lease).await.unwrap(), Applied::Applied(_)));
    let forgotten = Instant::now();
    let (mut replays, mut refusals) = (0, 0);
    while refusals < 3 {
        let asked = Instant::now();
        match ask(&engine, request("buy"), answer("never")).await.unwrap() {
            Answer::Replayed(_) => {
                assert!(asked < forgotten + age && refusals == 0, "it was given after its time");
                replays += 1;
            }
            other => {
                assert_eq!(other.refused(), Refused::Expired);
                refusals += 1;
            }
        }
    }
    assert!(replays > 0 || forgotten.elapsed() > age, "the store is not asked before");
}

/// An answer that is still there is cached anew, and the store is asked once for each age.
#[tokio::test]
async fn an_old_cached_answer_is_asked_for_again() {
    let world = durable();
    let none = Limits { cache_age_max: Duration::ZERO, ..Limits::default() };
    let engine = world.fenced_with(Policy::default(), none);
    ask(&engine, request("buy"), answer("bought")).await.unwrap().ran();
    for claims in 2..=4 {
        assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
        assert_eq!(world.store.calls(Op::Claim), claims);
    }
}
