//! Runs whose lease ends while they are alive: the store cannot be reached, or its renewals hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, future::join_all};
use keylatch::machine::Phase;
use keylatch::store::{Count, State, Store};
use keylatch::{Cleanup, Engine, Limits, Policy, Record, RecordId, Refused, Resolution, Resolved, Resolver, Run};
use tokio::sync::mpsc;

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Asked, Expect, START, Work, World, answer, ask, patient, request, under};

const SHORT: Policy =
    Policy { lease: Duration::from_millis(300), retention: keylatch::RETENTION, tombstone: keylatch::TOMBSTONE };

/// A run of `engine` whose lease has ended, here and in the store, because no renewal succeeds.
async fn lapsed(world: &World, engine: &Engine, work: &Work) -> Asked {
    let asked = work.ask(engine, request("buy"), answer("bought"));
    work.started(1).await;
    world.store.always(Op::Renew, Fault::Unavailable);
    let since = Instant::now();
    until("the lease has ended here", async || since.elapsed() > SHORT.lease).await;
    world.clock.advance(SHORT.lease);
    asked
}

/// A resolver that takes every run for one that never happened, and counts its calls.
#[derive(Debug, Clone, Default)]
struct NeverHappened(Arc<AtomicUsize>);

impl Resolver for NeverHappened {
    fn resolve<'a>(&'a self, _: &'a Record) -> BoxFuture<'a, Option<Resolution>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Some(Resolution::NeverHappened)).boxed()
    }
}

#[tokio::test]
async fn a_live_run_is_not_taken_over_by_its_duplicates_and_is_renewed_after_an_outage() {
    let world = World::new();
    let (engine, work) = (world.fenced_with(SHORT, Limits::default()), Work::new());
    let asked = lapsed(&world, &engine, &work).await;
    let again = || ask(&engine, request("buy"), answer("never"));
    assert_eq!(again().await.unwrap().refused(), Refused::InProgress);
    let following = work.ask(&engine, patient("buy"), answer("never"));
    world.store.goes_down();
    assert_eq!(again().await.unwrap().refused(), Refused::InProgress, "it is known to run, store or no store");
    world.store.is_mended();
    let id = world.record().await.unwrap().id();
    until("it is renewed", async || world.store.renewals_of(id) > 0).await;
    let elsewhere = ask(&world.fenced(), request("buy"), answer("never")).await;
    assert_eq!(elsewhere.unwrap().refused(), Refused::InProgress, "its lease is back");
    work.gate.open();
    asked.ran().await;
    assert_eq!(following.replayed().await, "bought");
    assert_eq!(work.runs(), 1);
}

#[tokio::test]
async fn nobody_is_asked_what_became_of_a_run_that_is_alive() {
    let world = World::new();
    let resolver = NeverHappened::default();
    let (engine, work) = (world.at_most_once_with(SHORT).with_resolver(resolver.clone()), Work::new());
    let asked = lapsed(&world, &engine, &work).await;
    let again = async || ask(&engine, request("buy"), answer("never")).await.unwrap().refused();
    assert_eq!(again().await, Refused::InProgress);
    assert_eq!(engine.resolve_unknown().await.unwrap(), 0);
    let id = world.record().await.unwrap().id();
    let resolved = engine.resolve(id, Resolution::NeverHappened).await.unwrap();
    assert_eq!(resolved, Resolved::NotUnknown(Phase::Running));
    assert_eq!((again().await, resolver.0.load(Ordering::Relaxed)), (Refused::InProgress, 0));
    // Another process cannot know that.
    assert_eq!(ask(&world.at_most_once(), request("buy"), answer("")).await.unwrap().refused(), Refused::Unknown);
    work.gate.open();
    asked.ran().await;
    assert_eq!(work.runs(), 1);
    assert_eq!(world.recorded().await, "bought");
}

/// If another process has taken over, duplicates learn of it from the store, and the run is lost.
#[tokio::test]
async fn duplicates_of_a_run_that_was_taken_over_get_the_winners_answer() {
    for wait in [false, true] {
        let world = World::new();
        let (engine, work) = (world.fenced_with(SHORT, Limits::default()), Work::new());
        let asked = lapsed(&world, &engine, &work).await;
        let (elsewhere, winner) = (world.fenced(), Work::new());
        let winning = winner.ask(&elsewhere, request("buy"), answer("winner"));
        winner.started(1).await;
        if wait {
            let following = work.ask(&engine, patient("buy"), answer("never"));
            winner.gate.open();
            assert_eq!(following.replayed().await, "winner");
        } else {
            let refused = async |what| ask(&engine, request(what), answer("never")).await.unwrap().refused();
            assert_eq!(refused("buy").await, Refused::InProgress);
            assert_eq!(refused("sell").await, Refused::Mismatch);
            winner.gate.open();
        }
        winning.ran().await;
        assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "winner");
        work.gate.open();
        assert_eq!(asked.replayed().await, "winner");
        assert_eq!((work.runs(), winner.runs()), (1, 1));
    }
}

