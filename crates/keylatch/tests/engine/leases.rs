//! Runs on a lease: renewed, lost, taken over, and what an attempt leaves for the next.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keylatch::tx::Verdict;
use keylatch::{
    Engine, Epoch, Key, Limits, Outcome, Policy, Refused, Resolution, Resolved, Run, STEP_BYTES_MAX, STEPS_MAX, Scope,
    StepError,
};
use tokio::sync::oneshot;

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect, Work, World, answer, ask, patient, request, under};

#[tokio::test]
async fn i5_a_late_run_changes_nothing_and_its_client_gets_the_winners_answer() {
    let world = World::new();
    let (late, winner) = (world.fenced(), world.fenced());
    let work = Work::new();
    let asked = work.ask(&late, request("buy"), answer("late"));
    work.started(1).await;
    world.leases_end();
    assert!(ask(&winner, request("buy"), answer("winner")).await.unwrap().ran().expires_at.is_some());
    work.gate.open();
    assert_eq!(asked.replayed().await, "winner");
    assert_eq!(world.recorded().await, "winner");
    for engine in [&late, &winner] {
        assert_eq!(ask(engine, request("buy"), answer("never")).await.unwrap().replayed(), "winner");
    }
}

#[tokio::test]
async fn the_client_of_a_late_run_waits_for_the_winner_if_it_may() {
    for wait in [true, false] {
        let world = World::new();
        let (late, winner) = (world.fenced(), world.fenced());
        let (late_work, winner_work) = (Work::new(), Work::new());
        let asked = late_work.ask(&late, if wait { patient("buy") } else { request("buy") }, answer("late"));
        late_work.started(1).await;
        world.leases_end();
        let won = winner_work.ask(&winner, request("buy"), answer("winner"));
        winner_work.started(1).await;
        late_work.gate.open();
        if wait {
            world.store.called(Op::Read, 2).await;
            assert!(!asked.is_over(), "the winner is still at work");
            winner_work.gate.open();
            assert_eq!(asked.replayed().await, "winner");
        } else {
            assert_eq!(asked.answer().await.refused(), Refused::InProgress);
            winner_work.gate.open();
        }
        won.ran().await;
        assert_eq!(late_work.runs() + winner_work.runs(), 2);
    }
}

/// A run that was told that its lease is lost usually ends in an error. Its client still gets the winner's answer.
#[tokio::test]
async fn the_client_of_a_late_run_that_failed_gets_the_winners_answer() {
    for verdict in [Verdict::Retry, Verdict::Free, Verdict::Unknown] {
        let world = World::new();
        let (late, winner) = (world.fenced(), world.fenced());
        let work = Work::new();
        let asked = work.ask(&late, request("buy"), verdict);
        work.started(1).await;
        world.leases_end();
        ask(&winner, request("buy"), answer("winner")).await.unwrap().ran();
        work.gate.open();
        assert_eq!(asked.replayed().await, "winner");
        assert_eq!(world.recorded().await, "winner");
    }
}

#[tokio::test]
async fn a_lost_lease_is_told_to_its_run() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_millis(200), ..Policy::default() };
    let late = world.fenced_with(policy, Limits::default());
    let (work, (tell, told)) = (Work::new(), oneshot::channel());
    work.gate.open();
    let asked = work.ask_for(&late, request("buy"), |run| async move {
        let token = run.lease_lost();
        assert!(!token.is_cancelled());
        tell.send(run).expect("the test listens");
        token.cancelled().await;
        Verdict::Retry
    });
    let run = told.await.unwrap();
    world.clock.advance(policy.lease);
    ask(&world.fenced(), request("buy"), answer("winner")).await.unwrap().ran();
    assert_eq!(asked.replayed().await, "winner", "it was cancelled by the renewal that was refused");
    assert!(run.lease_lost().is_cancelled(), "whoever asks later is told as well");
    assert!(matches!(run.assert_owner().await, Err(StepError::LeaseLost)));
    let step = run.step("late", |_| async { Ok::<_, Infallible>(1) }).await;
    assert!(matches!(step, Err(StepError::LeaseLost)));
}

