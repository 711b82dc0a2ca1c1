//! A request that meets another of its key in the same process, while that one has yet to look into the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keylatch::machine::{Claim, Claimed, Completion, End, Terms};
use keylatch::store::{Applied, At, Durability, Error, PageRequest, Store, Swept};
use keylatch::tx::Verdict;
use keylatch::{
    Answer, Engine, Fingerprint, Key, Lease, Limits, Outcome, Policy, Record, RecordId, Refused, Request, Scope, memory,
};
use tokio::sync::{Notify, Semaphore};

#[tokio::test]
async fn i4_it_gets_the_answer_that_is_there() {
    let (engine, gate) = engine_with_answer_to("buy").await;
    let first = tokio::spawn(ask(engine.clone(), "buy"));
    gate.reached.notified().await;
    let Answer::Replayed(found) = ask(engine, "buy").await else { panic!("the answer is there") };
    assert_eq!(found.outcome(), &Outcome::bytes("bought"));
    gate.open.add_permits(1);
    assert!(matches!(first.await.unwrap(), Answer::Replayed(_)));
}

/// Another request under the key, however early, does not come between a client and its answer.
#[tokio::test]
async fn i7_it_gets_the_answer_that_is_there_although_the_other_asks_for_something_else() {
    let (engine, gate) = engine_with_answer_to("buy").await;
    let other = tokio::spawn(ask(engine.clone(), "sell"));
    gate.reached.notified().await;
    assert!(matches!(ask(engine, "buy").await, Answer::Replayed(_)));
    gate.open.add_permits(1);
    assert!(matches!(other.await.unwrap(), Answer::Refused(Refused::Mismatch)));
}

#[tokio::test]
async fn it_is_refused_where_nothing_is_there_yet() {
    let (engine, gate) = engine_with_answer_to("something of another key").await;
    let asked = |body: &'static str| ask_under(engine.clone(), "another-key", body);
    let first = tokio::spawn(asked("buy"));
    gate.reached.notified().await;
    assert!(matches!(asked("buy").await, Answer::Refused(Refused::InProgress)));
    assert!(matches!(asked("sell").await, Answer::Refused(Refused::Mismatch)));
    gate.open.add_permits(1);
    assert!(matches!(first.await.unwrap(), Answer::Ran(_)));
}

/// An engine that has answered nothing yet, on a store that holds the answer to `body`, and holds up claims.
async fn engine_with_answer_to(body: &'static str) -> (Engine, Arc<Gate>) {
    let inner = memory::Store::new();
    let earlier = Engine::fenced(inner.clone(), Policy::default(), Limits::default()).unwrap();
    assert!(matches!(ask(earlier, body).await, Answer::Ran(_)));
    let gate = Arc::new(Gate::default());
    let store = Gated { inner, gate: gate.clone() };
    (Engine::fenced(store, Policy::default(), Limits::default()).unwrap(), gate)
}

async fn ask(engine: Engine, body: &'static str) -> Answer {
    ask_under(engine, "key", body).await
}

async fn ask_under(engine: Engine, key: &str, body: &'static str) -> Answer {
    let request = Request {
        scope: Scope::new("tenant").unwrap(),
        key: Key::new(key).unwrap(),
        fingerprint: Fingerprint::of([body.as_bytes()]),
        wait: Duration::ZERO,
        sealed: None,
    };
    engine.answer(request, |_| async { Verdict::Keep(Outcome::bytes("bought")) }).await.unwrap()
}

/// Holds up claims.
#[derive(Debug)]
struct Gate {
    /// A claim has come to the gate.
    reached: Notify,
    /// How many claims may pass.
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self { reached: Notify::new(), open: Semaphore::new(0) }
    }
}

/// A store whose claims wait at a gate.
#[derive(Debug)]
struct Gated {
    inner: memory::Store,
    gate: Arc<Gate>,
}

impl Store for Gated {
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<At<Claimed>, Error>> {
        Box::pin(async move {
            self.gate.reached.notify_one();
            self.gate.open.acquire().await.expect("it is never closed").forget();
            self.inner.claim(claim).await
        })
    }

    fn renew(
        &self,
        lease: Lease,
        terms: Terms,
        step: Option<(String, Bytes)>,
    ) -> BoxFuture<'_, Result<Applied, Error>> {
        self.inner.renew(lease, terms, step)
    }

    fn complete(&self, lease: Lease, completion: Completion) -> BoxFuture<'_, Result<Applied, Error>> {
        self.inner.complete(lease, completion)
    }

    fn release(&self, lease: Lease, end: End) -> BoxFuture<'_, Result<Applied, Error>> {
        self.inner.release(lease, end)
    }

    fn sweep(&self, limit: usize) -> BoxFuture<'_, Result<Swept, Error>> {
        self.inner.sweep(limit)
    }

    fn read(&self, id: RecordId) -> BoxFuture<'_, Result<At<Option<Record>>, Error>> {
        self.inner.read(id)
    }

    fn list(&self, page: PageRequest) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        self.inner.list(page)
    }

    fn lapsed(&self, after: Option<RecordId>, limit: usize) -> BoxFuture<'_, Result<At<Vec<Record>>, Error>> {
        self.inner.lapsed(after, limit)
    }

    fn count(&self, scope: Scope, limit: u64) -> BoxFuture<'_, Result<u64, Error>> {
        self.inner.count(scope, limit)
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }
}