/// Without the store, a run cannot know that it is still the only one.
#[tokio::test]
async fn a_lease_that_ends_unrenewed_is_told_to_its_run() {
    let world = World::new();
    let (engine, work) = (world.fenced_with(SHORT, Limits::default()), Work::new());
    work.gate.open();
    world.store.always(Op::Renew, Fault::Unavailable);
    let since = Instant::now();
    let asked = work.ask_for(&engine, request("buy"), move |run| async move {
        let token = run.lease_lost();
        assert!(!token.is_cancelled() || since.elapsed() > SHORT.lease / 2);
        token.cancelled().await;
        assert!(run.lease_lost().is_cancelled());
        answer("bought")
    });
    asked.ran().await;
    assert!(since.elapsed() >= SHORT.lease / 2, "it was told while the lease held");
    assert_eq!(world.recorded().await, "bought", "nobody took over, so its end counts");
}

/// However many renewals hang, the others are on time.
#[tokio::test]
async fn renewals_that_hang_do_not_starve_the_others() {
    const HUNG: usize = 400;
    const HEALTHY: usize = 100;
    let world = World::new();
    let policy = Policy { lease: Duration::from_secs(9), ..Policy::default() };
    let limits = Limits { running_per_caller_max: HUNG + HEALTHY, ..Limits::default() };
    let (engine, work) = (world.fenced_with(policy, limits), Work::new());
    let (tell, mut told) = mpsc::unbounded_channel();
    let all = (0..HUNG + HEALTHY).map(|number| {
        let asking = under(&format!("key-{number}"), "buy");
        if number < HUNG {
            world.store.hang_renewals_of(RecordId::of(&asking.scope, &asking.key));
        }
        let (work, tell) = (work.clone(), tell.clone());
        // The token exists before the gate opens.
        let engine = engine.clone();
        tokio::spawn(async move {
            let start = move |given: keylatch::entry_point::RunOrTx| {
                let run: Run = given.run().expect("a lease").clone();
                tell.send((run.id(), run.lease_lost())).expect("the test listens");
                work.start(|_| async { answer("bought") })(given)
            };
            engine.answer(asking, start).await.unwrap().ran()
        })
    });
    let all: Vec<_> = all.collect();
    let mut healthy = Vec::new();
    for _ in 0..HUNG + HEALTHY {
        let (id, lost) = told.recv().await.expect("all begin");
        if healthy.len() < HEALTHY && !world.store.is_hung(id) {
            healthy.push((id, lost));
        }
    }
    until("all others are renewed", async || healthy.iter().all(|(id, _)| world.store.renewals_of(*id) > 0)).await;
    assert!(healthy.iter().all(|(_, lost)| !lost.is_cancelled()), "the lease of one has ended");
    work.gate.open();
    for ran in join_all(all).await {
        assert!(ran.unwrap().expires_at.is_some());
    }
}

/// The owner counts on its lease as usual; a takeover has to wait longer.
#[tokio::test]
async fn on_an_uncertain_clock_every_lease_ends_later_in_the_store() {
    const UNCERTAIN: Duration = Duration::from_secs(7);
    let world = World::new();
    world.store.has_clock_uncertainty(UNCERTAIN);
    let (engine, work) = (world.fenced_with(SHORT, Limits::default()), Work::new());
    let asked = work.ask(&engine, request("buy"), answer("bought"));
    work.started(1).await;
    let ends = async || {
        let record = world.record().await.expect("it runs");
        let State::Running { lease_ends_at, .. } = record.state else { panic!("{record:?}") };
        (record.takeover_at, record.free_at, lease_ends_at)
    };
    let from = |now| {
        let end = now + SHORT.lease + UNCERTAIN;
        (Some(end), Some(end + SHORT.keep()), end)
    };
    assert_eq!(ends().await, from(START));
    world.clock.advance(SHORT.lease);
    until("it is renewed", async || ends().await == from(START + SHORT.lease)).await;

    world.store.always(Op::Renew, Fault::Unavailable);
    let since = Instant::now();
    until("the lease has ended here", async || since.elapsed() > SHORT.lease).await;
    world.clock.advance(SHORT.lease);
    let again = async || ask(&world.fenced(), request("buy"), answer("bought again")).await.unwrap();
    assert_eq!(again().await.refused(), Refused::InProgress);
    world.clock.advance(UNCERTAIN);
    again().await.ran();
    work.gate.open();
    drop(asked);
}

#[tokio::test]
async fn a_store_is_chosen_at_run_time() {
    let chosen: Arc<dyn Store> = Arc::new(World::new().store);
    let engine = Engine::fenced(chosen.clone(), SHORT, Limits::default()).unwrap().with_cleanup(Cleanup::off());
    ask(&engine, request("buy"), answer("bought")).await.unwrap().ran();
    assert_eq!(chosen.count(request("buy").scope, 10).await.unwrap(), Count::Exactly(1));
    let other = Engine::fenced(engine.store().clone(), SHORT, Limits::default()).unwrap().with_cleanup(Cleanup::off());
    ask(&other, request("buy"), answer("again")).await.unwrap().replayed();
}
