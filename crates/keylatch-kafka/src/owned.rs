//! A partition whose place is ours: what the worker of every mode does with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch_core::RecordId;
use keylatch_core::inbox::{
    DeadLetter, DeadLettersRequest, Inbox, LastMessage, Order, Ownership, PlaceName, Reason, Step, Trouble,
};
use keylatch_core::store::{Applied, Error};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::consumer::Setup;
use crate::partition::Partition;
use crate::poller::Waiting;
use crate::progress::Progress;
use crate::stats::Count;
use crate::{Message, MessageId, dead_letter};

/// How long giving the place back may take. Without it, the next owner goes one by one for a while.
const GIVE_BACK_MAX: Duration = Duration::from_secs(5);

/// The owner of a place.
pub(crate) struct Owned<S: Inbox> {
    pub(crate) setup: Arc<Setup<S>>,
    pub(crate) partition: Partition,
    pub(crate) ownership: Ownership,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) stop: CancellationToken,
    pub(crate) progress: Arc<Progress>,
    /// Messages that became dead letters one after another.
    dead_in_row: AtomicU32,
    /// Whether somebody else has the place.
    is_lost: AtomicBool,
}

/// Why a worker ends.
#[derive(Debug)]
pub(crate) enum Halt {
    /// It was told to.
    Asked,
    /// Somebody else has the place.
    Lost,
    /// The partition has to be opened again.
    Again,
    /// The partition stands still until an operator acts; with the reason.
    Stopped(String),
}

impl<S: Inbox> Owned<S> {
    pub(crate) fn new(
        setup: Arc<Setup<S>>,
        partition: Partition,
        ownership: Ownership,
        waiting: Arc<Waiting>,
        progress: Arc<Progress>,
    ) -> Self {
        let (stop, dead_in_row, is_lost) = (CancellationToken::new(), AtomicU32::default(), AtomicBool::default());
        Self { setup, partition, ownership, waiting, stop, progress, dead_in_row, is_lost }
    }

    pub(crate) async fn give_back(&self, ownership: Ownership) {
        let given = self.setup.store.give_back(ownership);
        if !matches!(timeout(GIVE_BACK_MAX, given).await, Ok(Ok(Applied::Applied(_)))) {
            tracing::debug!(partition = %self.partition, "the place was not given back");
        }
    }

    /// Whether `message` is to be applied: the place, whose next offset is `next`, may have passed it. The first
    /// message is compared with `check`, which was applied before.
    pub(crate) fn is_new(&self, check: &mut Option<LastMessage>, next: i64, message: &Message) -> Result<bool, Halt> {
        if let Some(last) = check.take().filter(|last| last.offset == message.offset()) {
            if message.digest() != last.digest {
                return Err(Halt::Stopped(format!(
                    "another message is at offset {}, which this consumer has applied: the topic was deleted and created \
                     again, or truncated. {}",
                    last.offset,
                    how_to_go_on(&self.ownership.place),
                )));
            }
            self.setup.stats.add(Count::SameLog, 1);
        }
        // Otherwise it was compacted away, or its time was over.
        let is_new = message.offset() >= next;
        if !is_new {
            self.waiting.remove(message);
        }
        Ok(is_new)
    }

    /// The id of a message, if it has one; an error if it cannot be decoded.
    pub(crate) fn id(&self, message: &Message) -> Result<Option<MessageId>, String> {
        if !message.is_readable() {
            return Err("the name of a header is not UTF-8".to_owned());
        }
        (self.setup.extractor)(message)
    }

    /// A message has taken effect here, or was known.
    pub(crate) fn count_done(&self, has_id: bool, is_known: bool) {
        let stats = &self.setup.stats;
        stats.add(if is_known { Count::Known } else { Count::Applied }, 1);
        stats.add(Count::WithoutId, usize::from(!has_id));
        self.dead_in_row.store(0, Ordering::Relaxed);
    }

    /// Counts a try before it starts.
    pub(crate) async fn begin_try(&self, offset: i64) -> Result<u32, Halt> {
        let begin_try = || self.setup.store.begin_try(self.ownership.clone(), offset);
        self.insist("count a try", begin_try).await?.ok_or_else(|| self.fenced())
    }

