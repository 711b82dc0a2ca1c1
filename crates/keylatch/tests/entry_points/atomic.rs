//! Requests that meet a run in a transaction, before and after its commit.

use std::time::Duration;

use keylatch::entry_point::{Answer, Request};
use keylatch::sqlite::{Sqlite, Store};
use keylatch::tx::Verdict;
use keylatch::{Engine, Limits, Outcome, Policy, Refused};
use tokio::sync::oneshot;

use crate::{input, key, scope};

async fn engine() -> (tempfile::TempDir, Engine) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path().join("k.db")).await.unwrap();
    (directory, Engine::atomic(store, Policy::default(), Limits::default()).unwrap())
}

fn request(text: &str) -> Request {
    Request { scope: scope(), key: key("k"), fingerprint: input(text), wait: Duration::ZERO }
}

async fn refused(engine: &Engine, text: &str) -> Refused {
    match engine.answer(request(text), |_| async { panic!("it has lost") as (Verdict, ()) }).await.unwrap() {
        Answer::Refused(refused) => refused,
        answer => panic!("it is not refused: {answer:?}"),
    }
}

/// A run that has not committed may die with its process, and then the other request may take effect. So nothing final
/// is said of the key before the commit.
#[tokio::test]
async fn i7_another_request_is_told_of_reuse_only_after_the_commit() {
    let (_directory, engine) = engine().await;
    let ((begun, has_begun), (go_on, may_go_on)) = (oneshot::channel(), oneshot::channel());
    let running = tokio::spawn({
        let engine = engine.clone();
        async move {
            let start = |given: keylatch::entry_point::RunOrTx| async move {
                let mut tx = given.tx::<Sqlite>().expect("it is in a transaction");
                begun.send(()).expect("the test listens");
                may_go_on.await.expect("the test lets it go on");
                tx.run(|db| db.execute_batch("CREATE TABLE bought (item TEXT)")).await.expect("it writes");
                (Verdict::Keep(Outcome::bytes("bought")), ())
            };
            engine.answer(request("buy"), start).await
        }
    });
    has_begun.await.unwrap();
    assert_eq!(refused(&engine, "sell").await, Refused::InProgress);
    assert_eq!(refused(&engine, "buy").await, Refused::InProgress);
    go_on.send(()).unwrap();
    assert!(matches!(running.await.unwrap().unwrap(), Answer::Ran(_)));
    assert_eq!(refused(&engine, "sell").await, Refused::Mismatch);
}
