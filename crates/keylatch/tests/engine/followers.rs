//! Requests that meet a run of their key in the same process.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keylatch::entry_point::Request;
use keylatch::tx::Verdict;
use keylatch::{Engine, Limits, Refused};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect, Work, World, answer, ask, patient, request, under};

#[tokio::test]
async fn followers_get_the_answer_without_asking_the_store() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    let first = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let following: Vec<_> = (0..50).map(|_| work.ask(&engine, patient("buy"), answer("never"))).collect();
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    work.gate.open();
    let ran = first.ran().await;
    for follower in following {
        assert_eq!(follower.replayed().await, "bought");
    }
    assert!(ran.expires_at.is_some());
    assert_eq!((work.runs(), world.store.calls(Op::Claim), world.store.calls(Op::Read)), (1, 1, 0));
}

/// Another process may get the outcome from the store before this one learns that it is recorded.
#[tokio::test]
async fn i4_an_answer_that_another_process_gives_is_given_here_too() {
    let world = World::new();
    let (here, there, work) = (world.fenced(), world.fenced(), Work::new());
    world.store.next(Op::Complete, [Fault::ReplyHeld]);
    work.gate.open();
    let first = work.ask(&here, request("buy"), answer("bought"));
    assert_eq!(world.recorded().await, "bought");
    assert_eq!(ask(&there, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
    assert_eq!(ask(&here, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
    assert!(!first.is_over());
    world.store.gate().open();
    first.ran().await;
}

#[tokio::test]
async fn patience_ends_when_the_request_says_so() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    let first = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let wait = Duration::from_millis(50);
    let asked = Instant::now();
    let impatient = Request { wait, ..request("buy") };
    assert_eq!(ask(&engine, impatient, answer("never")).await.unwrap().refused(), Refused::InProgress);
    assert!(asked.elapsed() >= wait);
    work.gate.open();
    first.ran().await;
}

/// The longest wait does not overflow.
#[tokio::test]
async fn patience_may_be_endless() {
    let world = World::new();
    let limits = Limits { wait_max: Duration::MAX, ..Limits::default() };
    let (engine, work) = (world.fenced_with(keylatch::Policy::default(), limits), Work::new());
    let first = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let follower = work.ask(&engine, Request { wait: Duration::MAX, ..request("buy") }, answer("never"));
    work.gate.open();
    first.ran().await;
    assert_eq!(follower.replayed().await, "bought");
}

#[tokio::test]
async fn i13_only_so_many_may_wait() {
    for limits in
        [Limits { waiters_max: 2, ..Limits::default() }, Limits { waiters_per_caller_max: 2, ..Limits::default() }]
    {
        only_two_wait(&World::new(), limits).await;
    }
}

async fn only_two_wait(world: &World, limits: Limits) {
    let (engine, work) = (world.fenced_with(keylatch::Policy::default(), limits), Work::new());
    let first = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let wait = || Box::pin(ask(&engine, patient("buy"), answer("never")));
    let (mut one, mut two) = (wait(), wait());
    assert!(futures_util::poll!(&mut one).is_pending() && futures_util::poll!(&mut two).is_pending());
    let refused = async || ask(&engine, patient("buy"), answer("never")).await.unwrap().refused();
    assert_eq!(refused().await, Refused::InProgress, "at once");
    // A request that ends leaves its place.
    drop(one);
    let mut third = wait();
    assert!(futures_util::poll!(&mut third).is_pending());
    assert_eq!(refused().await, Refused::InProgress);
    work.gate.open();
    first.ran().await;
    for follower in [two, third] {
        assert_eq!(follower.await.unwrap().replayed(), "bought");
    }
}

/// The first run fails; one of its followers runs, and the others follow that one.
#[tokio::test]
async fn a_follower_leads_when_its_leader_has_failed() {
    let world = World::new();
    let (engine, failing, work) = (world.fenced(), Work::new(), Work::new());
    let first = failing.ask(&engine, request("buy"), Verdict::Retry);
    failing.started(1).await;
    let following: Vec<_> = (0..20).map(|_| work.ask(&engine, patient("buy"), answer("bought"))).collect();
    // All of them have found the run.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(work.runs(), 0);
    failing.gate.open();
    assert_eq!(first.ran().await.expires_at, None);
    work.started(1).await;
    work.gate.open();
    let answers = join_all(following.into_iter().map(|follower| follower.answer())).await;
    let (ran, replayed): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| matches!(answer, keylatch::entry_point::Answer::Ran(_)));
    assert_eq!((ran.len(), replayed.len(), work.runs()), (1, 19, 1));
    assert!(replayed.into_iter().all(|answer| answer.replayed() == "bought"));
    assert_eq!(world.record().await.unwrap().attempt, 2);
}

/// If a run with many followers fails, one of them runs again. If that fails too, the others are told to come back
/// later.
#[tokio::test]
async fn a_failing_run_is_run_once_more_for_all_who_wait() {
    let world = World::new();
    let (engine, first, again) = (world.fenced(), Work::new(), Work::new());
    let failing = first.ask(&engine, request("buy"), Verdict::Retry);
    first.started(1).await;
    let mut following: Vec<_> =
        (0..20).map(|_| Box::pin(engine.answer(patient("buy"), again.start(|_| async { Verdict::Retry })))).collect();
    for follower in &mut following {
        assert!(futures_util::poll!(follower).is_pending());
    }
    first.gate.open();
    again.gate.open();
    failing.ran().await;
    let answers = join_all(following).await;
    let refused = answers.into_iter().filter_map(|answer| match answer.unwrap() {
        keylatch::entry_point::Answer::Refused(refused) => Some(refused),
        _ => None,
    });
    assert_eq!(refused.collect::<Vec<_>>(), [Refused::InProgress; 19]);
    assert_eq!((first.runs(), again.runs()), (1, 1));
    // This does not apply to later requests.
    assert!(ask(&engine, request("buy"), answer("bought")).await.unwrap().is_run());
}

/// One caller cannot take every place of followers: another caller may wait.
#[tokio::test]
async fn i13_waiters_are_bounded_for_each_caller() {
    let world = World::new();
    let limits = Limits { waiters_per_caller_max: 1, ..Limits::default() };
    let (engine, work) = (world.fenced_with(keylatch::Policy::default(), limits), Work::new());
    let of = |caller: &str, operation: &str| {
        let scope = keylatch::Scope::new(caller).unwrap().for_operation(operation).unwrap();
        Request { scope, ..patient("buy") }
    };
    let asking = [of("one", "a"), of("one", "b"), of("two", "a")];
    let running: Vec<_> = asking.iter().map(|asked| work.ask(&engine, asked.clone(), answer("bought"))).collect();
    work.started(3).await;
    let mut waiting = asking.map(|asked| Box::pin(ask(&engine, asked, answer("never"))));
    assert!(futures_util::poll!(&mut waiting[0]).is_pending());
    let mut second = None;
    until("the second is answered", async || {
        if let std::task::Poll::Ready(answer) = futures_util::poll!(&mut waiting[1]) {
            second = Some(answer.unwrap().refused());
        }
        second.is_some()
    })
    .await;
    assert_eq!(second, Some(Refused::InProgress), "at once, in whatever scope of the caller");
    assert!(futures_util::poll!(&mut waiting[2]).is_pending());
    work.gate.open();
    for run in running {
        run.ran().await;
    }
    let [first, _, third] = waiting;
    for follower in [first, third] {
        assert_eq!(follower.await.unwrap().replayed(), "bought");
    }
}

/// A run that hangs after its lease was lost does not keep its followers from the winner's answer.
#[tokio::test]
async fn followers_of_a_late_run_get_the_winners_answer() {
    let world = World::new();
    let policy = keylatch::Policy { lease: Duration::from_millis(200), ..keylatch::Policy::default() };
    let (late, work) = (world.fenced_with(policy, Limits::default()), Work::new());
    let hanging = work.ask(&late, request("buy"), answer("late"));
    work.started(1).await;
    let follower = work.ask(&late, patient("buy"), answer("never"));
    world.clock.advance(policy.lease);
    ask(&world.fenced(), request("buy"), answer("winner")).await.unwrap().ran();
    // The next renewal fails.
    assert_eq!(follower.replayed().await, "winner");
    assert!(!hanging.is_over());
    work.gate.open();
    assert_eq!(hanging.replayed().await, "winner");
    assert_eq!(work.runs(), 1);
}

/// The run is in another process: waiting requests ask the store at intervals.
#[tokio::test]
async fn a_run_in_another_process_is_waited_for() {
    let world = World::new();
    let (there, here, work) = (world.fenced(), world.fenced(), Work::new());
    let running = work.ask(&there, request("buy"), answer("bought"));
    work.started(1).await;
    let waiting = work.ask(&here, patient("buy"), answer("never"));
    world.store.called(Op::Claim, 4).await;
    assert_eq!(ask(&here, request("sell"), answer("never")).await.unwrap().refused(), Refused::Mismatch);
    work.gate.open();
    running.ran().await;
    assert_eq!((waiting.replayed().await, work.runs()), ("bought".to_owned(), 1));
}

// ---- While the run that is met has not looked into the store yet ------------------------------------------

/// An engine without answers in memory, on a store that holds the answer to `what`, and delays claims.
async fn engine_with_answer_to(world: &World, what: &str) -> Engine {
    ask(&world.fenced(), request(what), answer("bought")).await.unwrap().ran();
    world.store.always(Op::Claim, Fault::Held);
    world.fenced()
}

#[tokio::test]
async fn i4_it_gets_the_answer_that_is_there() {
    let world = World::new();
    let (engine, work) = (engine_with_answer_to(&world, "buy").await, Work::new());
    let first = work.ask(&engine, request("buy"), answer("never"));
    world.store.called(Op::Claim, 2).await;
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
    world.store.gate().open();
    assert_eq!(first.replayed().await, "bought");
}

/// Another request with the key, however early, does not keep a client from its answer.
#[tokio::test]
async fn i7_it_gets_the_answer_that_is_there_although_the_other_asks_for_something_else() {
    let world = World::new();
    let (engine, work) = (engine_with_answer_to(&world, "buy").await, Work::new());
    let other = work.ask(&engine, request("sell"), answer("never"));
    world.store.called(Op::Claim, 2).await;
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
    world.store.gate().open();
    assert_eq!(other.answer().await.refused(), Refused::Mismatch);
}

#[tokio::test]
async fn it_is_refused_where_nothing_is_there_yet() {
    let world = World::new();
    let (engine, work) = (engine_with_answer_to(&world, "buy").await, Work::new());
    let first = work.ask(&engine, under("another-key", "buy"), answer("bought"));
    world.store.called(Op::Claim, 2).await;
    let refused = async |what: &str| ask(&engine, under("another-key", what), answer("")).await.unwrap().refused();
    assert_eq!(refused("buy").await, Refused::InProgress);
    // The claim may still be lost to another process, whose client has sent this request.
    assert_eq!(refused("sell").await, Refused::InProgress);
    world.store.gate().open();
    work.started(1).await;
    assert_eq!(refused("sell").await, Refused::Mismatch);
    work.gate.open();
    first.ran().await;
}