    /// Gives a message up. Without a step the place stays.
    pub(crate) async fn bury(&self, message: &Message, given_up: &GivenUp, step: Option<Step>) -> Result<(), Halt> {
        let GivenUp { reason, error, attempts, record } = given_up;
        let mut trouble = Trouble::new(message.digest(), *reason, error, *attempts);
        trouble = trouble.with_message(dead_letter::encode(message));
        if let Some(record) = record {
            trouble = trouble.with_record(*record);
        }
        if let Some(key) = message.key() {
            trouble = trouble.with_key(key.clone());
        }
        if let Some(trace) = message.header("traceparent").and_then(|trace| std::str::from_utf8(trace).ok()) {
            trouble = trouble.with_trace(trace);
        }
        let topic = self.setup.options.dead_letter_topic.as_ref();
        let event = topic.map(|topic| dead_letter::event(topic, &self.setup.name, message, &trouble));
        let events = event.unwrap_or_default();
        let bury =
            || self.setup.store.bury(self.ownership.clone(), message.offset(), trouble.clone(), step, events.clone());
        if self.insist("write a dead letter", bury).await? == Applied::Lost {
            return Err(self.fenced());
        }
        self.setup.stats.add(Count::Buried, 1);
        tracing::error!(?message, ?reason, attempts, "a message became a dead letter");
        self.dead_in_row.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Fails if too many messages in a row became dead letters.
    pub(crate) fn check_dead_in_row(&self) -> Result<(), Halt> {
        let max = self.setup.options.dead_in_row;
        if self.dead_in_row.load(Ordering::Relaxed) < max {
            return Ok(());
        }
        Err(Halt::Stopped(format!(
            "{max} messages in a row became dead letters, so the fault is probably not theirs. {}",
            how_to_go_on(&self.ownership.place),
        )))
    }

    /// The dead letters that an operator wants to be applied.
    pub(crate) async fn wanted_letters(&self) -> Result<Vec<DeadLetter>, Halt> {
        let request = DeadLettersRequest {
            place: Some(self.ownership.place.clone()),
            wanted: true,
            limit: self.setup.options.batch_messages,
            ..DeadLettersRequest::default()
        };
        let wanted = || self.setup.store.dead_letters(request.clone());
        Ok(self.insist("look for dead letters", wanted).await?.value.items)
    }

    /// A dead letter could not be applied, and is no longer wanted.
    pub(crate) async fn keep_letter(&self, letter: &DeadLetter) -> Result<(), Halt> {
        // The error may quote the message.
        tracing::error!(offset = letter.id.offset, partition = %self.partition, "a dead letter failed again, and stays");
        self.insist("keep a dead letter", || self.setup.store.order(letter.id.clone(), Order::Keep)).await?;
        Ok(())
    }

    /// Why a worker ends that gets no more messages: the partition was revoked, and the group is about to say so.
    pub(crate) async fn closed(&self) -> Halt {
        let _ = timeout(GIVE_BACK_MAX, self.stop.cancelled()).await;
        if self.stop.is_cancelled() { Halt::Asked } else { Halt::Again }
    }

    /// Somebody else has the place. Several lanes may find out.
    pub(crate) fn fenced(&self) -> Halt {
        if !self.is_lost.swap(true, Ordering::Relaxed) {
            self.setup.stats.add(Count::Fenced, 1);
        }
        Halt::Lost
    }

    /// Asks the database until it answers.
    pub(crate) async fn insist<'s, T>(
        &self,
        what: &str,
        mut call: impl FnMut() -> BoxFuture<'s, Result<T, Error>>,
    ) -> Result<T, Halt> {
        let mut failures = 0;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            self.wait_for_store(what, &error, failures).await?;
        }
    }

    pub(crate) async fn wait_for_store(&self, what: &str, error: &Error, failures: u32) -> Result<(), Halt> {
        if !error.retryable() {
            return Err(Halt::Stopped(format!(
                "the store cannot {what}: {error}. {}",
                how_to_go_on(&self.ownership.place)
            )));
        }
        if failures == 1 {
            tracing::warn!(partition = %self.partition, %error, "waiting for the store to {what}");
        }
        self.pause(Backoff::OF_SERVERS.after(failures)).await
    }

    pub(crate) async fn pause(&self, span: Duration) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Asked),
            () = sleep(span) => Ok(()),
        }
    }
}

/// Why a message is given up.
#[derive(Debug)]
pub(crate) struct GivenUp {
    pub(crate) reason: Reason,
    pub(crate) error: String,
    /// How often it was tried.
    pub(crate) attempts: u32,
    /// The record of its id.
    pub(crate) record: Option<RecordId>,
}

impl GivenUp {
    /// The error of a message whose tries were counted and never ended.
    pub(crate) const NEVER_ENDED: &str =
        "each time that it was tried, the process ended or lost the partition before it was applied";
    /// The error of a message with the id of another.
    pub(crate) const REUSED: &str = "its id belongs to another message, or to another request";
    /// The error of a message whose operation is half-way for ever.
    pub(crate) const NOT_KNOWN: &str = "an operation with its id has begun, and its outcome is not known";
}

/// What an operator is to do about a partition that stands still.
pub(crate) fn how_to_go_on(place: &PlaceName) -> String {
    format!(
        "Find out what happened, then call keylatch_kafka::go_on(&store, \"{}\", \"{}\", {}, offset) with the offset of the \
         next message to apply, or None to go on where it stands",
        place.consumer(),
        place.topic(),
        place.partition(),
    )
}
