//! A store, and processes that use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::entry_point::{Answer, Final, Ran, Request, RunOrTx};
use keylatch::store::{At, Durability, State, Store};
use keylatch::tx::Verdict;
use keylatch::{
    Body, Cleanup, Clock, Engine, Error, Fingerprint, Key, Limits, Outcome, Policy, Record, RecordId, Run, Scope,
    Timestamp, memory,
};
use tokio::task::JoinHandle;

use crate::common::faulty::Faulty;
use crate::common::{Gate, until};

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A store, and its clock.
pub(crate) struct World {
    pub(crate) store: Faulty,
    pub(crate) clock: Clock,
}

impl World {
    /// With a clock that stands still until the test moves it.
    pub(crate) fn new() -> Self {
        Self::on(Clock::manual(START), Durability::Process)
    }

    pub(crate) fn on(clock: Clock, durability: Durability) -> Self {
        let store = Faulty::with_durability(memory::Store::with_clock(clock.clone()), durability);
        Self { store, clock }
    }

    /// Another process.
    pub(crate) fn fenced(&self) -> Engine {
        self.fenced_with(Policy::default(), Limits::default())
    }

    pub(crate) fn fenced_with(&self, policy: Policy, limits: Limits) -> Engine {
        at_rest(Engine::fenced(self.store.clone(), policy, limits))
    }

    pub(crate) fn at_most_once(&self) -> Engine {
        let store = self.store.clone();
        at_rest(Engine::at_most_once(store, Policy::default(), Limits::default()))
    }

    pub(crate) fn at_most_once_with(&self, policy: Policy) -> Engine {
        at_rest(Engine::at_most_once(self.store.clone(), policy, Limits::default()))
    }

    /// Every lease that is not renewed ends now.
    pub(crate) fn leases_end(&self) {
        self.clock.advance(Policy::default().lease);
    }

    /// The record of the key that all requests here use.
    pub(crate) async fn record(&self) -> Option<Record> {
        let Request { scope, key, .. } = request("any");
        let At { value, .. } = self.store.faultless().read(RecordId::of(&scope, &key)).await.expect("the store reads");
        value
    }

    /// The recorded answer, as soon as there is one.
    pub(crate) async fn recorded(&self) -> String {
        until("an answer is recorded", async || matches!(self.state().await, Some(State::Completed { .. }))).await;
        match self.state().await {
            Some(State::Completed { outcome: Some(outcome), .. }) => text(&outcome),
            state => panic!("{state:?}"),
        }
    }

    async fn state(&self) -> Option<State> {
        self.record().await.map(|record| record.state)
    }
}

/// An engine without background work, so that tests see only their own calls.
fn at_rest(engine: Result<Engine, keylatch::InvalidPolicy>) -> Engine {
    engine.expect("the policy can be kept").with_cleanup(Cleanup::off())
}

/// A request for `what`, under the one key.
pub(crate) fn request(what: &str) -> Request {
    under("key", what)
}

pub(crate) fn under(key: &str, what: &str) -> Request {
    Request {
        scope: Scope::new("tenant").expect("a scope"),
        key: Key::new(key).expect("a key"),
        fingerprint: Fingerprint::of([what.as_bytes()]),
        wait: Duration::ZERO,
    }
}

/// The same request, but it waits.
pub(crate) fn patient(what: &str) -> Request {
    Request { wait: Duration::from_secs(20), ..request(what) }
}

pub(crate) fn answer(text: &str) -> Verdict {
    Verdict::Keep(Outcome::bytes(text.to_owned()))
}

pub(crate) fn text(outcome: &Outcome) -> String {
    match &outcome.body {
        Body::Kept(bytes) => String::from_utf8(bytes.to_vec()).expect("text"),
        Body::NotRetained { .. } => panic!("it was kept"),
    }
}

/// Sends a request whose work returns this verdict at once.
pub(crate) async fn ask(engine: &Engine, request: Request, verdict: Verdict) -> Result<Answer<()>, Error> {
    engine.answer(request, |_| async { (verdict, ()) }).await
}

/// Work that waits for its gate.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) gate: Gate,
    started: Arc<AtomicUsize>,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self { gate: Gate::closed(), started: Arc::new(AtomicUsize::new(0)) }
    }

    /// How often the work was started.
    pub(crate) fn runs(&self) -> usize {
        self.started.load(Ordering::Relaxed)
    }

    pub(crate) async fn started(&self, times: usize) {
        until("the work is started", async || self.runs() >= times).await;
    }

    /// Sends a request for it, in a task.
    pub(crate) fn ask(&self, engine: &Engine, request: Request, verdict: Verdict) -> Asked {
        self.ask_for(engine, request, |_| async { verdict })
    }

    /// Sends a request for it and then for `rest`, in a task.
    pub(crate) fn ask_for<F>(
        &self,
        engine: &Engine,
        request: Request,
        rest: impl FnOnce(Run) -> F + Send + 'static,
    ) -> Asked
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let (engine, start) = (engine.clone(), self.start(rest));
        Asked(tokio::spawn(async move { engine.answer(request, start).await }))
    }

    /// The work and then `rest`, in the form that the engine starts.
    pub(crate) fn start<R, F>(
        &self,
        rest: R,
    ) -> impl FnOnce(RunOrTx) -> BoxFuture<'static, (Verdict, ())> + Send + 'static + use<R, F>
    where
        R: FnOnce(Run) -> F + Send + 'static,
        F: Future<Output = Verdict> + Send + 'static,
    {
        let work = self.clone();
        move |given| {
            let run = given.run().expect("it is on a lease").clone();
            Box::pin(async move {
                work.started.fetch_add(1, Ordering::Relaxed);
                work.gate.pass().await;
                (rest(run).await, ())
            })
        }
    }
}

/// A running request. It continues if this is dropped.
pub(crate) struct Asked(JoinHandle<Result<Answer<()>, Error>>);

impl Asked {
    pub(crate) async fn answer(self) -> Answer<()> {
        self.0.await.expect("the request does not panic").expect("the engine answers")
    }

    pub(crate) async fn ran(self) -> Ran<()> {
        self.answer().await.ran()
    }

    pub(crate) async fn replayed(self) -> String {
        self.answer().await.replayed()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

/// What a test expects of an answer.
pub(crate) trait Expect {
    fn is_run(&self) -> bool;
    fn ran(self) -> Ran;
    fn replayed(self) -> String;
    fn refused(self) -> keylatch::Refused;
}

impl Expect for Answer {
    fn is_run(&self) -> bool {
        matches!(self, Self::Ran(_))
    }

    #[track_caller]
    fn ran(self) -> Ran {
        let Self::Ran(ran) = self else { panic!("it did not run: {self:?}") };
        ran
    }

    #[track_caller]
    fn replayed(self) -> String {
        let Self::Replayed(found) = self else { panic!("it is not a replay: {self:?}") };
        text(Final::outcome(&found))
    }

    #[track_caller]
    fn refused(self) -> keylatch::Refused {
        let Self::Refused(refused) = self else { panic!("it is not refused: {self:?}") };
        refused
    }
}
