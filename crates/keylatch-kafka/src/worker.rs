//! The worker of a partition: applies what is fetched in the mode of its consumer, and gives the place back at its end.

use std::sync::Arc;
use std::time::Duration;

use keylatch_core::inbox::{Inbox, LastMessage, Tried};
use tokio::sync::mpsc;

use crate::Message;
use crate::batches::Batches;
use crate::consumer::Mode;
use crate::lanes::Lanes;
use crate::owned::{Halt, Owned};

/// How often a worker looks for dead letters that an operator wants to be applied.
pub(crate) const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(5);

/// The owner of a place, and where it starts.
pub(crate) struct Worker<S: Inbox> {
    pub(crate) owned: Owned<S>,
    pub(crate) start: Start,
}

/// Where the work on a partition starts.
pub(crate) struct Start {
    /// The next offset of the place.
    pub(crate) next: i64,
    /// The message that has to be read first, to see whether the log is the same.
    pub(crate) check: Option<LastMessage>,
    /// The tries of one message that were counted.
    pub(crate) tried: Option<Tried>,
    /// Whether the owner before may have died in a message.
    pub(crate) after_crash: bool,
    pub(crate) messages: mpsc::UnboundedReceiver<Message>,
}

impl<S: Inbox> Worker<S> {
    pub(crate) async fn run(self) -> Halt {
        let Self { owned, start } = self;
        let (setup, owned) = (owned.setup.clone(), Arc::new(owned));
        let halt = match &setup.mode {
            Mode::Batches(handler) => Batches::new(&owned, handler, start).work().await,
            Mode::Lanes(through) => Lanes::new(owned.clone(), through.clone(), start).work().await,
        };
        if !matches!(halt, Halt::Lost) {
            owned.give_back(owned.ownership.clone()).await;
        }
        halt
    }
}