/// The store's clock moves by almost a lease between two renewals: without them the lease would have ended.
#[tokio::test]
async fn renewals_keep_a_long_run_alive() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_secs(1), ..Policy::default() };
    let (engine, other) = (world.fenced_with(policy, Limits::default()), world.fenced_with(policy, Limits::default()));
    let work = Work::new();
    let asked = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    for renewals in 1..=3 {
        world.store.called(Op::Renew, renewals).await;
        world.clock.advance(policy.lease - Duration::from_millis(1));
        assert_eq!(ask(&other, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    }
    work.gate.open();
    assert!(asked.ran().await.expires_at.is_some());
    assert_eq!(ask(&other, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
}

/// A renewal that hangs does not delay the others.
#[tokio::test]
async fn one_renewal_that_hangs_does_not_end_all_leases() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_millis(300), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    world.store.next(Op::Renew, [Fault::Held]);
    let work = Work::new();
    let asked = [under("a", "buy"), under("b", "buy")].map(|request| work.ask(&engine, request, answer("bought")));
    work.started(2).await;
    // The engine gives up the first try, and both leases are renewed again and again.
    world.store.called(Op::Renew, 8).await;
    work.gate.open();
    for asked in asked {
        asked.ran().await;
    }
}

/// A renewal that fails is tried again.
#[tokio::test]
async fn a_renewal_that_fails_does_not_end_the_lease() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_millis(300), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    world.store.next(Op::Renew, [Fault::Unavailable, Fault::RequestLost, Fault::ReplyLost]);
    let work = Work::new();
    let asked = work.ask(&engine, request("buy"), answer("bought"));
    world.store.called(Op::Renew, 4).await;
    work.gate.open();
    asked.ran().await;
    assert_eq!(world.recorded().await, "bought");
}

/// Renewals end with the runtime in which they began, and continue in the next one.
#[test]
fn an_engine_may_outlive_its_runtime() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_millis(200), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    for key in ["first", "second"] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (work, renewals) = (Work::new(), world.store.calls(Op::Renew));
            let asked = work.ask(&engine, under(key, "buy"), answer("bought"));
            world.store.called(Op::Renew, renewals + 1).await;
            work.gate.open();
            asked.ran().await;
        });
    }
}

// ---- From attempt to attempt ---------------------------------------------------------------------------

/// What a run reports of itself.
fn facts(run: &Run) -> (u32, Epoch, bool) {
    (run.attempt(), run.epoch(), run.after_crash())
}

/// Runs `request` to this verdict, and returns what its run reports.
async fn attempt(engine: &Engine, verdict: Verdict) -> (u32, Epoch, bool) {
    let (tell, told) = oneshot::channel();
    let start = |handed: keylatch::entry_point::RunOrTx| {
        tell.send(facts(handed.run().expect("a lease"))).expect("the test listens");
        async { (verdict, ()) }
    };
    engine.answer(request("buy"), start).await.unwrap().ran();
    told.await.unwrap()
}

/// Runs `request` in a process that dies during the work.
async fn dies(engine: &Engine) -> (u32, Epoch, bool) {
    let (work, (tell, told)) = (Work::new(), oneshot::channel());
    work.gate.open();
    let never = |run: Run| async move {
        tell.send(facts(&run)).expect("the test listens");
        std::future::pending().await
    };
    drop(work.ask_for(engine, request("buy"), never));
    told.await.unwrap()
}

