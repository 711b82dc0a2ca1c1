//! A store that fails at every point of a run.

use std::time::Duration;

use keylatch::entry_point::Answer;
use keylatch::machine::Claimed;
use keylatch::store::{ErrorKind, Notes, State};
use keylatch::tx::Verdict;
use keylatch::{Error, Limits, Policy, Refused};

use crate::common::faulty::{Fault, Op};
use crate::common::until;
use crate::world::{Expect, START, Work, World, answer, ask, request, under};

fn kind(answer: Result<Answer, Error>) -> ErrorKind {
    match answer {
        Err(Error::Store(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

// ---- Claims --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_recognised() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    world.store.next(Op::Claim, [Fault::ReplyLost]);
    let asked = work.ask_for(&engine, request("buy"), |run| async move {
        assert_eq!((run.attempt(), run.after_crash()), (1, false));
        answer("bought")
    });
    work.gate.open();
    assert!(asked.ran().await.expires_at.is_some());
    assert_eq!((world.store.calls(Op::Claim), work.runs()), (2, 1));
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
}

#[tokio::test]
async fn a_claim_that_is_never_heard_of_is_withdrawn() {
    for at_most_once in [false, true] {
        let world = World::new();
        let engine = if at_most_once { world.at_most_once() } else { world.fenced() };
        world.store.next(Op::Claim, [Fault::ReplyLost, Fault::ReplyLost]);
        // The withdrawal, too, needs more than one try.
        world.store.next(Op::Read, [Fault::Unavailable]);
        world.store.next(Op::Release, [Fault::RequestLost]);
        let unheard = ask(&engine, request("buy"), answer("never")).await;
        assert_eq!(kind(unheard), ErrorKind::NotKnown);
        until("it is withdrawn", async || world.record().await.is_none()).await;
        assert!(ask(&engine, request("another"), answer("done")).await.unwrap().ran().expires_at.is_some());
    }
}

/// The withdrawal looks before the claim arrives, as happens if a server hangs with the claim in its socket.
#[tokio::test]
async fn a_claim_that_arrives_late_is_withdrawn() {
    for at_most_once in [false, true] {
        let world = World::new();
        let engine = if at_most_once { world.at_most_once() } else { world.fenced() };
        world.store.next(Op::Claim, [Fault::RequestLost, Fault::RequestLost]);
        let _ = ask(&engine, request("buy"), answer("never")).await.unwrap_err();
        world.store.called(Op::Read, 1).await;
        let claimed = world.store.lost_claim_arrives().await;
        assert!(matches!(claimed, Claimed::Won(_)), "{claimed:?}");
        until("it is withdrawn", async || world.record().await.is_none()).await;
        assert!(ask(&engine, request("another"), answer("done")).await.unwrap().ran().expires_at.is_some());
    }
}

/// If the store said that the write did not happen, there is nothing to withdraw: an outage causes no extra work.
#[tokio::test]
async fn a_claim_that_was_not_taken_is_not_withdrawn() {
    let world = World::new();
    let engine = world.fenced();
    world.store.always(Op::Claim, Fault::Unavailable);
    for _ in 0..100 {
        assert_eq!(kind(ask(&engine, request("buy"), answer("never")).await), ErrorKind::Unavailable);
    }
    // A shutdown would wait for a withdrawal.
    assert_eq!(engine.shutdown(Duration::from_secs(20)).await, 0);
    assert_eq!((world.store.calls(Op::Claim), world.store.calls(Op::Read)), (200, 0));
}

/// A shutdown waits for withdrawals.
#[tokio::test]
async fn a_shutdown_waits_for_withdrawals() {
    let world = World::new();
    let engine = world.fenced();
    world.store.next(Op::Claim, [Fault::ReplyLost, Fault::ReplyLost]);
    world.store.next(Op::Read, [Fault::Held]);
    let _ = ask(&engine, request("buy"), answer("never")).await.unwrap_err();
    world.store.called(Op::Read, 1).await;
    let stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.shutdown(Duration::from_secs(20)).await }
    });
    world.store.gate().open();
    assert_eq!(stopping.await.unwrap(), 0);
    assert!(world.record().await.is_none());
}

