//! How a message goes through an engine: its key is claimed, its place is checked, and only then its handler starts.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use keylatch::entry_point::{Answer, Request, RunOrTx};
use keylatch::tx::{Database, Verdict};
use keylatch::{Engine, Error, Guarantee, Outcome, Run, Tx};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::attempt::{Failure, text_of};
use crate::consumer::Options;
use crate::{Failed, Message, MessageId, trace};

/// Applies messages through an engine.
pub(crate) struct Through {
    send: Box<Sends>,
    /// One for each handler that may run at once, over all partitions.
    pub(crate) permits: Semaphore,
    /// Messages of a partition that may be above the mark, or open.
    pub(crate) window: usize,
    /// Whether a gate may write to the store. In a transaction it may not: it would need a second connection while it
    /// holds one, and a small pool has no other.
    pub(crate) gate_may_write: bool,
}

type Sends = dyn Fn(Entry) -> BoxFuture<'static, Result<Answer<Said>, Error>> + Send + Sync;

/// A message on its way to its handler.
pub(crate) struct Entry {
    pub(crate) id: MessageId,
    pub(crate) message: Message,
    /// Asked once the key is held, and before the handler starts.
    pub(crate) gate: Gate,
}

/// Whether a handler may start.
pub(crate) type Gate = BoxFuture<'static, Result<(), Closed>>;

/// What became of a message whose key was won.
pub(crate) type Said = Result<(), NotApplied>;

/// Why a message whose key was won is not applied.
#[derive(Debug)]
pub(crate) enum NotApplied {
    /// Its handler has not started.
    Closed(Closed),
    /// Its handler failed.
    Failed(Failure),
}

/// Why no handler starts.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Somebody else has the place.
    Lost,
    /// It is not known whether the place is ours.
    Store(keylatch_core::store::Error),
    /// The message is given up.
    GivenUp,
}

impl Through {
    /// Each message in a transaction of `engine`, which is `Atomic` on `D`.
    pub(crate) fn transactions<D, F>(
        engine: Engine,
        options: &Options,
        handler: impl Fn(Tx<D>, Message) -> F + Send + Sync + 'static,
    ) -> Self
    where
        D: Database,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let send = move |Entry { id, message, gate }: Entry| {
            let (engine, handler) = (engine.clone(), handler.clone());
            let work = move |given: RunOrTx| async move {
                if let Err(closed) = gate.await {
                    return (Verdict::Retry, Err(NotApplied::Closed(closed)));
                }
                let tx = given.tx::<D>().expect("the engine was made for this database");
                let handling = {
                    let message = message.clone();
                    async move { handler(tx, message).await }
                };
                match caught(&message, handling).await {
                    Ok(()) => (Verdict::Keep(Outcome::bytes("")), Ok(())),
                    Err(failure) => (Verdict::Retry, Err(NotApplied::Failed(failure))),
                }
            };
            Box::pin(async move { engine.answer(request(id), work).await }) as BoxFuture<'static, _>
        };
        Self::new(Box::new(send), options, false)
    }

    /// Each message on a lease of `engine`, which is `Fenced` or `AtMostOnce`.
    pub(crate) fn leases<F>(
        engine: Engine,
        options: &Options,
        handler: impl Fn(Run, Message) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        // As `Engine::run`.
        let failed = || Verdict::Retry;
        let not_known = || Verdict::Unknown;
        let rule: fn() -> Verdict = if engine.guarantee() == Guarantee::AtMostOnce { not_known } else { failed };
        let send = move |Entry { id, message, gate }: Entry| {
            let (engine, handler) = (engine.clone(), handler.clone());
            let work = move |given: RunOrTx| async move {
                // Whatever the guarantee, nothing has started.
                if let Err(closed) = gate.await {
                    return (Verdict::Retry, Err(NotApplied::Closed(closed)));
                }
                let run = given.run().expect("the engine was checked").clone();
                let handling = {
                    let (run, message) = (run.clone(), message.clone());
                    async move { handler(run, message).await }
                };
                match caught(&message, handling).await {
                    Ok(()) => (Verdict::Keep(Outcome::bytes("")), Ok(())),
                    Err(failure) => (run.verdict_on_error().unwrap_or_else(rule), Err(NotApplied::Failed(failure))),
                }
            };
            Box::pin(async move { engine.answer(request(id), work).await }) as BoxFuture<'static, _>
        };
        Self::new(Box::new(send), options, true)
    }

    fn new(send: Box<Sends>, options: &Options, gate_may_write: bool) -> Self {
        Self { send, permits: Semaphore::new(options.lanes), window: options.window, gate_may_write }
    }

    /// Sends a message through the engine. It never waits for a run of somebody else.
    pub(crate) async fn send(&self, entry: Entry) -> Result<Answer<Said>, Error> {
        (self.send)(entry).await
    }
}

fn request(MessageId { scope, key, fingerprint }: MessageId) -> Request {
    Request { scope, key, fingerprint, wait: Duration::ZERO }
}

/// Handles `message` in its span. A panic is a failure like another.
async fn caught(message: &Message, handling: impl Future<Output = Result<(), Failed>>) -> Result<(), Failure> {
    let handling = handling.instrument(trace::span(std::iter::once(message)));
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(said) => said.map_err(Failure::said),
        Err(panic) => Err(Failure::Panicked(text_of(&*panic))),
    }
}
