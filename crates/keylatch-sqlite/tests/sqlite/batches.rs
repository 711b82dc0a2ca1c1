//! Many callers share one commit.

use std::task::Poll;

use futures_util::future::join_all;
use futures_util::poll;
use keylatch::sqlite::Options;
use keylatch::store::Store as _;
use keylatch::tx::Transacted;
use keylatch::{Guarantee, tx::Verdict};

use crate::support::{Fixture, add, claim, claim_of, committed, keep, won};

#[tokio::test]
async fn what_waits_goes_together() {
    let fixture = Fixture::new().await;
    let raw = fixture.raw();
    let before = fixture.log().commits();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut claims: Vec<_> = (0..64).map(|_| fixture.store.claim(claim(Guarantee::Fenced))).collect();
    for claim in &mut claims {
        assert!(matches!(poll!(claim), Poll::Pending));
    }
    raw.execute_batch("ROLLBACK").unwrap();
    for claimed in join_all(claims).await {
        won(claimed);
    }
    // The first job may have been taken alone, before the others arrived.
    let commits = fixture.log().commits() - before;
    assert!((1..=2).contains(&commits), "{commits} commits");
}

#[tokio::test]
async fn handlers_of_one_batch_stand_apart() {
    let fixture = Fixture::with_items().await;
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut attempts: Vec<_> = (0..40)
        .map(|n| {
            Box::pin(fixture.attempt(claim(Guarantee::Atomic), async move |mut tx| {
                add(&mut tx, &format!("{n:02}")).await.unwrap();
                match n % 4 {
                    0 => keep("done"),
                    1 => Verdict::KeepOutcomeOnly(keylatch::Outcome::bytes("no")),
                    2 => Verdict::Free,
                    _ => std::future::pending().await,
                }
            }))
        })
        .collect();
    for attempt in &mut attempts {
        assert!(poll!(attempt).is_pending());
    }
    raw.execute_batch("ROLLBACK").unwrap();
    for (n, result) in join_all(attempts).await.into_iter().enumerate() {
        match (n % 4, result.unwrap().value) {
            (0 | 1, Transacted::Committed(_)) | (2, Transacted::RolledBack) | (3, Transacted::Misused(_)) => {}
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    let kept: Vec<_> = (0..40).step_by(4).map(|n| format!("{n:02}")).collect();
    assert_eq!(fixture.items().await, kept);
}

#[tokio::test]
async fn two_attempts_of_one_batch_at_one_key_have_one_winner() {
    let fixture = Fixture::with_items().await;
    let raw = fixture.raw();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut attempts: Vec<_> = (0..8)
        .map(|n| {
            Box::pin(fixture.attempt(claim_of("key", Guarantee::Atomic), async move |mut tx| {
                add(&mut tx, &n.to_string()).await.unwrap();
                keep("done")
            }))
        })
        .collect();
    for attempt in &mut attempts {
        assert!(poll!(attempt).is_pending());
    }
    raw.execute_batch("ROLLBACK").unwrap();
    let mut results = join_all(attempts).await.into_iter();
    let record = committed(results.next().unwrap());
    for result in results {
        assert_eq!(result.unwrap().value, Transacted::Held(Some(record.clone())));
    }
    assert_eq!(fixture.items().await, ["0"]);
}

#[tokio::test]
async fn a_batch_that_only_reads_writes_nothing() {
    let fixture = Fixture::new().await;
    won(fixture.store.claim(claim_of("key", Guarantee::Fenced)).await);
    let before = fixture.log().commits();
    for _ in 0..100 {
        let held = fixture.store.claim(claim_of("key", Guarantee::Fenced)).await.unwrap().value;
        assert!(matches!(held, keylatch::machine::Claimed::Held(_)));
    }
    assert_eq!(fixture.log().commits(), before);
}

#[tokio::test]
async fn callers_beyond_the_queue_wait_for_a_place() {
    let fixture = Fixture::with(Options::default().with_queue_jobs_max(1).with_batch_jobs_max(1)).await;
    for claimed in join_all((0..50).map(|_| fixture.store.claim(claim(Guarantee::Fenced)))).await {
        won(claimed);
    }
}
