//! Callers that disappear, at any point.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, poll};
use keylatch::Guarantee;
use keylatch::sqlite::{Loaned, TxError};
use keylatch::store::{ErrorKind, Store as _, Sweep as _};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};

use crate::support::{Fixture, add, claim, committed, keep};

/// Polled at each wake-up, up to this many times, and then dropped.
const POLLS_MAX: usize = 40;

/// Polls `attempt`, which does not end, until its handler `has_begun`.
async fn until(attempt: &mut (impl Future + Unpin), mut has_begun: impl FnMut() -> bool) {
    poll_fn(|context| {
        assert!(attempt.poll_unpin(context).is_pending());
        if has_begun() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn an_attempt_cut_off_anywhere_happened_or_did_not() {
    let fixture = Fixture::with_items().await;
    let mut committed = 0;
    for round in 0..5 {
        for polls in 0..POLLS_MAX {
            let claim = claim(Guarantee::Atomic);
            let name = format!("{round} {polls}");
            let inserted = name.clone();
            let mut attempt = Box::pin(fixture.attempt(claim.clone(), async move |mut tx| {
                yield_now().await;
                add(&mut tx, &inserted).await.unwrap();
                keep("done")
            }));
            for _ in 0..polls {
                if poll!(&mut attempt).is_ready() {
                    break;
                }
                std::thread::yield_now();
            }
            drop(attempt);
            // Another write: after it, the cancelled one has happened or never will.
            fixture.store.sweep(1).await.unwrap();
            let recorded = fixture.record(&claim).await.is_some();
            assert_eq!(fixture.items().await.contains(&name), recorded, "{name}");
            committed += usize::from(recorded);
        }
    }
    assert!(committed < 5 * POLLS_MAX, "none was cut off");
}

#[tokio::test]
async fn what_is_left_of_a_cut_off_handler_harms_nobody() {
    struct Spiteful;
    impl Drop for Spiteful {
        fn drop(&mut self) {
            tokio::runtime::Handle::current();
            if !std::thread::panicking() {
                panic!("dropped");
            }
        }
    }
    let fixture = Fixture::with_items().await;
    let raw = fixture.raw();
    for inside in [false, true] {
        // The writer waits for the lock, and holds one attempt.
        raw.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut blocker = pin!(fixture.store.claim(claim(Guarantee::Fenced)));
        assert!(poll!(&mut blocker).is_pending());
        let (running, has_run) = mpsc::channel();
        let (leave, left) = mpsc::channel();
        let (begin, begun) = mpsc::channel();
        let mut attempt = Box::pin(fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
            let _spiteful = Spiteful;
            begin.send(()).unwrap();
            let held = tx.run(move |_| {
                running.send(()).unwrap();
                left.recv().unwrap();
                Ok(())
            });
            held.await.unwrap();
            pending::<()>().await;
            keep("done")
        }));
        until(&mut attempt, || begun.try_recv().is_ok()).await;
        if inside {
            raw.execute_batch("ROLLBACK").unwrap();
            has_run.recv_timeout(Duration::from_secs(30)).unwrap();
            drop(attempt);
            leave.send(()).unwrap();
        } else {
            drop(attempt);
            raw.execute_batch("ROLLBACK").unwrap();
        }
        blocker.await.unwrap();
        fixture.win(&claim(Guarantee::Fenced)).await;
    }
}

/// A task that was given the transaction, and the result of using it there.
fn use_in_a_task(mut tx: Loaned) -> JoinHandle<Result<(), TxError>> {
    tokio::spawn(async move { tx.run(|_| Ok(())).await })
}

#[tokio::test]
async fn a_transaction_elsewhere_is_over_when_its_attempt_is_cut_off() {
    let fixture = Fixture::new().await;
    let (moved, mut task) = oneshot::channel();
    let mut attempt = Box::pin(fixture.attempt(claim(Guarantee::Atomic), async move |tx| {
        moved.send(use_in_a_task(tx)).unwrap();
        pending::<()>().await;
        keep("done")
    }));
    let mut used = None;
    until(&mut attempt, || {
        used = task.try_recv().ok();
        used.is_some()
    })
    .await;
    drop(attempt);
    assert!(matches!(used.unwrap().await.unwrap(), Err(TxError::Over)));
}

#[tokio::test]
async fn a_transaction_elsewhere_is_over_when_its_batch_fails() {
    let options = keylatch::sqlite::Options::default().with_busy_timeout(Duration::from_millis(1));
    let fixture = Fixture::with(options).await;
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (moved, task) = oneshot::channel();
    let attempt = fixture.attempt(claim(Guarantee::Atomic), async move |tx| {
        moved.send(use_in_a_task(tx)).unwrap();
        pending::<()>().await;
        keep("done")
    });
    assert_eq!(attempt.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(matches!(task.await.unwrap().await.unwrap(), Err(TxError::Over)));
}

#[tokio::test]
async fn one_that_waits_for_a_place_can_go_away() {
    let options = keylatch::sqlite::Options::default().with_queue_jobs_max(1).with_batch_jobs_max(1);
    let fixture = Fixture::with(options).await;
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting: Vec<_> = (0..8).map(|_| fixture.store.claim(claim(Guarantee::Fenced))).collect();
    for claim in &mut waiting {
        assert!(poll!(claim).is_pending());
    }
    let mut attempt = Box::pin(fixture.attempt(claim(Guarantee::Atomic), async |_| keep("done")));
    assert!(poll!(&mut attempt).is_pending());
    drop(attempt);
    drop(waiting);
    raw.execute_batch("ROLLBACK").unwrap();
    committed(fixture.attempt(claim(Guarantee::Atomic), async |_| keep("done")).await);
}

#[tokio::test]
async fn a_lock_held_by_another_process_is_waited_for() {
    let fixture = Fixture::new().await;
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let mut claimed = pin!(fixture.store.claim(claim(Guarantee::Fenced)));
    while started.elapsed() < Duration::from_millis(50) {
        assert!(poll!(&mut claimed).is_pending());
        yield_now().await;
    }
    raw.execute_batch("ROLLBACK").unwrap();
    claimed.await.unwrap();
}
