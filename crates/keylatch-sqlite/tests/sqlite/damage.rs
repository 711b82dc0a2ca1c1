//! A record that cannot be read never counts as absent.

use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use keylatch::machine::{Claim, Completion, End};
use keylatch::sqlite::Options;
use keylatch::store::{ErrorKind, Inspect as _, PageRequest, Store as _, Sweep as _, Swept};
use keylatch::{Clock, Guarantee, Outcome, Policy, Timestamp};

use crate::support::{Fixture, claim, claim_of, keep, scope};

async fn completed(fixture: &Fixture, claim: &Claim) {
    let lease = fixture.win(claim).await.lease();
    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    let _ = fixture.store.complete(lease, completion).await.unwrap();
}

const DAMAGE: [&str; 14] = [
    "outcome = x'09'",
    "outcome = x''",
    "outcome = substr(outcome, 1, length(outcome) - 1)",
    "state = 'dreaming'",
    "state = 'running'",
    "guarantee = 'hope'",
    "caller = ''",
    "caller = 'another'",
    "operation = 'another'",
    "key = 'another'",
    "key = ''",
    "fingerprint = x'00'",
    "owner = x'00'",
    "epoch = -1",
];

#[tokio::test]
async fn no_use_of_a_damaged_record_takes_it_for_absent() {
    for damage in DAMAGE {
        let fixture = Fixture::new().await;
        let (damaged, other) = (claim(Guarantee::Fenced), claim(Guarantee::Fenced));
        let lease = fixture.win(&damaged).await.lease();
        let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
        let _ = fixture.store.complete(lease, completion.clone()).await.unwrap();
        completed(&fixture, &other).await;
        let changed = fixture
            .raw()
            .execute(&format!("UPDATE keylatch_record SET {damage} WHERE id = ?1"), [damaged.id().as_bytes()]);
        assert_eq!(changed.unwrap(), 1);

        let again = Claim { owner: keylatch::store::Owner::random(), ..damaged.clone() };
        let attempt = Claim { guarantee: Guarantee::Atomic, ..again.clone() };
        let store = &fixture.store;
        let errors = [
            store.read(damaged.id()).await.map(drop),
            store.claim(again).await.map(drop),
            store.complete(lease, completion).await.map(drop),
            store.renew(lease, damaged.terms, None).await.map(drop),
            store.release(lease, End::Free(Duration::ZERO)).await.map(drop),
            store.list(PageRequest { limit: 10, ..PageRequest::default() }).await.map(drop),
            fixture.attempt(attempt, async |_| keep("again")).await.map(drop),
        ];
        for error in errors {
            let error = error.expect_err(damage);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
            assert!(error.to_string().contains(&damaged.id().to_string()), "{damage}: {error}");
            assert!(!error.to_string().contains(damaged.key().as_str()), "{damage}: {error}");
        }
        assert!(fixture.record(&other).await.is_some());
        assert_eq!(store.count(scope(), 10).await.unwrap().at_least(), 2);
    }
}

#[tokio::test]
async fn a_sweep_goes_round_what_it_cannot_read() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let fixture = Fixture::with(Options::default().with_clock(clock.clone())).await;
    for n in 0..6 {
        completed(&fixture, &claim_of(&n.to_string(), Guarantee::Fenced)).await;
    }
    let damaged = fixture.raw().execute("UPDATE keylatch_record SET state = 'dreaming' WHERE key < '3'", []);
    assert_eq!(damaged.unwrap(), 3);
    clock.advance(Policy::default().retention);
    assert_eq!(fixture.store.sweep(2).await.unwrap(), Swept { tombstoned: 2, removed: 0, more: true });
    assert_eq!(fixture.store.sweep(2).await.unwrap(), Swept { tombstoned: 1, removed: 0, more: false });
    assert_eq!(fixture.store.sweep(2).await.unwrap(), Swept::default());
    assert_eq!(fixture.store.count(scope(), 10).await.unwrap().at_least(), 6);
}

#[tokio::test]
async fn a_sweep_reads_no_answer() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let fixture = Fixture::with(Options::default().with_clock(clock.clone())).await;
    for n in 0..3 {
        completed(&fixture, &claim_of(&n.to_string(), Guarantee::Fenced)).await;
    }
    // A read of this record reports it.
    fixture.raw().execute("UPDATE keylatch_record SET outcome = x'09'", []).unwrap();
    clock.advance(Policy::default().retention);
    assert_eq!(fixture.store.sweep(10).await.unwrap(), Swept { tombstoned: 3, removed: 0, more: false });
    clock.advance(Policy::default().tombstone);
    assert_eq!(fixture.store.sweep(10).await.unwrap(), Swept { tombstoned: 0, removed: 3, more: false });
}

#[tokio::test]
async fn other_writes_go_between_the_slices_of_a_sweep() {
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let fixture = Fixture::with(Options::default().with_clock(clock.clone())).await;
    const RECORDS: usize = 250;
    let claims: Vec<_> = (0..RECORDS).map(|n| claim_of(&n.to_string(), Guarantee::Fenced)).collect();
    join_all(claims.iter().map(|claim| completed(&fixture, claim))).await;
    clock.advance(Policy::default().retention);
    let mut sweep = fixture.store.sweep(RECORDS);
    let mut between = 0;
    let swept = loop {
        if let Poll::Ready(swept) = poll!(&mut sweep) {
            break swept.unwrap();
        }
        // It comes after the current slice, and before the next slice, which nobody has requested yet.
        fixture.win(&claim(Guarantee::Fenced)).await;
        between += 1;
    };
    assert_eq!(swept, Swept { tombstoned: RECORDS, removed: 0, more: true });
    assert!(between >= 2, "{between} writes between");
    assert_eq!(fixture.store.sweep(RECORDS).await.unwrap(), Swept::default());
}
