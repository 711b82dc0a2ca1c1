//! `Atomic`: what a handler writes, its answer and its record are one.

use std::time::Duration;

use keylatch::machine::{Claim, Claimed, Terms};
use keylatch::postgres::Options;
use keylatch::store::Store as _;
use keylatch::{Epoch, Fingerprint, Guarantee, Key, Policy, Scope};

use crate::support::{Service, database, records, store, store_with};

async fn service() -> Service {
    Service::start(store(&database().await).await).await
}

#[tokio::test]
async fn writes_answer_and_record_commit_together() {
    let service = service().await;
    let first = service.post("created", "a", 0).await;
    assert_eq!((first.status, first.replayed, first.body.as_str()), (201, false, "created a"));
    let second = service.post("created", "a", 0).await;
    assert_eq!((second.status, second.replayed, second.body.as_str()), (201, true, "created a"));
    assert_eq!(service.items().await, ["a"]);
    assert_eq!(service.send("created", "a", "other", 0).await.code(), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(records(&service.store).await, 1);
}

#[tokio::test]
async fn a_failure_takes_everything_back_and_frees_the_key() {
    let service = service().await;
    for how in ["failed", "panic"] {
        assert_eq!(service.post(how, "a", 0).await.status, 500);
        assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    }
    let retry = service.post("created", "a", 0).await;
    assert_eq!((retry.status, retry.replayed), (201, false));
    assert_eq!(service.items().await, ["a"]);
}

#[tokio::test]
async fn a_refusal_keeps_its_answer_and_takes_the_writes_back() {
    let service = service().await;
    for replayed in [false, true] {
        let answer = service.post("refused", "a", 0).await;
        assert_eq!((answer.status, answer.replayed, answer.body.as_str()), (422, replayed, "refused a"));
        assert_eq!(service.items().await.len(), 0);
    }
    assert_eq!(records(&service.store).await, 1);
}

#[tokio::test]
async fn a_savepoint_takes_back_a_part() {
    let service = service().await;
    assert_eq!(service.post("careful", "a", 0).await.status, 201);
    assert_eq!(service.items().await, ["a", "a too"]);
    assert!(service.post("careful", "a", 0).await.replayed);
}

#[tokio::test]
async fn a_transaction_that_does_not_come_back_is_never_committed() {
    let options = Options::default().with_handler_pause_max(Some(Duration::from_millis(100)));
    let service = Service::start(store_with(&database().await, options).await).await;
    for how in ["moved", "leaked", "open"] {
        let before = service.items().await.len();
        let answer = service.post(how, how, 0).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "HANDLER_FAILED"), "{how}");
        assert_eq!(service.items().await.len(), before, "{how}");
        assert_eq!(service.post("created", &format!("after-{how}"), 0).await.status, 201, "others go on");
        // The key is free again once the server has ended what idles.
        let retry = service.post(how, how, 10).await;
        assert_eq!((retry.status, retry.code().as_str()), (500, "HANDLER_FAILED"), "it runs again");
    }
    assert_eq!(records(&service.store).await, 3);
}

#[tokio::test]
async fn success_after_a_failed_statement_is_a_failure() {
    let service = service().await;
    for how in ["careless", "deferred"] {
        let answer = service.post(how, how, 0).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "HANDLER_FAILED"), "{how}");
        assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0), "{how}");
    }
    assert_eq!(service.post("created", "a", 0).await.status, 201);
}

#[tokio::test]
async fn a_transaction_that_its_handler_ends_has_no_record() {
    let service = service().await;
    let answer = service.post("ended", "a", 0).await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "HANDLER_FAILED"));
    assert_eq!(records(&service.store).await, 0);
    assert_eq!(service.items().await, ["a"], "what a handler commits itself is beyond help");
    assert_eq!(service.post("created", "b", 0).await.status, 201);
}

/// A handler may take another role, if it gives it back: the record is written with the rights of the pool's.
#[tokio::test]
async fn a_role_that_is_not_given_back_is_a_mistake_of_the_handler() {
    let service = service().await;
    let answer = service.post("another-role", "a", 0).await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "HANDLER_FAILED"));
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    assert_eq!(service.post("role-and-back", "b", 0).await.status, 201);
    assert_eq!(service.items().await, ["b"]);
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_stopped() {
    let options = Options::default().with_handler_statement_max(Some(Duration::from_millis(100)));
    let service = Service::start(store_with(&database().await, options).await).await;
    assert_eq!(service.post("slow", "a", 0).await.status, 503);
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    assert_eq!(service.post("created", "a", 0).await.status, 201);
}

#[tokio::test]
async fn a_handler_that_idles_in_its_transaction_loses_it() {
    let options = Options::default().with_handler_pause_max(Some(Duration::from_millis(100)));
    let service = Service::start(store_with(&database().await, options).await).await;
    let answer = service.post("idle", "a", 0).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "IDEMPOTENCY_STORE_UNAVAILABLE"));
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    assert_eq!(service.post("created", "a", 0).await.status, 201);
}

/// A record that may be claimed anew is replaced by the one of the transaction, under the next epoch.
#[tokio::test]
async fn a_record_that_has_had_its_time_is_replaced() {
    let policy = Policy { retention: Duration::from_millis(1), tombstone: Duration::ZERO, ..Policy::default() };
    let service = Service::start_with(store(&database().await).await, policy).await;
    for run in 1..=3 {
        let answer = service.send("created", "key", &format!("item {run}"), 0).await;
        assert_eq!((answer.status, answer.replayed), (201, false));
        let epoch: i64 =
            sqlx::query_scalar("SELECT epoch FROM keylatch.record").fetch_one(service.store.pool()).await.unwrap();
        assert_eq!(epoch, run);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(service.items().await.len(), 3);
}

/// So is that of a run on a lease that has ended; one whose lease has not holds the key.
#[tokio::test]
async fn a_run_on_a_lease_holds_the_key_until_it_ends() {
    let service = service().await;
    let scope = Scope::new("user").unwrap().for_operation("POST /items/{}").unwrap();
    let claim = |lease| {
        let mut claim = Claim::new(
            scope.clone(),
            Key::new("key").unwrap(),
            Fingerprint::of([b"another".as_slice()]),
            Guarantee::Fenced,
            &Policy::default(),
        );
        claim.terms = Terms { lease, takeover: Some(lease), free: Some(lease) };
        claim
    };
    let Claimed::Won(record) = service.store.claim(claim(Duration::from_secs(60))).await.unwrap().value else {
        panic!("nobody else has the key");
    };
    assert_eq!(service.post("created", "key", 0).await.code(), "IDEMPOTENCY_KEY_REUSED");
    let applied = service.store.release(record.lease(), keylatch::machine::End::Retry(Duration::ZERO)).await.unwrap();
    assert_ne!(applied, keylatch::store::Applied::Lost);
    let answer = service.post("created", "key", 0).await;
    assert_eq!((answer.status, answer.replayed), (201, false));
    let record = service.store.read(record.id()).await.unwrap().value.unwrap();
    assert_eq!((record.epoch, record.attempt), (Epoch::from_u64(2), 1));
}