/// A withdrawn attempt must not make the next one forget what an earlier one did, nor that it died.
#[tokio::test]
async fn an_uncertain_takeover_forgets_nothing() {
    let world = World::new();
    let dying = Work::new();
    dying.gate.open();
    drop(dying.ask_for(&world.fenced(), request("buy"), |run| async move {
        run.step("charge", |_| async { Ok::<_, ()>(42) }).await.expect("it is noted");
        std::future::pending().await
    }));
    let noted = async || match world.record().await.map(|record| record.state) {
        Some(State::Running { notes: Notes { steps, .. }, .. }) => steps.len() == 1,
        _ => false,
    };
    until("the step is noted", noted).await;
    world.leases_end();
    world.store.next(Op::Claim, [Fault::ReplyLost, Fault::ReplyLost]);
    let other = world.fenced();
    let _ = ask(&other, request("buy"), answer("never")).await.unwrap_err();
    assert_eq!(other.shutdown(Duration::from_secs(20)).await, 0, "whatever was to be withdrawn is");
    world.leases_end();
    let work = Work::new();
    work.gate.open();
    let asked = work.ask_for(&world.fenced(), request("buy"), |run| async move {
        assert!(run.after_crash());
        let charged = run.step("charge", |_| async { Err::<u32, _>("called again") }).await;
        assert_eq!(charged.expect("it is remembered"), 42);
        answer("bought")
    });
    assert!(asked.ran().await.expires_at.is_some());
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_an_error() {
    let world = World::new();
    for op in [Op::Claim, Op::Count] {
        world.store.always(op, Fault::Corrupt);
        let limits = Limits { records_per_scope_max: 1, ..Limits::default() };
        let engine = world.fenced_with(Policy::default(), limits);
        assert_eq!(kind(ask(&engine, request("buy"), answer("never")).await), ErrorKind::Corrupt);
        world.store.is_mended();
    }
    assert!(world.record().await.is_none());
}

/// The engine does not use a record of another key.
#[tokio::test]
async fn i9_a_record_of_another_key_answers_nothing() {
    let world = World::new();
    let engine = world.fenced();
    ask(&engine, under("other", "buy"), answer("secret")).await.unwrap().ran();
    world.store.always(Op::Claim, Fault::Misplaced);
    world.store.always(Op::Read, Fault::Misplaced);
    assert_eq!(kind(ask(&engine, request("buy"), answer("never")).await), ErrorKind::Corrupt);
    // Nor if the record is read without a claim.
    let closing = world.fenced();
    closing.shutdown(Duration::ZERO).await;
    assert_eq!(kind(ask(&closing, request("buy"), answer("never")).await), ErrorKind::Corrupt);
}

// ---- Ends ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_completion_whose_reply_was_lost_counts_from_when_it_was_written() {
    let world = World::new();
    let (engine, work) = (world.fenced(), Work::new());
    world.store.next(Op::Complete, [Fault::ReplyLost, Fault::Held]);
    work.gate.open();
    let asked = work.ask(&engine, request("buy"), answer("bought"));
    world.store.called(Op::Complete, 2).await;
    world.clock.advance(Duration::from_secs(5));
    world.store.gate().open();
    assert_eq!(asked.ran().await.expires_at, Some(START + Policy::default().retention));
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().replayed(), "bought");
    assert_eq!(work.runs(), 1);
}

#[tokio::test]
async fn a_store_that_is_down_when_a_run_ends_is_waited_for() {
    let world = World::new();
    let engine = world.fenced();
    world.store.next(Op::Complete, [Fault::Unavailable, Fault::RequestLost, Fault::Unavailable]);
    assert!(ask(&engine, request("buy"), answer("bought")).await.unwrap().ran().expires_at.is_some());
    world.store.next(Op::Release, [Fault::Unavailable, Fault::ReplyLost]);
    assert_eq!(ask(&engine, under("other", "buy"), Verdict::Retry).await.unwrap().ran().expires_at, None);
    world.store.next(Op::Release, [Fault::ReplyLost]);
    assert_eq!(ask(&engine, under("third", "buy"), Verdict::Free).await.unwrap().ran().expires_at, None);
    assert_eq!((world.store.calls(Op::Complete), world.store.calls(Op::Release)), (4, 5));
    assert_eq!(world.recorded().await, "bought");
}

/// It is not longer than a lease: then the next attempt counts as one after a crash.
#[tokio::test]
async fn a_store_that_stays_down_leaves_the_run_to_the_next_attempt() {
    let world = World::new();
    let policy = Policy { lease: Duration::from_millis(100), ..Policy::default() };
    let engine = world.fenced_with(policy, Limits::default());
    world.store.always(Op::Complete, Fault::Unavailable);
    assert_eq!(kind(ask(&engine, request("buy"), answer("lost")).await), ErrorKind::Unavailable);
    world.store.is_mended();
    assert_eq!(ask(&engine, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
    world.leases_end();
    let (work, after) = (Work::new(), |run: keylatch::Run| async move {
        assert_eq!((run.attempt(), run.after_crash()), (2, true));
        answer("bought")
    });
    work.gate.open();
    work.ask_for(&engine, request("buy"), after).ran().await;
    assert_eq!(world.recorded().await, "bought");
}

/// The end was not accepted, and the record that would say why cannot be read: no client is told anything wrong.
#[tokio::test]
async fn a_late_run_whose_winner_cannot_be_read_is_an_error() {
    let world = World::new();
    let (late, work) = (world.fenced(), Work::new());
    let running = {
        let (late, start) = (late.clone(), work.start(|_| async { answer("late") }));
        tokio::spawn(async move { late.answer(request("buy"), start).await })
    };
    work.started(1).await;
    world.leases_end();
    ask(&world.fenced(), request("buy"), answer("winner")).await.unwrap().ran();
    world.store.next(Op::Read, [Fault::Unavailable]);
    work.gate.open();
    assert_eq!(kind(running.await.unwrap()), ErrorKind::Unavailable);
    assert_eq!(ask(&late, request("buy"), answer("never")).await.unwrap().replayed(), "winner");
}
