//! What an engine remembers of its requests, by choice.

use std::time::Duration;

use keylatch::recent::{Recent, What};
use keylatch::tx::Verdict;
use keylatch::{Engine, Epoch, Limits, Policy, Refused};

use crate::world::{Expect, Work, World, answer, ask, patient, request};

const FIRST: What = What::Started { epoch: Epoch::FIRST, attempt: 1, takeover: false };

/// What it remembers of the key of all requests here, and how often in a row.
fn seen(recent: &Recent, record: keylatch::RecordId) -> Vec<(What, u64)> {
    let seen = recent.of(record).expect("it was seen");
    assert_eq!(seen.forgotten, 0);
    seen.events.iter().map(|event| (event.what, event.times)).collect()
}

#[tokio::test]
async fn it_remembers_what_came_of_each_request_and_run() {
    let (world, recent, work) = (World::new(), Recent::new(100), Work::new());
    let engine = world.fenced().with_recent(recent.clone());
    let first = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let id = world.record().await.unwrap().id();
    for _ in 0..2 {
        assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    }
    let mut waits = Box::pin(ask(&engine, patient("buy"), answer("never")));
    assert!(futures_util::poll!(&mut waits).is_pending());
    work.gate.open();
    first.ran().await;
    waits.await.unwrap().replayed();
    assert_eq!(ask(&engine, request("sell"), answer("never")).await.unwrap().refused(), Refused::Mismatch);
    world.clock.advance(Policy::default().retention);
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::Expired);
    let expected = [
        (FIRST, 1),
        (What::InProgress, 2),
        (What::Completed, 1),
        (What::Replayed, 1),
        // These requests did not come by HTTP, so their parts are not known.
        (What::Mismatch { differs: None }, 1),
        (What::Expired, 1),
    ];
    assert_eq!(seen(&recent, id), expected);
    for event in recent.of(id).unwrap().events {
        assert_eq!(event.waited_max > Duration::ZERO, event.what == What::Replayed, "{event:?}");
    }
}

#[tokio::test]
async fn it_remembers_a_takeover_and_the_run_that_lost_its_lease() {
    let world = World::new();
    let (here, there) = (Recent::new(100), Recent::new(100));
    let paused = world.fenced().with_recent(here.clone());
    let other = world.fenced().with_recent(there.clone());
    let work = Work::new();
    let first = work.ask(&paused, request("buy"), answer("late"));
    work.started(1).await;
    world.leases_end();
    ask(&other, request("buy"), answer("bought")).await.unwrap().ran();
    work.gate.open();
    assert_eq!(first.replayed().await, "bought");
    let id = world.record().await.unwrap().id();
    // Each process has seen its own part only.
    assert_eq!(seen(&here, id), [(FIRST, 1), (What::LeaseLost, 1), (What::Replayed, 1)]);
    let takeover = What::Started { epoch: Epoch::FIRST.next(), attempt: 2, takeover: true };
    assert_eq!(seen(&there, id), [(takeover, 1), (What::Completed, 1)]);
}

#[tokio::test]
async fn it_remembers_runs_without_an_outcome_and_requests_without_an_answer() {
    let (world, recent) = (World::new(), Recent::new(100));
    let engine = world.at_most_once().with_recent(recent.clone());
    ask(&engine, request("buy"), Verdict::Unknown).await.unwrap().ran();
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::Unknown);
    let id = world.record().await.unwrap().id();
    world.store.goes_down();
    ask(&engine, request("buy"), answer("never")).await.unwrap_err();
    let expected = [(FIRST, 1), (What::NotRecorded, 1), (What::Unknown, 1), (What::Failed, 1)];
    assert_eq!(seen(&recent, id), expected);
}

#[tokio::test]
async fn it_remembers_transactions() {
    let (directory, recent) = (tempfile::tempdir().unwrap(), Recent::new(100));
    let store = keylatch::sqlite::Store::open(directory.path().join("test.db")).await.unwrap();
    let engine = Engine::atomic(store, Policy::default(), Limits::default()).unwrap().with_recent(recent.clone());
    ask(&engine, request("buy"), Verdict::Free).await.unwrap().ran();
    ask(&engine, request("buy"), answer("bought")).await.unwrap().ran();
    ask(&engine, request("buy"), answer("never")).await.unwrap().replayed();
    let asked = request("buy");
    let id = keylatch::RecordId::of(&asked.scope, &asked.key);
    let expected =
        [(What::Began, 1), (What::NotRecorded, 1), (What::Began, 1), (What::Completed, 1), (What::Replayed, 1)];
    assert_eq!(seen(&recent, id), expected);
}

#[tokio::test]
async fn all_handles_of_an_engine_share_its_memory() {
    let (world, recent) = (World::new(), Recent::new(100));
    let engine = world.fenced();
    let other = engine.clone().with_retention(Duration::from_secs(60), Duration::from_secs(60)).unwrap();
    assert!(other.recent().is_none());
    let engine = engine.with_recent(recent.clone()).with_recent(Recent::new(2));
    ask(&other, request("buy"), answer("bought")).await.unwrap().ran();
    ask(&engine, request("buy"), answer("never")).await.unwrap().replayed();
    let id = world.record().await.unwrap().id();
    assert_eq!(seen(&recent, id), [(FIRST, 1), (What::Completed, 1), (What::Replayed, 1)]);
}