#[tokio::test]
async fn an_attempt_knows_whether_the_one_before_it_died() {
    let world = World::new();
    let epoch = Epoch::from_u64;
    assert_eq!(attempt(&world.fenced(), Verdict::Retry).await, (1, epoch(1), false));
    assert_eq!(attempt(&world.fenced(), Verdict::Retry).await, (2, epoch(2), false), "that one ended by its word");
    assert_eq!(dies(&world.fenced()).await, (3, epoch(3), false));
    assert_eq!(ask(&world.fenced(), request("buy"), answer("")).await.unwrap().refused(), Refused::InProgress);
    world.leases_end();
    assert_eq!(dies(&world.fenced()).await, (4, epoch(4), true));
    world.leases_end();
    assert_eq!(attempt(&world.fenced(), Verdict::Retry).await, (5, epoch(5), true));
    assert_eq!(attempt(&world.fenced(), answer("bought")).await, (6, epoch(6), false));
}

#[tokio::test]
async fn a_step_is_called_once_over_all_attempts() {
    let world = World::new();
    let calls = Arc::new(AtomicUsize::new(0));
    // One ends with a verdict, one dies, one succeeds.
    let ends = [Some(Verdict::Retry), None, Some(answer("bought"))];
    let mut keys = Vec::new();
    for end in ends {
        let (work, (tell, told)) = (Work::new(), oneshot::channel());
        work.gate.open();
        let calls = calls.clone();
        drop(work.ask_for(&world.fenced(), request("buy"), move |run| async move {
            let failed = run.step("fails", |_| async { Err::<(), _>("declined") }).await;
            assert!(matches!(failed, Err(StepError::Step("declined"))));
            for _ in 0..2 {
                let charge = async |key: Key| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, &str>(key.as_str().to_owned())
                };
                let paid_under = run.step("charge", charge).await.expect("it is paid");
                assert_eq!(paid_under, run.key_for("charge").as_str());
            }
            tell.send(run.key_for("charge")).expect("the test listens");
            match end {
                Some(end) => end,
                None => std::future::pending().await,
            }
        }));
        keys.push(told.await.expect("no step fails"));
        until("the attempt is over", async || {
            world.leases_end();
            ask(&world.fenced(), request("other"), answer("")).await.unwrap().refused() == Refused::Mismatch
        })
        .await;
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!(world.recorded().await, "bought");
}

/// Even if a key was freed and is used for another request: otherwise the called service would take it for the first
/// request.
#[tokio::test]
async fn derived_keys_differ_by_name_key_scope_and_request() {
    let world = World::new();
    let mut keys = Vec::new();
    let mut requests =
        vec![under("a", "buy"), under("b", "buy"), under("a", "buy"), under("c", "buy"), under("c", "sell")];
    requests[2].scope = Scope::new("other").unwrap();
    for request in requests {
        let (work, (tell, told)) = (Work::new(), oneshot::channel());
        work.gate.open();
        let derive = |run: Run| async move {
            tell.send(["charge", "mail"].map(|name| run.key_for(name))).expect("the test listens");
            Verdict::Free
        };
        work.ask_for(&world.fenced(), request, derive).ran().await;
        keys.extend(told.await.unwrap());
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 10);
}

/// Two simultaneous calls of one step are one call, and both get its result; if it fails, the other one calls.
#[tokio::test]
async fn a_step_that_is_asked_for_twice_at_once_is_called_once() {
    let world = World::new();
    let (work, calls) = (Work::new(), Arc::new(AtomicUsize::new(0)));
    work.gate.open();
    let counted = calls.clone();
    let asked = work.ask_for(&world.fenced(), request("buy"), move |run| async move {
        let step = |name: &'static str, fail: bool| {
            let (run, calls) = (&run, &counted);
            async move {
                let call = async |_: Key| {
                    tokio::task::yield_now().await;
                    let number = calls.fetch_add(1, Ordering::Relaxed);
                    if fail { Err("declined") } else { Ok(number) }
                };
                run.step(name, call).await
            }
        };
        let (one, two, three) = tokio::join!(step("charge", false), step("charge", false), step("mail", false));
        let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
        assert!(one == two && one != three);
        let (failed, called) = tokio::join!(step("ship", true), step("ship", false));
        assert!(matches!(failed, Err(StepError::Step("declined"))));
        assert_eq!(called.unwrap(), 3);
        answer("bought")
    });
    asked.ran().await;
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}

