//! A caller may hang up at any point: the write then happened or did not, and the store still works.

use std::pin::pin;
use std::task::Poll;

use super::Harness;
use super::fixture::{
    FREE, GONE, LEASE, POLICY, RETENTION, Subject, TOMBSTONE, again, completion, fenced, notes, outcome, reused, scope,
};
use crate::machine::Terms;
use crate::store::{Applied, PageRequest};
use crate::{Epoch, Guarantee, Outcome};

/// More polls than any call of a store needs.
const POLLS_MAX: usize = 1_000;
/// This many sweeps, each a round trip, take longer than a server takes to end one that was cut off.
const SWEEPS_MAX: usize = 10_000;

/// Polls `call` up to `polls` times, whenever it asks for it, then drops it; `true` if it completed before.
pub(super) async fn cut_off<T>(call: impl Future<Output = T>, polls: usize) -> bool {
    let mut call = pin!(call);
    let mut polled = 0;
    std::future::poll_fn(|context| {
        if polled == polls {
            return Poll::Ready(false);
        }
        polled += 1;
        match call.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            // Does not wait after the last poll: the call is dropped while it is pending.
            Poll::Pending if polled == polls => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Does `attempt` with 0, 1, 2, … polls, until it completes.
async fn at_every_await(mut attempt: impl AsyncFnMut(usize) -> bool) {
    for polls in 0..POLLS_MAX {
        if attempt(polls).await {
            return;
        }
    }
    panic!("a call is not over after {POLLS_MAX} polls");
}

async fn assert_usable(subject: &Subject<'_>, round: usize) {
    let claim = fenced(&format!("usable-{round}"));
    let record = subject.win(&claim).await;
    subject.assert_applied(subject.complete(record.lease(), completion("usable")).await).await;
    assert_eq!(outcome(&subject.lose(&again(&claim)).await), Some(&Outcome::bytes("usable")));
}

/// A claim that is dropped was won or not made: sent again, it is won, once.
pub async fn claim_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        let claim = fenced(&format!("key-{polls}"));
        let ended = cut_off(subject.store.claim(claim.clone()), polls).await;
        let record = subject.win(&claim).await;
        assert_eq!((record.epoch, record.attempt, record.owner), (Epoch::FIRST, 1, claim.owner));
        let _ = subject.lose(&again(&claim)).await;
        let _ = subject.lose(&reused(&claim)).await;
        assert_usable(&subject, polls).await;
        ended
    })
    .await;
}

/// A renewal that is dropped was made or not: sent again, it holds, and its step is noted once.
pub async fn renewal_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        let claim = fenced(&format!("key-{polls}"));
        let lease = subject.win(&claim).await.lease();
        let terms = Terms::of(Guarantee::Fenced, &POLICY);
        let step = ("charge".to_owned(), "paid".into());
        let ended = cut_off(subject.store.renew(lease, terms, Some(step)), polls).await;
        subject.assert_applied(subject.note(lease, "charge", "paid").await).await;
        assert_eq!(notes(&subject.record(claim.id()).await).steps.len(), 1);
        assert_usable(&subject, polls).await;
        ended
    })
    .await;
}

/// A completion that is dropped was made or not: sent again, it is applied, and the answer is there.
pub async fn completion_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        let claim = fenced(&format!("key-{polls}"));
        let lease = subject.win(&claim).await.lease();
        let ended = cut_off(subject.store.complete(lease, completion("answer")), polls).await;
        subject.assert_applied(subject.complete(lease, completion("answer")).await).await;
        assert_eq!(outcome(&subject.lose(&again(&claim)).await), Some(&Outcome::bytes("answer")));
        assert_usable(&subject, polls).await;
        ended
    })
    .await;
}

/// A release that is dropped was made or not: sent again, the key is free, and its next owner keeps it.
pub async fn release_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        let claim = fenced(&format!("key-{polls}"));
        let lease = subject.win(&claim).await.lease();
        let ended = cut_off(subject.store.release(lease, FREE), polls).await;
        match subject.release(lease, FREE).await {
            Applied::Applied(_) => assert!(!ended, "a release that ended left nothing to release"),
            Applied::Lost => {}
        }
        let next = subject.win(&reused(&claim)).await;
        assert_eq!(subject.record(claim.id()).await, next);
        assert_usable(&subject, polls).await;
        ended
    })
    .await;
}

/// A call to forget an answer that is dropped was made or not: sent again, the answer is gone, and its tombstone is there.
pub async fn forgetting_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        let claim = fenced(&format!("key-{polls}"));
        let lease = subject.win(&claim).await.lease();
        subject.assert_applied(subject.complete(lease, completion("answer")).await).await;
        let ended = cut_off(subject.store.forget(lease), polls).await;
        subject.assert_applied(subject.forget(lease).await).await;
        assert_eq!(outcome(&subject.lose(&again(&claim)).await), None);
        assert_usable(&subject, polls).await;
        ended
    })
    .await;
}

/// A sweep that is dropped has swept or not: after another sweep, everything that is due is gone, and nothing else.
pub async fn sweep_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    at_every_await(async |polls| {
        for at in 0..5 {
            let record = subject.win(&fenced(&format!("key-{polls}-{at}"))).await;
            subject.assert_applied(subject.complete(record.lease(), completion("answer")).await).await;
        }
        subject.advance(RETENTION + TOMBSTONE).await;
        let running = subject.win(&fenced(&format!("running-{polls}"))).await;
        let ended = cut_off(subject.store.sweep(3), polls).await;
        // The server may still be executing the one that was dropped: other sweeps skip the records that it holds.
        for _ in 0..SWEEPS_MAX {
            if subject.sweep(3).await.total() == 0 && subject.list_all().await.len() == 1 {
                break;
            }
        }
        assert_eq!(subject.list_all().await, std::slice::from_ref(&running));
        subject.assert_applied(subject.release(running.lease(), GONE).await).await;
        let usable = fenced(&format!("usable-{polls}"));
        assert_usable(&subject, polls).await;
        subject.advance(RETENTION + TOMBSTONE + LEASE).await;
        assert_eq!(subject.sweep(3).await.removed, 1);
        assert_eq!(subject.read(usable.id()).await, None);
        ended
    })
    .await;
}

/// A read that is dropped leaves nothing behind.
pub async fn reads_can_be_cut_off(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let (claim, _) = subject.in_phase(crate::machine::Phase::Completed, "key").await;
    at_every_await(async |polls| {
        let page = PageRequest { scope: None, after: None, limit: 10 };
        let ended = [
            cut_off(subject.store.read(claim.id()), polls).await,
            cut_off(subject.store.list(page), polls).await,
            cut_off(subject.store.count(scope("caller"), 10), polls).await,
        ];
        assert_usable(&subject, polls).await;
        ended.iter().all(|ended| *ended)
    })
    .await;
}

/// Many calls dropped at once, as when all clients go away, leave the store usable.
pub async fn many_calls_can_be_cut_off_at_once(harness: &dyn Harness) {
    let subject = Subject::new(harness);
    let claims: Vec<_> = (0..200).map(|at| fenced(&format!("key-{at}"))).collect();
    for polls in 0..3 {
        let calls = claims.iter().map(|claim| cut_off(subject.store.claim(claim.clone()), polls));
        let _ = futures_util::future::join_all(calls).await;
    }
    for claim in &claims {
        assert_eq!(subject.win(claim).await.epoch, Epoch::FIRST);
    }
    assert_usable(&subject, 0).await;
}
