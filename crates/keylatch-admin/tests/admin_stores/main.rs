//! What operators do, on real stores: SQLite, PostgreSQL and Redis.

mod consumers;
mod million;
mod racing;
mod regions;
mod setup;

use keylatch::store::Store;
use keylatch::{Guarantee, Outcome};
use keylatch_admin::ops::{Change, Find, Get, Header, ListRecords, Resolve, StatsOf, SweepRequest};
use keylatch_admin::view::Phase;
use keylatch_admin::{Error, Operator};
use testing_support::eventually;

use crate::setup::{SOON, claim, complete, operator, who};

fn change(epoch: u64) -> Change {
    Change { epoch, reason: "a test".to_owned(), dry_run: false }
}

/// Waits until the run of `id` has lapsed, on the store's clock.
async fn lapses(operator: &Operator, id: &str) {
    eventually(SOON, "the end of the lease", async || {
        operator.get(id, Get::default()).await.unwrap().record.phase == Phase::Unknown
    })
    .await;
}

async fn an_unknown_run_is_found_and_resolved(store: impl Store + Clone) {
    let operator = operator(store.clone());
    let who = who();
    let mut ids = Vec::new();
    for key in ["a", "b"] {
        ids.push(claim(&store, key, Guarantee::AtMostOnce).await.id().to_string());
    }
    for id in &ids {
        lapses(&operator, id).await;
    }
    let lapsed = operator.lapsed(ListRecords { phase: Some(Phase::Unknown), ..ListRecords::default() }).await.unwrap();
    assert_eq!(lapsed.records.len(), 2);
    assert_eq!(operator.stats(StatsOf::default()).await.unwrap().lapsed.unknown, 2);
    assert!(matches!(operator.release(&who, &ids[0], change(2)).await, Err(Error::Stale(_))));
    let released = operator.release(&who, &ids[0], change(1)).await.unwrap();
    assert!(released.applied && released.plan.second_run);
    assert_eq!(released.record.unwrap().phase, Phase::Free);
    let resolve = Resolve {
        epoch: 1,
        reason: "a test".to_owned(),
        dry_run: false,
        status: 201,
        headers: vec![Header { name: "location".to_owned(), value: "/a".to_owned() }],
        body: "paid".to_owned(),
    };
    assert_eq!(operator.resolve(&who, &ids[1], resolve).await.unwrap().record.unwrap().phase, Phase::Completed);
    let kept = operator.get(&ids[1], Get { body: true }).await.unwrap().kept.unwrap();
    assert_eq!((kept.status, kept.body.as_deref()), (201, Some("paid")));
    assert!(operator.lapsed(ListRecords::default()).await.unwrap().records.is_empty());
}

async fn a_living_owner_loses_nothing(store: impl Store + Clone) {
    let operator = operator(store.clone());
    let record = setup::claim_for(&store, "a", Guarantee::AtMostOnce, keylatch::LEASE).await;
    let id = record.id().to_string();
    for refused in [operator.release(&who(), &id, change(1)).await, operator.forget(&who(), &id, change(1)).await] {
        assert!(matches!(refused, Err(Error::Alive(_))), "{refused:?}");
    }
    let held = store.read(record.id()).await.unwrap().value;
    assert_eq!(held, Some(record.clone()));
    complete(&store, &record, Outcome::bytes("done")).await;
}

async fn an_answer_is_taken_away(store: impl Store + Clone) {
    let operator = operator(store.clone());
    let record = claim(&store, "a", Guarantee::Fenced).await;
    complete(&store, &record, Outcome::bytes("done")).await;
    let name = Find { scope: (&record.scope).into(), key: "a".to_owned() };
    let found = operator.find(&name).await.unwrap();
    assert_eq!(found.record.phase, Phase::Completed);
    let forgotten = operator.forget(&who(), &found.record.id, change(found.record.epoch)).await.unwrap();
    assert_eq!(forgotten.record.unwrap().phase, Phase::Tombstone);
    let again = operator.forget(&who(), &found.record.id, change(found.record.epoch)).await.unwrap();
    assert_eq!(again.record.unwrap().phase, Phase::Tombstone, "sent again it succeeds");
    let page =
        operator.list(ListRecords { caller: Some("user-7".to_owned()), ..ListRecords::default() }).await.unwrap();
    assert_eq!(page.records.len(), 1);
    assert!(operator.sweep(&who(), SweepRequest::default(), |_| {}).await.unwrap().complete);
    let nobody = Find { scope: (&record.scope).into(), key: "b".to_owned() };
    assert!(matches!(operator.find(&nobody).await, Err(Error::NotFound("record"))));
}

macro_rules! on_every_store {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                let directory = tempfile::tempdir().unwrap();
                super::$test(crate::setup::sqlite(directory.path()).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::setup::postgres().await).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                let server = testing_support::redis::Server::start(testing_support::redis::Config::new());
                super::$test(keylatch::redis::Store::connect(&server.url()).await.unwrap()).await;
            })+
        }
    };
}

on_every_store!(an_unknown_run_is_found_and_resolved, a_living_owner_loses_nothing, an_answer_is_taken_away);