/// As many steps as allowed, even if all are begun at once.
#[tokio::test]
async fn i13_steps_at_once_are_bounded() {
    let world = World::new();
    let work = Work::new();
    work.gate.open();
    let asked = work.ask_for(&world.fenced(), request("buy"), |run| async move {
        let steps = (0..2 * STEPS_MAX).map(|number| {
            let run = run.clone();
            async move {
                let call = async |_: Key| {
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(number)
                };
                run.step(&number.to_string(), call).await
            }
        });
        let ends = futures_util::future::join_all(steps).await;
        let refused = ends.iter().filter(|end| matches!(end, Err(StepError::TooMany))).count();
        assert_eq!((refused, ends.len()), (STEPS_MAX, 2 * STEPS_MAX));
        answer("bought")
    });
    asked.ran().await;
}

#[tokio::test]
async fn a_step_that_cannot_be_recorded_is_an_error() {
    let world = World::new();
    let (work, (tell, told)) = (Work::new(), oneshot::channel());
    work.gate.open();
    let store = world.store.clone();
    let asked = work.ask_for(&world.fenced(), request("buy"), |run| async move {
        let largest = "x".repeat(STEP_BYTES_MAX - 2);
        let too_large = run.step("large", |_| async { Ok::<_, Infallible>("x".repeat(STEP_BYTES_MAX - 1)) }).await;
        let large = run.step("large", |_| async { Ok::<_, Infallible>(largest.clone()) }).await;
        let other_type = run.step::<u32, Infallible, _>("large", |_| async { Ok(1) }).await;
        store.next(Op::Renew, [Fault::Unavailable]);
        let unavailable = run.step("other", |_| async { Ok::<_, Infallible>(1) }).await;
        tell.send((too_large, large.map(|text| text == largest), other_type, unavailable)).expect("the test listens");
        answer("bought")
    });
    let (too_large, large, other_type, unavailable) = told.await.unwrap();
    assert!(matches!(too_large, Err(StepError::TooLarge)));
    assert!(matches!(large, Ok(true)));
    assert!(matches!(other_type, Err(StepError::Json(_))));
    assert!(matches!(unavailable, Err(StepError::Store(_))));
    asked.ran().await;
}

/// A run that must never start twice does not, and its late end counts unless it was resolved before.
#[tokio::test]
async fn a_late_end_in_at_most_once_counts() {
    let world = World::new();
    let work = Work::new();
    let asked = work.ask(&world.at_most_once(), request("buy"), answer("bought"));
    work.started(1).await;
    world.leases_end();
    let other = world.at_most_once();
    assert_eq!(ask(&other, request("buy"), answer("never")).await.unwrap().refused(), Refused::Unknown);
    work.gate.open();
    asked.ran().await;
    assert_eq!(ask(&other, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
}

/// A resolution and a late end: the first one counts, for both.
#[tokio::test]
async fn i2_a_late_run_gives_the_answer_that_an_operator_has_written() {
    for verdict in [answer("late"), Verdict::Unknown, Verdict::Free] {
        let world = World::new();
        let work = Work::new();
        let asked = work.ask(&world.at_most_once(), request("buy"), verdict);
        work.started(1).await;
        world.leases_end();
        let (operator, id) = (world.at_most_once(), world.record().await.unwrap().id());
        let resolution = Resolution::Completed(Outcome::bytes("resolved"));
        assert_eq!(operator.resolve(id, resolution).await.unwrap(), Resolved::Applied);
        work.gate.open();
        assert_eq!(asked.replayed().await, "resolved");
        assert_eq!(world.recorded().await, "resolved");
    }
}
