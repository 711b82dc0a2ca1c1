//! `Atomic`: a handler's writes, its answer and its record are one unit.

use std::time::Duration;

use keylatch::postgres::Options;

use crate::support::{Service, database, records, store, store_with};

/// A limit that nothing else passes, even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(2);

async fn service() -> Service {
    Service::start(store(&database().await).await).await
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
async fn a_savepoint_takes_back_a_part() {
    let service = service().await;
    assert_eq!(service.post("careful", "a", 0).await.status, 201);
    assert_eq!(service.items().await, ["a", "a too"]);
    assert!(service.post("careful", "a", 0).await.replayed);
}

#[tokio::test]
async fn a_transaction_that_does_not_come_back_is_never_committed() {
    let options = Options::default().with_handler_pause_max(Some(LIMIT));
    let service = Service::start(store_with(&database().await, options).await).await;
    for how in ["moved", "leaked", "open"] {
        let before = service.items().await.len();
        let answer = service.post(how, how, 0).await;
        assert_eq!((answer.status, answer.code().as_str()), (500, "HANDLER_FAILED"), "{how}");
        assert_eq!(service.items().await.len(), before, "{how}");
        assert_eq!(service.post("created", &format!("after-{how}"), 0).await.status, 201, "others go on");
        // The key is free again once the server has ended the idle transaction.
        let retry = service.post(how, how, 30).await;
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

/// A handler may change its role, if it changes back: the record is written with the rights of the pool's role.
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
    let options = Options::default().with_handler_statement_max(Some(LIMIT));
    let service = Service::start(store_with(&database().await, options).await).await;
    assert_eq!(service.post("slow", "a", 0).await.status, 503);
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    assert_eq!(service.post("created", "a", 0).await.status, 201);
}

#[tokio::test]
async fn a_handler_that_idles_in_its_transaction_loses_it() {
    let options = Options::default().with_handler_pause_max(Some(LIMIT));
    let service = Service::start(store_with(&database().await, options).await).await;
    let answer = service.post("idle", "a", 0).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "IDEMPOTENCY_STORE_UNAVAILABLE"));
    assert_eq!((service.items().await.len(), records(&service.store).await), (0, 0));
    assert_eq!(service.post("created", "a", 0).await.status, 201);
}
