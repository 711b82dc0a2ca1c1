//! How the callers of a batch get their replies: from one task if they all live on one runtime, and otherwise from the
//! writer.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use keylatch::Guarantee;
use keylatch::machine::Claimed;
use keylatch::sqlite::{Loaned, Options};
use keylatch::store::{At, Error, ErrorKind, Inspect as _, Store as _};
use keylatch::tx::Transacted;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::support::{self, Fixture, add, claim, keep, scope, won};

const CALLERS: usize = 16;
const THREAD: &str = "callers";

/// A runtime with one thread.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(THREAD).enable_all().build().unwrap()
}

/// Blocks the one thread of `runtime` until the sender is dropped.
fn hold_thread(runtime: &Runtime) -> mpsc::Sender<()> {
    let (leave, left) = mpsc::channel::<()>();
    let (begin, begun) = mpsc::channel();
    runtime.spawn(async move {
        begin.send(()).unwrap();
        let _ = left.recv();
    });
    begun.recv().unwrap();
    leave
}

/// Keeps the writer in a batch of one until the sender is dropped: jobs that arrive meanwhile are the next batch.
async fn hold_writer(fixture: &Fixture) -> mpsc::Sender<()> {
    let (leave, left) = mpsc::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let store = fixture.store.clone();
    tokio::spawn(async move {
        let held = store.execute(move |_| {
            begin.send(()).unwrap();
            let _ = left.recv();
            Ok(())
        });
        held.await.unwrap();
    });
    begun.await.unwrap();
    leave
}

type Claims<'a> = Vec<BoxFuture<'a, Result<At<Claimed>, Error>>>;

/// Asks for claims as a caller that lives on `runtime` does.
fn ask<'a>(runtime: &Handle, fixture: &'a Fixture) -> Claims<'a> {
    let _entered = runtime.enter();
    let mut claims = (0..CALLERS).map(|_| fixture.store.claim(claim(Guarantee::Fenced))).collect();
    assert_unanswered(&mut claims);
    claims
}

fn assert_unanswered(claims: &mut Claims<'_>) {
    assert!(claims.iter_mut().all(|claim| claim.now_or_never().is_none()));
}

async fn assert_won(claims: Claims<'_>) {
    for claimed in join_all(claims).await {
        won(claimed);
    }
}

#[tokio::test]
async fn callers_are_told_on_their_runtime_or_when_it_ends() {
    let fixture = Fixture::new().await;
    let leave = hold_writer(&fixture).await;
    let callers = runtime();
    let free = hold_thread(&callers);
    let mut claims = ask(callers.handle(), &fixture);
    drop(leave);
    for _ in 0..1_000_000 {
        if fixture.store.count(scope(), u64::MAX).await.unwrap().at_least() == CALLERS as u64 {
            break;
        }
    }
    // The batch after theirs, so that their replies have been handed on.
    won(fixture.store.claim(claim(Guarantee::Fenced)).await);
    assert_unanswered(&mut claims);
    callers.shutdown_background();
    drop(free);
    assert_won(claims).await;
}

#[tokio::test]
async fn a_runtime_that_has_ended_is_not_needed() {
    let fixture = Fixture::new().await;
    let leave = hold_writer(&fixture).await;
    let callers = runtime();
    let claims = ask(callers.handle(), &fixture);
    callers.shutdown_background();
    drop(leave);
    assert_won(claims).await;
}

#[tokio::test]
async fn a_runtime_that_nobody_drives_is_not_needed() {
    let fixture = Fixture::new().await;
    let leave = hold_writer(&fixture).await;
    let idle = Builder::new_current_thread().build().unwrap();
    let claims = ask(idle.handle(), &fixture);
    drop(leave);
    assert_won(claims).await;
    idle.shutdown_background();
}

#[tokio::test]
async fn a_runtime_that_is_held_up_holds_up_no_other() {
    let fixture = Fixture::new().await;
    let leave = hold_writer(&fixture).await;
    let (held_up, other) = (runtime(), runtime());
    let free = hold_thread(&held_up);
    let claims = [ask(held_up.handle(), &fixture), ask(other.handle(), &fixture)];
    drop(leave);
    assert_won(claims.into_iter().flatten().collect()).await;
    drop(free);
    held_up.shutdown_background();
    other.shutdown_background();
}

#[test]
fn all_hear_of_a_batch_that_failed() {
    runtime().block_on(async {
        let fixture = Fixture::with(Options::default().with_busy_timeout(Duration::from_millis(1))).await;
        let raw = fixture.raw();
        raw.execute_batch("BEGIN IMMEDIATE").unwrap();
        for claimed in join_all((0..CALLERS).map(|_| fixture.store.claim(claim(Guarantee::Fenced)))).await {
            assert_eq!(claimed.unwrap_err().kind(), ErrorKind::Unavailable);
        }
    });
}

/// Records where it is dropped, and panics.
struct Spiteful(mpsc::Sender<Option<String>>);

impl Drop for Spiteful {
    fn drop(&mut self) {
        self.0.send(thread::current().name().map(str::to_owned)).unwrap();
        assert!(thread::panicking(), "dropped");
    }
}

#[test]
fn what_is_left_of_a_cut_off_handler_is_dropped_among_its_like_and_harms_none() {
    runtime().block_on(async {
        let fixture = Fixture::with_items().await;
        let leave = hold_writer(&fixture).await;
        let (begin, begun) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let attempt = |name: String, spiteful: Option<Spiteful>| {
            let (begin, store) = (begin.clone(), fixture.store.clone());
            let handler = async move |mut tx: Loaned| {
                let _spiteful = spiteful;
                begin.send(()).unwrap();
                add(&mut tx, &name).await.unwrap();
                keep("done")
            };
            tokio::spawn(
                async move { support::attempt(&store, claim(Guarantee::Atomic), handler).await.unwrap().value },
            )
        };
        let cut_off = attempt("cut off".to_owned(), Some(Spiteful(tell)));
        let others: Vec<_> = (1..CALLERS).map(|n| attempt(n.to_string(), None)).collect();
        for _ in 0..CALLERS {
            begun.recv().unwrap();
        }
        cut_off.abort();
        assert!(cut_off.await.unwrap_err().is_cancelled());
        drop(leave);
        for other in others {
            assert!(matches!(other.await.unwrap(), Transacted::Committed(_)));
        }
        assert_eq!(told.recv().unwrap().as_deref(), Some(THREAD));
        assert_eq!(fixture.items().await.len(), CALLERS - 1);
    });
}
