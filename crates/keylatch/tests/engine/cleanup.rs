//! Cleaning in the background.

use std::time::Duration;

use keylatch::store::Inspect as _;
use keylatch::{Cleanup, Engine, Limits, Policy};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect as _, Work, World, answer, ask, request, under};

/// Short enough that a test need not wait.
fn soon() -> Cleanup {
    Cleanup::every(Duration::from_millis(10))
}

/// How many records there are.
async fn left(world: &World) -> u64 {
    world.store.faultless().count(request("any").scope, u64::MAX).await.unwrap().at_least()
}

/// Everything recorded so far has expired, and running records have not.
fn records_are_over(world: &World) {
    let Policy { retention, tombstone, .. } = Policy::default();
    world.clock.advance(retention + tombstone);
}

async fn buys(engine: &Engine, keys: std::ops::Range<u32>) {
    for key in keys {
        assert!(ask(engine, under(&key.to_string(), "buy"), answer("bought")).await.unwrap().is_run());
    }
}

/// Waits until another store has been swept this often, so that a sweep here would have happened, too.
async fn time_passes() {
    let other = World::new();
    let engine = other.fenced().with_cleanup(soon());
    buys(&engine, 0..1).await;
    other.store.called(Op::Sweep, 10).await;
}

/// No request comes: expired records are removed, in several slices, and running ones stay.
#[tokio::test]
async fn an_engine_cleans_by_itself() {
    let world = World::new();
    let engine = world.fenced().with_cleanup(soon());
    let work = Work::new();
    let running = work.ask(&engine, under("running", "buy"), answer("bought"));
    work.started(1).await;
    buys(&engine, 0..250).await;
    assert_eq!(left(&world).await, 251);
    records_are_over(&world);
    until("what is over is gone", async || left(&world).await == 1).await;
    work.gate.open();
    running.ran().await;
}

/// If the store fails, the sweep is tried again.
#[tokio::test]
async fn cleaning_goes_on_after_an_error() {
    let world = World::new();
    world.store.next(Op::Sweep, [Fault::Unavailable, Fault::RequestLost]);
    let engine = world.fenced().with_cleanup(soon());
    buys(&engine, 0..1).await;
    records_are_over(&world);
    until("what is over is gone", async || left(&world).await == 0).await;
    assert!(world.store.calls(Op::Sweep) > 2);
}

/// An engine that was told not to clean does not, whenever it was told.
#[tokio::test]
async fn cleaning_can_be_left_to_others() {
    let world = World::new();
    let off = world.fenced().with_cleanup(Cleanup::off());
    buys(&off, 0..1).await;
    time_passes().await;
    assert_eq!(world.store.calls(Op::Sweep), 0);

    let engine = world.fenced().with_cleanup(soon());
    buys(&engine, 1..2).await;
    world.store.called(Op::Sweep, 1).await;
    let engine = engine.with_cleanup(Cleanup::off());
    let calls = world.store.calls(Op::Sweep);
    buys(&engine, 2..3).await;
    time_passes().await;
    assert_eq!(world.store.calls(Op::Sweep), calls);
}

/// Cleaning ends with its engine, and at a shutdown.
#[tokio::test]
async fn cleaning_ends_with_the_engine() {
    let world = World::new();
    for shuts_down in [true, false] {
        let engine = world.fenced().with_cleanup(soon());
        buys(&engine, 0..1).await;
        records_are_over(&world);
        until("it is cleaned", async || left(&world).await == 0).await;
        let kept = shuts_down.then(|| engine.clone());
        if shuts_down {
            assert_eq!(engine.shutdown(Duration::ZERO).await, 0);
        }
        drop(engine);
        // One may be running.
        time_passes().await;
        let calls = world.store.calls(Op::Sweep);
        time_passes().await;
        assert_eq!(world.store.calls(Op::Sweep), calls, "shut down: {shuts_down}");
        drop(kept);
    }
}

/// An engine may outlive a runtime: it continues to clean in the next one.
#[test]
fn cleaning_goes_on_in_the_next_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = World::new();
    let engine = world.fenced_with(Policy::default(), Limits::default()).with_cleanup(soon());
    for keys in [0..1, 1..2] {
        let runtime = runtime();
        runtime.block_on(async {
            buys(&engine, keys).await;
            records_are_over(&world);
            until("it is cleaned", async || left(&world).await == 0).await;
        });
        drop(runtime);
    }
}
