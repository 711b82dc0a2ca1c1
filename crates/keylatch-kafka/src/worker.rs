//! The worker of a partition: applies what is fetched in the mode of its consumer, and gives the place back at its end.

use std::time::Duration;

use keylatch_core::inbox::{Inbox, LastMessage};
use tokio::sync::mpsc;

use crate::Message;
use crate::batches::Batches;
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
    /// Whether the owner before may have died in a message.
    pub(crate) after_crash: bool,
    pub(crate) messages: mpsc::UnboundedReceiver<Message>,
}

impl<S: Inbox> Worker<S> {
    pub(crate) async fn run(self) -> Halt {
        let Self { owned, start } = self;
        let setup = owned.setup.clone();
        let halt = Batches::new(&owned, &setup.handler, start).work().await;
        if !matches!(halt, Halt::Lost) {
            owned.give_back(owned.ownership.clone()).await;
        }
        halt
    }
}
