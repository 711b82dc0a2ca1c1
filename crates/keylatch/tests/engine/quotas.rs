//! How many runs and how many records there may be.

use std::time::Duration;

use futures_util::future::join_all;
use keylatch::entry_point::Request;
use keylatch::tx::Verdict;
use keylatch::{Engine, Limits, Policy, Quota, Refused, Scope};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect, Work, World, answer, ask, under};

fn engine(world: &World, change: impl FnOnce(&mut Limits)) -> Engine {
    let mut limits = Limits::default();
    change(&mut limits);
    world.fenced_with(Policy::default(), limits)
}

fn of(scope: &str, key: usize) -> Request {
    Request { scope: Scope::new(scope).expect("a scope"), ..under(&format!("key-{key}"), "buy") }
}

/// Exactly as many as allowed run, however many come at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_only_so_many_run_at_once() {
    for (per_caller, quota) in [(true, Quota::RunningPerCaller), (false, Quota::Running)] {
        let world = World::new();
        let engine = engine(&world, |limits| {
            *(if per_caller { &mut limits.running_per_caller_max } else { &mut limits.running_max }) = 10;
        });
        let work = Work::new();
        // A caller is counted over all its scopes.
        let request = |key: usize| {
            let caller = if per_caller { "one".to_owned() } else { format!("caller-{key}") };
            let scope = Scope::new(&caller).unwrap().for_operation(&format!("operation-{}", key % 7)).unwrap();
            Request { scope, ..of("any", key) }
        };
        let all: Vec<_> = (0..200).map(|key| work.ask(&engine, request(key), answer("bought"))).collect();
        until("all but ten are refused", async || all.iter().filter(|asked| asked.is_over()).count() == 190).await;
        work.started(10).await;
        work.gate.open();
        let answers = join_all(all.into_iter().map(|asked| asked.answer())).await;
        let refused: Vec<_> =
            answers.into_iter().filter(|answer| matches!(answer, keylatch::entry_point::Answer::Refused(_))).collect();
        assert_eq!((refused.len(), work.runs()), (190, 10));
        assert!(refused.into_iter().all(|answer| answer.refused() == Refused::Quota(quota)));
        // Their places are free again.
        ask(&engine, request(1_000), answer("bought")).await.unwrap().ran();
    }
}

/// A limit of zero lets nothing run, and leaves nothing behind.
#[tokio::test]
async fn a_limit_of_zero_refuses_all() {
    let world = World::new();
    let running: [fn(&mut Limits); 2] = [|limits| limits.running_max = 0, |limits| limits.running_per_caller_max = 0];
    for nothing in running {
        let engine = engine(&world, nothing);
        let refused = ask(&engine, of("one", 1), answer("never")).await.unwrap().refused();
        assert!(matches!(refused, Refused::Quota(_)));
        assert_eq!(engine.shutdown(Duration::ZERO).await, 0);
    }
    let engine = engine(&world, |limits| limits.records_per_scope_max = 0);
    let refused = ask(&engine, of("one", 1), answer("never")).await.unwrap().refused();
    assert_eq!(refused, Refused::Quota(Quota::RecordsPerScope));
}

/// A request that has a record gets its answer, even if too many requests are running.
#[tokio::test]
async fn a_record_is_replayed_past_a_full_quota() {
    let world = World::new();
    let engine = engine(&world, |limits| {
        limits.running_max = 1;
        limits.waiters_max = 1;
    });
    ask(&engine, of("one", 1), answer("bought")).await.unwrap().ran();
    let work = Work::new();
    let running = work.ask(&engine, of("one", 2), answer("bought"));
    work.started(1).await;
    assert_eq!(ask(&engine, of("one", 1), answer("never")).await.unwrap().replayed(), "bought");
    let full = Refused::Quota(Quota::Running);
    assert_eq!(ask(&engine, of("one", 3), answer("never")).await.unwrap().refused(), full);
    // If the store hangs, they do not pile up.
    world.store.next(Op::Read, [Fault::Held]);
    let hanging = work.ask(&engine, of("one", 1), answer("never"));
    world.store.called(Op::Read, 3).await;
    assert_eq!(ask(&engine, of("one", 1), answer("never")).await.unwrap().refused(), full);
    world.store.gate().open();
    assert_eq!(hanging.replayed().await, "bought");
    work.gate.open();
    running.ran().await;
}

#[tokio::test]
async fn i13_a_scope_has_only_so_many_records() {
    let world = World::new();
    let engine = engine(&world, |limits| limits.records_per_scope_max = 5);
    ask(&engine, of("one", 0), Verdict::Retry).await.unwrap().ran();
    for key in 1..5 {
        ask(&engine, of("one", key), answer("bought")).await.unwrap().ran();
    }
    let full = Refused::Quota(Quota::RecordsPerScope);
    for key in 5..20 {
        assert_eq!(ask(&engine, of("one", key), answer("never")).await.unwrap().refused(), full);
    }
    assert_eq!(ask(&engine, of("one", 1), answer("never")).await.unwrap().replayed(), "bought");
    ask(&engine, of("two", 5), answer("bought")).await.unwrap().ran();
    assert!(ask(&engine, of("one", 0), answer("bought")).await.unwrap().ran().expires_at.is_some(), "no record more");
    // Thousands of callers do not make it forget which scope is full.
    for scope in 0..10_100 {
        ask(&engine, of(&format!("scope-{scope}"), 0), answer("bought")).await.unwrap().ran();
    }
    assert_eq!(ask(&engine, of("one", 5), answer("never")).await.unwrap().refused(), full);
}

/// A large limit is not counted at every claim, and still holds.
#[tokio::test]
async fn a_large_scope_is_counted_now_and_then() {
    let world = World::new();
    let engine = engine(&world, |limits| limits.records_per_scope_max = 2_000);
    let full = Refused::Quota(Quota::RecordsPerScope);
    let mut claimed = 0;
    while ask(&engine, of("one", claimed), Verdict::Unknown).await.unwrap().is_run() {
        claimed += 1;
        // The probability that no claim among thousands counts is less than one in a billion.
        assert!(claimed < 5_000, "the limit does not hold");
        if claimed == 1_000 {
            assert!(world.store.calls(Op::Count) < 50, "{} counts", world.store.calls(Op::Count));
        }
    }
    assert!(claimed >= 2_000, "{claimed} of 2,000");
    assert_eq!(ask(&engine, of("one", claimed), answer("never")).await.unwrap().refused(), full);
}
