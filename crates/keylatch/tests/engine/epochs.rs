//! Epochs rise from run to run of a key, even if it was free in between.

use keylatch::machine::Phase;
use keylatch::store::Store as _;
use keylatch::tx::Verdict;
use keylatch::{Engine, Epoch, Outcome, Policy, Refused, Resolution, Resolved};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect as _, Work, World, answer, ask, request};

/// The epoch that a run gets now. The run frees its key again.
async fn epoch(engine: &Engine, what: &str) -> Epoch {
    let (tell, told) = tokio::sync::oneshot::channel();
    let work = move |handed: keylatch::entry_point::RunOrTx| {
        tell.send(handed.run().expect("it is on a lease").epoch()).expect("the test listens");
        async { (Verdict::Free, ()) }
    };
    assert!(engine.answer(request(what), work).await.unwrap().is_run());
    told.await.unwrap()
}

/// A resource that fences never sees an epoch below one that it must still remember.
#[tokio::test]
async fn a_freed_key_goes_on_with_the_next_epoch() {
    let world = World::new();
    let keep = Policy::default().retention + Policy::default().tombstone;
    for engine in [world.fenced(), world.at_most_once()] {
        let first = epoch(&engine, "buy").await;
        assert_eq!(epoch(&engine, "buy").await, first.next());
        assert_eq!(epoch(&engine, "sell").await, first.next().next(), "the key is free for any request");
        world.clock.advance(keep - std::time::Duration::from_millis(1));
        assert!(!engine.sweep(10).await.unwrap().more);
        assert_eq!(epoch(&engine, "buy").await, first.next().next().next());
        world.clock.advance(keep);
        assert_eq!(engine.sweep(10).await.unwrap().removed, 1);
        assert_eq!(world.record().await, None);
    }
}

/// Nobody has seen the epoch of a withdrawn claim. The epochs of earlier runs stay known.
#[tokio::test]
async fn a_withdrawn_claim_forgets_only_its_own_epoch() {
    let world = World::new();
    let engine = world.fenced();
    let withdraws = async || {
        world.store.next(Op::Claim, [Fault::ReplyLost, Fault::ReplyLost]);
        assert!(ask(&engine, request("buy"), answer("never")).await.is_err());
    };
    withdraws().await;
    until("nothing is left of it", async || world.record().await.is_none()).await;

    assert_eq!(epoch(&engine, "buy").await, Epoch::FIRST);
    withdraws().await;
    let id = world.record().await.unwrap().id();
    until("the key is free", async || {
        let found = world.store.faultless().read(id).await.unwrap();
        keylatch::machine::phase(found.value.as_ref(), found.now) == Phase::Free
    })
    .await;
    assert!(epoch(&engine, "buy").await > Epoch::FIRST);
}

/// A late run whose key was freed by an operator changes nothing, and its client is told to try again.
#[tokio::test]
async fn a_late_run_finds_its_key_free() {
    for (verdict, has_run) in [(answer("late"), false), (Verdict::Free, true)] {
        let world = World::new();
        let work = Work::new();
        let asked = work.ask(&world.at_most_once(), request("buy"), verdict);
        work.started(1).await;
        world.leases_end();
        let (operator, id) = (world.at_most_once(), world.record().await.unwrap().id());
        assert_eq!(operator.resolve(id, Resolution::NeverHappened).await.unwrap(), Resolved::Applied);
        let freed = world.record().await;
        work.gate.open();
        let told = asked.answer().await;
        if has_run {
            assert!(told.is_run());
        } else {
            assert_eq!(told.refused(), Refused::InProgress);
        }
        assert_eq!(world.record().await, freed);
        let other = world.at_most_once();
        assert!(ask(&other, request("buy"), Verdict::Keep(Outcome::bytes("anew"))).await.unwrap().is_run());
    }
}
