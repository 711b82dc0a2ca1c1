//! Futures that are dropped, and shutdown.

use std::time::Duration;

use keylatch::{Error, Refused};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect, Work, World, answer, ask, patient, request, under};

#[tokio::test]
async fn a_request_that_was_never_polled_is_nothing() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    drop(engine.answer(request("buy"), work.start(|_| async { answer("never") })));
    assert!(world.record().await.is_none());
    assert_eq!((world.store.calls(Op::Claim), engine.shutdown(Duration::ZERO).await), (0, 0));
}

/// The claim may have been granted, so the run continues to its end.
#[tokio::test]
async fn a_request_dropped_while_it_claims_runs_to_its_end() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    work.gate.open();
    world.store.next(Op::Claim, [Fault::Held]);
    let mut asked = Box::pin(engine.answer(request("buy"), work.start(|_| async { answer("bought") })));
    assert!(futures_util::poll!(&mut asked).is_pending());
    drop(asked);
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    let follower = work.ask(&engine, patient("buy"), answer("never"));
    world.store.gate().open();
    assert_eq!(follower.replayed().await, "bought");
    assert_eq!((work.runs(), world.recorded().await), (1, "bought".to_owned()));
}

#[tokio::test]
async fn a_request_dropped_at_work_runs_to_its_end() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    let mut asked = Box::pin(engine.answer(request("buy"), work.start(|_| async { answer("bought") })));
    until("it is at work", async || {
        assert!(futures_util::poll!(&mut asked).is_pending());
        work.runs() == 1
    })
    .await;
    drop(asked);
    let follower = work.ask(&engine, patient("buy"), answer("never"));
    work.gate.open();
    assert_eq!(follower.replayed().await, "bought");
    assert_eq!(work.runs(), 1);
}

#[tokio::test]
async fn a_request_dropped_while_it_completes_is_completed() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    work.gate.open();
    world.store.next(Op::Complete, [Fault::Held]);
    let mut asked = Box::pin(engine.answer(request("buy"), work.start(|_| async { answer("bought") })));
    until("it completes", async || {
        assert!(futures_util::poll!(&mut asked).is_pending());
        world.store.calls(Op::Complete) == 1
    })
    .await;
    drop(asked);
    world.store.gate().open();
    assert_eq!(world.recorded().await, "bought");
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
}

tokio::task_local! {
    static OF_CALLER: &'static str;
}

/// The work never sees what an outer layer has set on the caller's task, even while the caller waits.
#[tokio::test]
async fn task_locals_of_the_caller_are_never_seen() {
    for hangs_up in [false, true] {
        let world = World::new();
        let (engine, work) = (world.fenced(), Work::new());
        let seen = || OF_CALLER.try_with(|seen| *seen).unwrap_or("nothing");
        let start = {
            let work = work.clone();
            move |given| async move {
                let before = seen();
                let verdict = work.start(|_| async { answer("bought") })(given).await;
                assert_eq!((before, seen()), ("nothing", "nothing"));
                verdict
            }
        };
        let mut asked = Box::pin(OF_CALLER.scope("what the layer has left", engine.answer(request("buy"), start)));
        until("it is at work", async || {
            assert!(futures_util::poll!(&mut asked).is_pending());
            work.runs() == 1
        })
        .await;
        work.gate.open();
        if hangs_up {
            drop(asked);
        } else {
            asked.await.unwrap().ran();
        }
        assert_eq!(world.recorded().await, "bought");
    }
}

/// A request that waits for another process leaves nothing behind.
#[tokio::test]
async fn a_request_dropped_while_it_waits_leaves_nothing() {
    let world = World::new();
    let (there, here, work) = (world.fenced(), world.fenced(), Work::new());
    let running = work.ask(&there, request("buy"), answer("bought"));
    work.started(1).await;
    let mut waiting = Box::pin(here.answer(patient("buy"), |_| async { (answer("never"), ()) }));
    until("it waits", async || {
        assert!(futures_util::poll!(&mut waiting).is_pending());
        world.store.calls(Op::Claim) >= 3
    })
    .await;
    drop(waiting);
    assert_eq!(here.shutdown(Duration::from_secs(20)).await, 0);
    work.gate.open();
    running.ran().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_its_runs_and_replays_what_is_recorded() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    ask(&engine, under("done", "buy"), answer("done")).await.unwrap().ran();
    let running = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let follower = work.ask(&engine, patient("buy"), answer("never"));
    assert_eq!(engine.shutdown(Duration::from_millis(10)).await, 1, "its deadline has passed");
    let refused = ask(&engine, under("new", "buy"), answer("never")).await;
    assert!(matches!(refused, Err(Error::ShuttingDown)), "{refused:?}");
    assert_eq!(ask(&engine, under("done", "buy"), answer("never")).await.unwrap().replayed(), "done");
    assert_eq!(ask(&engine, under("done", "sell"), answer("never")).await.unwrap().refused(), Refused::Mismatch);
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    let stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.shutdown(Duration::MAX).await }
    });
    work.gate.open();
    running.ran().await;
    assert_eq!(follower.replayed().await, "bought");
    assert_eq!(stopping.await.unwrap(), 0);
    assert_eq!(work.runs(), 1);
}
