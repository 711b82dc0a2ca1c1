//! One try to apply messages: what the store is told, and what the handlers said.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use keylatch::Tx;
use keylatch_core::inbox::{Batch, BatchEnd, DeadLetterId, Inbox, Ownership, Part, Step, Why};
use keylatch_core::machine::{Claim, Completion};
use keylatch_core::store::{self, At};
use keylatch_core::tx::{Database, Ending, Misuse};
use keylatch_core::{Outcome, Policy, Record};
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::consumer::Handler;
use crate::{Failed, Message, trace};

/// How a try ended.
#[derive(Debug)]
pub(crate) enum Attempted {
    /// Everything is committed; the messages at these positions were known.
    Done { known: Vec<usize> },
    /// Nothing is: this message failed, or it is not known which.
    Failed { at: Option<usize>, failure: Failure },
    /// Nothing is: the id of this message is held.
    Held { at: usize, record: Option<At<Record>> },
}

/// Why a message was not applied.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may be applied later.
    Again(Failed),
    /// It never will be.
    Rejected(Failed),
    /// Its handler used the transaction in a way that cannot be committed.
    Misused(Misuse),
    /// Its handler panicked.
    Panicked(String),
}

impl Failure {
    pub(crate) fn of(why: Why) -> Self {
        match why {
            Why::Misused(misuse) => Self::Misused(misuse),
            Why::Ended => Self::Again(Failed::again("the handler failed")),
        }
    }

    pub(crate) fn said(failed: Failed) -> Self {
        if failed.is_final() { Self::Rejected(failed) } else { Self::Again(failed) }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Again(failed) | Self::Rejected(failed) => failed.to_string(),
            Self::Misused(misuse) => misuse.to_string(),
            Self::Panicked(text) => format!("the handler panicked: {text}"),
        }
    }
}

/// Why a try has no end.
#[derive(Debug)]
pub(crate) enum Error {
    /// The store failed.
    Store(store::Error),
    /// The handler that began with this message panicked.
    Panicked { at: usize, text: String },
}

/// A try.
pub(crate) struct Attempt<D: Database> {
    parts: Vec<Part<D>>,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    /// The first message of the part that has started last.
    started: usize,
    failed: Option<Failed>,
}

impl<D: Database> Attempt<D> {
    pub(crate) fn new(handler: &Handler<D>, policy: &Policy, messages: &[Message], claims: &[Option<Claim>]) -> Self {
        let said = Arc::default();
        let completion = Completion::new(Outcome::bytes(""), policy);
        let parts = match handler {
            Handler::Each(_) => {
                let one = |(at, (message, claim)): (usize, (&Message, &Option<Claim>))| {
                    part(handler, at, vec![message.clone()], vec![claim.clone()], &said, &completion)
                };
                messages.iter().zip(claims).enumerate().map(one).collect()
            }
            Handler::All(_) => vec![part(handler, 0, messages.to_vec(), claims.to_vec(), &said, &completion)],
        };
        Self { parts, said }
    }

    /// Sends it to the store. Returns how it ended, and what the handler said that failed.
    pub(crate) async fn run<S>(
        self,
        store: &S,
        ownership: Ownership,
        step: Option<Step>,
        letter: Option<DeadLetterId>,
    ) -> Result<(BatchEnd, Option<Failure>), Error>
    where
        S: Inbox<Database = D>,
    {
        let batch = Batch { ownership, step, letter, parts: self.parts };
        let result = AssertUnwindSafe(store.apply(batch)).catch_unwind().await;
        let mut said = self.said.lock();
        match result {
            Ok(Ok(end)) => Ok((end, said.failed.take().map(Failure::said))),
            Ok(Err(error)) => Err(Error::Store(error)),
            Err(panic) => Err(Error::Panicked { at: said.started, text: text_of(&*panic) }),
        }
    }
}

fn part<D: Database>(
    handler: &Handler<D>,
    at: usize,
    messages: Vec<Message>,
    ids: Vec<Option<Claim>>,
    said: &Arc<Mutex<Said>>,
    completion: &Completion,
) -> Part<D> {
    let (handler, said, completion) = (handler.clone(), said.clone(), completion.clone());
    let start = move |handle: D::Handle, fresh: Vec<usize>| {
        said.lock().started = at;
        let tx = Tx::new(handle);
        let (work, span) = match &handler {
            Handler::Each(each) => (each(tx, messages[0].clone()), trace::span(messages[..1].iter())),
            Handler::All(all) => {
                let span = trace::span(fresh.iter().map(|position| &messages[*position]));
                (all(tx, fresh.into_iter().map(|position| messages[position].clone()).collect()), span)
            }
        };
        let work = work.instrument(span);
        let ending = async move {
            match work.await {
                Ok(()) => Ending::Commit(completion),
                Err(failed) => {
                    said.lock().failed = Some(failed);
                    Ending::RollBack
                }
            }
        };
        Box::pin(ending) as keylatch_core::tx::Work
    };
    Part { ids, start: Box::new(start) }
}

pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a text".to_owned())
}
