//! Handles of one engine that keep their answers for different times.

use std::time::Duration;

use keylatch::store::{Store as _, Swept};
use keylatch::tx::Verdict;
use keylatch::{Engine, Limits, Policy, Refused, Resolution, Resolved};

use crate::common::{Gate, until};
use crate::world::{Expect as _, START, Work, World, answer, ask, request, under};

const HOUR: Duration = Duration::from_secs(60 * 60);
const LONG: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The engine's own handle, and one that keeps answers and tombstones for an hour each.
fn with_short(engine: &Engine) -> Engine {
    engine.clone().with_retention(HOUR, HOUR).expect("it can be kept")
}

#[tokio::test]
async fn each_handle_keeps_its_answers_for_its_own_time() {
    let world = World::new();
    let engine = world.fenced();
    let short = with_short(&engine);
    let usual = Policy::default().retention;
    assert_eq!((short.policy().retention, engine.policy().retention), (HOUR, usual));
    let run = async |engine: &Engine, key: &str| {
        ask(engine, under(key, "buy"), answer(key)).await.unwrap().ran().expires_at.expect("it is recorded")
    };
    assert_eq!(run(&engine, "usual").await, START + usual);
    assert_eq!(run(&short, "short").await, START + HOUR);

    // Whichever handle asks, the retention is that of the run.
    world.clock.advance(HOUR);
    for engine in [&engine, &short] {
        let asked = async |key: &str| ask(engine, under(key, "buy"), answer("again")).await.unwrap();
        assert_eq!(asked("usual").await.replayed(), "usual");
        assert_eq!(asked("short").await.refused(), Refused::Expired);
    }
    world.clock.advance(HOUR);
    let Swept { removed, .. } = engine.sweep(10).await.unwrap();
    assert_eq!(removed, 1, "its tombstone has ended too");
}

/// Another handle's policy neither shortens nor extends what a run leaves.
#[tokio::test]
async fn a_renewal_keeps_to_the_policy_of_its_run() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_secs(1), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    for (handle, key) in [(with_short(&engine), "short"), (engine.clone().with_retention(LONG, HOUR).unwrap(), "long")]
    {
        let keep = handle.policy().retention + handle.policy().tombstone;
        let (work, asserted) = (Work::new(), Gate::closed());
        let then = asserted.clone();
        let running = work.ask_for(&handle, under(key, "buy"), |run| async move {
            run.assert_owner().await.expect("it holds its lease");
            then.pass().await;
            Verdict::Retry
        });
        work.started(1).await;
        let id = keylatch::RecordId::of(&under(key, "buy").scope, &under(key, "buy").key);
        let record = async || world.store.faultless().read(id).await.unwrap().value.expect("it is there");
        let free_at = || Some(world.clock.now() + policy.lease + keep);
        assert_eq!(record().await.free_at, free_at(), "as it was claimed");
        // First by the task that renews all leases; then by the run itself.
        world.clock.advance(Duration::from_millis(100));
        until("its lease is renewed", async || record().await.free_at == free_at()).await;
        world.clock.advance(Duration::from_millis(100));
        work.gate.open();
        until("it is renewed by its handler", async || record().await.free_at == free_at()).await;
        world.clock.advance(Duration::from_millis(100));
        asserted.open();
        assert_eq!(running.ran().await.expires_at, None);
        assert_eq!(record().await.free_at, Some(world.clock.now() + keep), "as it ended");
    }
}

#[tokio::test]
async fn a_freed_key_and_a_resolution_keep_to_the_policy_of_their_handle() {
    let world = World::new();
    let short = with_short(&world.at_most_once());
    assert!(ask(&short, request("buy"), Verdict::Free).await.unwrap().is_run());
    world.clock.advance(2 * HOUR - Duration::from_millis(1));
    assert_eq!(short.sweep(10).await.unwrap().removed, 0, "its epoch is remembered");
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(short.sweep(10).await.unwrap().removed, 1);

    assert!(ask(&short, request("buy"), Verdict::Unknown).await.unwrap().is_run());
    let id = world.record().await.unwrap().id();
    let outcome = keylatch::Outcome::bytes("charged".to_owned());
    assert_eq!(short.resolve(id, Resolution::Completed(outcome)).await.unwrap(), Resolved::Applied);
    assert_eq!(ask(&short, request("buy"), answer("again")).await.unwrap().replayed(), "charged");
    world.clock.advance(HOUR);
    assert_eq!(ask(&short, request("buy"), answer("again")).await.unwrap().refused(), Refused::Expired);
}

#[test]
fn a_retention_that_cannot_be_kept_is_refused() {
    let engine = World::new().fenced();
    assert!(engine.clone().with_retention(Duration::ZERO, HOUR).is_err());
    assert!(engine.with_retention(HOUR, Duration::MAX).is_err());
}
