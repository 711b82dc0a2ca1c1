//! Effects in the same file, fenced by the lease.

use std::time::Duration;

use keylatch::machine::{Claimed, Completion, End};
use keylatch::sqlite::{Options, assert_owner};
use keylatch::store::{Applied, Store as _};
use keylatch::{Clock, Guarantee, Lease, Outcome, Policy, Timestamp};

use crate::support::{Fixture, claim_of};

async fn won(fixture: &Fixture, key: &str) -> Lease {
    match fixture.store.claim(claim_of(key, Guarantee::Fenced)).await.unwrap().value {
        Claimed::Won(record) => record.lease(),
        Claimed::Held(record) => panic!("held: {record:?}"),
    }
}

/// Writes a name under `lease`, and says whether it was accepted.
async fn write(fixture: &Fixture, lease: Lease, name: &'static str) -> bool {
    let written = fixture.store.execute(move |db| {
        db.execute("INSERT INTO item (name) VALUES (?1)", [name])?;
        assert_owner(db, lease)
    });
    match written.await {
        Ok(()) => true,
        Err(error) if error.is_lease_lost() => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_late_owner_writes_nothing() {
    let clock = Clock::manual(Timestamp::from_millis(1));
    let fixture = Fixture::with(Options::default().with_clock(clock.clone())).await;
    fixture.store.execute(|db| db.execute_batch("CREATE TABLE item (name TEXT NOT NULL UNIQUE)")).await.unwrap();

    let first = won(&fixture, "k").await;
    assert!(write(&fixture, first, "in time").await);
    clock.advance(Policy::default().lease + Duration::from_millis(1));
    assert!(write(&fixture, first, "late, and alone").await, "nobody has taken over");
    let second = won(&fixture, "k").await;
    assert!(!write(&fixture, first, "too late").await);
    assert!(write(&fixture, second, "the winner's").await);

    let completion = Completion::new(Outcome::bytes("done"), &Policy::default());
    assert!(matches!(fixture.store.complete(second, completion).await.unwrap(), Applied::Applied(_)));
    assert!(!write(&fixture, second, "after the end").await);
    let third = won(&fixture, "l").await;
    assert!(matches!(fixture.store.release(third, End::Free(Duration::ZERO)).await.unwrap(), Applied::Applied(_)));
    assert!(!write(&fixture, third, "after the release").await);

    assert_eq!(fixture.items().await, ["in time", "late, and alone", "the winner's"]);
}
