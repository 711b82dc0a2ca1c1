//! Resolutions, and owners that return meanwhile.

use futures_util::future::BoxFuture;
use keylatch::machine::{Phase, Terms};
use keylatch::store::{Applied, Store};
use keylatch::{Engine, Guarantee, Outcome, Policy, Record, Refused, Resolution, Resolved, Resolver};

use crate::common::faulty::{Fault, Op};
use crate::world::{Expect as _, Work, World, answer, ask, request};

/// The owner renews its lease after the operator has read that it ended. The run continues, and the operator is told
/// so.
#[tokio::test]
async fn a_run_that_comes_back_is_not_resolved() {
    for resolution in [Resolution::NeverHappened, Resolution::Completed(Outcome::bytes("resolved"))] {
        let world = World::new();
        let work = Work::new();
        let asked = work.ask(&world.at_most_once(), request("buy"), answer("bought"));
        work.started(1).await;
        world.leases_end();

        let (operator, record) = (world.at_most_once(), world.record().await.unwrap());
        world.store.next(Op::Resolve, [Fault::Held]);
        let id = record.id();
        let resolving = tokio::spawn(async move { operator.resolve(id, resolution).await });
        world.store.called(Op::Resolve, 1).await;
        let terms = Terms::of(Guarantee::AtMostOnce, &Policy::default());
        let renewed = world.store.renew(record.lease(), terms, None).await.unwrap();
        assert!(matches!(renewed, Applied::Applied(_)));
        world.store.gate().open();

        assert_eq!(resolving.await.unwrap().unwrap(), Resolved::NotUnknown(Phase::Running));
        let other = world.at_most_once();
        assert_eq!(ask(&other, request("buy"), answer("never")).await.unwrap().refused(), Refused::InProgress);
        work.gate.open();
        asked.ran().await;
        assert_eq!(world.recorded().await, "bought");
    }
}

/// A resolution whose reply was lost is sent again, and the operator is told the current phase.
#[tokio::test]
async fn a_resolution_sent_again_has_no_further_effect() {
    for (resolution, phase) in [
        (Resolution::NeverHappened, Phase::Free),
        (Resolution::Completed(Outcome::bytes("resolved")), Phase::Completed),
    ] {
        let world = World::new();
        let operator = world.at_most_once();
        assert!(ask(&operator, request("buy"), keylatch::tx::Verdict::Unknown).await.unwrap().is_run());
        let id = world.record().await.unwrap().id();
        world.store.next(Op::Resolve, [Fault::ReplyLost]);
        assert!(operator.resolve(id, resolution.clone()).await.is_err());
        assert_eq!(operator.resolve(id, resolution).await.unwrap(), Resolved::NotUnknown(phase));
    }
}

/// A resolver that is asked, while an operator is faster.
#[derive(Debug)]
struct Slow(Engine);

impl Resolver for Slow {
    fn resolve<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Option<Resolution>> {
        Box::pin(async {
            let first = self.0.resolve(record.id(), Resolution::Completed(Outcome::bytes("first"))).await;
            assert_eq!(first.unwrap(), Resolved::Applied);
            Some(Resolution::NeverHappened)
        })
    }
}

/// The first resolution counts, and the request gets it at once.
#[tokio::test]
async fn a_request_gets_the_resolution_that_was_first() {
    let world = World::new();
    let engine = world.at_most_once();
    assert!(ask(&engine, request("buy"), keylatch::tx::Verdict::Unknown).await.unwrap().is_run());
    let asking = world.at_most_once().with_resolver(Slow(engine));
    assert_eq!(ask(&asking, request("buy"), answer("never")).await.unwrap().replayed(), "first");
}
