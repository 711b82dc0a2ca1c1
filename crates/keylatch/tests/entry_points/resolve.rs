//! The resolution of unknown outcomes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use keylatch::machine::Phase;
use keylatch::{Done, Engine, Outcome, Record, RecordId, Refused, Resolution, Resolved, Resolver, RunError};

use crate::{Fixture, dies_while, input, key, scope};

type Failed = std::convert::Infallible;

/// Starts a run that dies half-way in `AtMostOnce`; its outcome is then unknown.
fn unknown(fixture: &Fixture, name: &'static str) -> RecordId {
    let engine = fixture.at_most_once();
    dies_while(async move {
        let (started, has_started) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let work = |_| async {
                let _ = started.send(());
                std::future::pending::<Result<u8, Failed>>().await
            };
            engine.run(scope(), key(name), input("i"), work).await
        });
        has_started.await.unwrap();
    });
    fixture.lease_ends();
    RecordId::of(&scope(), &key(name))
}

async fn call(engine: &Engine, name: &str) -> Result<Done<u8>, RunError<Failed>> {
    engine.run(scope(), key(name), input("i"), |_| async { Ok(1) }).await
}

fn completed(value: u8) -> Resolution {
    Resolution::Completed(Outcome::bytes(value.to_string()))
}

/// Runs `test` in its own runtime, beside those that die.
fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn an_operator_says_that_it_happened() {
    let fixture = Fixture::new();
    let id = unknown(&fixture, "k");
    block_on(async {
        let engine = fixture.at_most_once();
        assert!(matches!(call(&engine, "k").await, Err(RunError::Refused(Refused::Unknown))));
        assert_eq!(engine.resolve(id, completed(9)).await.unwrap(), Resolved::Applied);
        assert_eq!(call(&engine, "k").await.unwrap(), Done { value: 9, replayed: true });
        let again = engine.resolve(id, Resolution::NeverHappened).await.unwrap();
        assert_eq!(again, Resolved::NotUnknown(Phase::Completed), "what is final stays");
    });
}

#[test]
fn an_operator_says_that_it_never_happened() {
    let fixture = Fixture::new();
    let id = unknown(&fixture, "k");
    block_on(async {
        let engine = fixture.at_most_once();
        assert_eq!(engine.resolve(id, Resolution::NeverHappened).await.unwrap(), Resolved::Applied);
        assert_eq!(call(&engine, "k").await.unwrap(), Done { value: 1, replayed: false });
    });
}

#[test]
fn what_is_not_unknown_is_not_resolved() {
    let fixture = Fixture::new();
    block_on(async {
        let engine = fixture.at_most_once();
        let id = RecordId::of(&scope(), &key("k"));
        assert_eq!(engine.resolve(id, completed(9)).await.unwrap(), Resolved::NotUnknown(Phase::Free));
        call(&engine, "k").await.unwrap();
        assert_eq!(engine.resolve(id, completed(9)).await.unwrap(), Resolved::NotUnknown(Phase::Completed));
        assert_eq!(call(&engine, "k").await.unwrap(), Done { value: 1, replayed: true });
    });
}

/// A provider that knows the even keys, and counts its calls.
#[derive(Debug, Clone, Default)]
struct Provider(Arc<AtomicU32>);

impl Resolver for Provider {
    fn resolve<'a>(&'a self, record: &'a Record) -> BoxFuture<'a, Option<Resolution>> {
        async {
            self.0.fetch_add(1, Ordering::Relaxed);
            match record.key.as_str() {
                "paid" => Some(completed(9)),
                "not-paid" => Some(Resolution::NeverHappened),
                _ => None,
            }
        }
        .boxed()
    }
}

#[test]
fn a_resolver_is_asked_at_the_next_retry() {
    let fixture = Fixture::new();
    for name in ["paid", "not-paid", "not-known"] {
        unknown(&fixture, name);
    }
    block_on(async {
        let provider = Provider::default();
        let engine = fixture.at_most_once().with_resolver(provider.clone());
        assert_eq!(call(&engine, "paid").await.unwrap(), Done { value: 9, replayed: true });
        assert_eq!(call(&engine, "not-paid").await.unwrap(), Done { value: 1, replayed: false });
        assert!(matches!(call(&engine, "not-known").await, Err(RunError::Refused(Refused::Unknown))));
        assert_eq!(provider.0.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn a_sweeper_asks_about_all_that_is_unknown() {
    let fixture = Fixture::new();
    for name in ["paid", "not-paid", "not-known"] {
        unknown(&fixture, name);
    }
    block_on(async {
        let engine = fixture.at_most_once();
        assert_eq!(engine.resolve_unknown().await.unwrap(), 0, "nobody to ask");
        let engine = engine.with_resolver(Provider::default());
        assert_eq!(engine.resolve_unknown().await.unwrap(), 2);
        assert_eq!(engine.resolve_unknown().await.unwrap(), 0);
        assert_eq!(call(&engine, "paid").await.unwrap(), Done { value: 9, replayed: true });
    });
}
