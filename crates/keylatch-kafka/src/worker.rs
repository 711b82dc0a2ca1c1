//! The worker of a partition: applies its messages in their order, in one transaction as many as there are.
//!
//! ```text
//!  read ─▶ is it the same log? ─▶ a batch ─▶ committed ─▶ the next
//!                                   │ message k failed: everything is rolled back
//!                                   ├─▶ those before k, as a batch
//!                                   └─▶ k alone: its try is counted, then it runs ─▶ committed
//!                                         ├─ failed, may succeed later: waits, is tried again
//!                                         └─ rejected, undecodable, tried too often: a dead letter
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch_core::inbox::{
    BatchEnd, DeadLetter, DeadLettersRequest, Inbox, LastMessage, Order, Ownership, PlaceName, Reason, Step, Trouble,
};
use keylatch_core::machine::{Claim, Decision, decide};
use keylatch_core::store::{Applied, At, Error, ErrorKind};
use keylatch_core::{Guarantee, Record};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Attempted, Failure};
use crate::backoff::Backoff;
use crate::consumer::Setup;
use crate::dead_letter;
use crate::partition::Partition;
use crate::poller::Waiting;
use crate::progress::Progress;
use crate::stats::Count;
use crate::{Message, MessageId};

/// How often a worker looks for dead letters that an operator wants to be applied.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(5);
/// How long giving the place back may take. Without it, the next owner goes one by one for a while.
const GIVE_BACK_MAX: Duration = Duration::from_secs(5);

/// The owner of a place.
pub(crate) struct Worker<S: Inbox> {
    pub(crate) setup: Arc<Setup<S>>,
    pub(crate) partition: Partition,
    pub(crate) ownership: Ownership,
    /// The next offset of the place.
    pub(crate) next: i64,
    /// The message that has to be read first, to see whether the log is the same.
    pub(crate) check: Option<LastMessage>,
    /// So many messages go by themselves: the owner before may have died in one of them.
    pub(crate) careful: usize,
    pub(crate) messages: mpsc::UnboundedReceiver<Message>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) stop: CancellationToken,
    pub(crate) progress: Arc<Progress>,
    /// Messages that became dead letters one after another.
    pub(crate) dead_in_row: u32,
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

impl<S: Inbox> Worker<S> {
    pub(crate) async fn run(mut self) -> Halt {
        let Err(halt) = self.go_on().await else { unreachable!("it ends with a reason") };
        if !matches!(halt, Halt::Lost) {
            let given = self.setup.store.give_back(self.ownership.clone());
            if !matches!(timeout(GIVE_BACK_MAX, given).await, Ok(Ok(Applied::Applied(_)))) {
                tracing::debug!(partition = %self.partition, "the place was not given back");
            }
        }
        halt
    }

    async fn go_on(&mut self) -> Result<(), Halt> {
        let stop = self.stop.clone();
        let mut letters = interval(DEAD_LETTERS_EVERY);
        letters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Halt::Asked),
                _ = letters.tick() => {
                    self.replay_letters().await?;
                    continue;
                }
                received = self.messages.recv() => received,
            };
            match received {
                Some(first) => {
                    let batch = self.batch_from(first);
                    let batch = self.checked(batch)?;
                    self.apply(batch).await?;
                }
                None => {
                    // The partition was revoked, and the group is about to say so.
                    let _ = timeout(DEAD_LETTERS_EVERY, stop.cancelled()).await;
                    return Err(if stop.is_cancelled() { Halt::Asked } else { Halt::Again });
                }
            }
        }
    }

    /// What is there, from `first` on.
    fn batch_from(&mut self, first: Message) -> VecDeque<Message> {
        let options = &self.setup.options;
        let mut bytes = first.bytes();
        let mut batch = VecDeque::from([first]);
        while batch.len() < options.batch_messages && bytes < options.batch_bytes {
            let Ok(message) = self.messages.try_recv() else { break };
            bytes += message.bytes();
            batch.push_back(message);
        }
        batch
    }

    /// The messages that are to be applied, if the log is the one that was read before.
    fn checked(&mut self, mut batch: VecDeque<Message>) -> Result<VecDeque<Message>, Halt> {
        if let (Some(last), Some(first)) = (self.check.take(), batch.front()) {
            if first.offset() == last.offset && first.digest() != last.digest {
                return Err(Halt::Stopped(format!(
                    "another message is at offset {}, which this consumer has applied: the topic was deleted and created \
                     again, or truncated. {}",
                    last.offset,
                    how_to_go_on(&self.ownership.place),
                )));
            }
            if first.offset() == last.offset {
                self.setup.stats.add(Count::SameLog, 1);
            }
            // Otherwise it was compacted away, or its time was over.
        }
        while let Some(message) = batch.front().filter(|message| message.offset() < self.next) {
            self.waiting.remove(message);
            batch.pop_front();
        }
        Ok(batch)
    }

    async fn apply(&mut self, mut batch: VecDeque<Message>) -> Result<(), Halt> {
        // So many go in the next batch, and so many by themselves before it.
        let (mut together, mut alone) = (batch.len(), 0_usize);
        while !batch.is_empty() {
            if self.stop.is_cancelled() {
                return Err(Halt::Asked);
            }
            if self.careful > 0 || alone > 0 {
                let message = batch[0].clone();
                self.apply_alone(&message).await?;
                self.pass(&mut batch, 1);
                (self.careful, alone) = (self.careful.saturating_sub(1), alone.saturating_sub(1));
                continue;
            }
            together = together.min(batch.len()).max(1);
            let (messages, ids) = self.decoded(batch.iter().take(together));
            if messages.is_empty() {
                alone = 1;
                continue;
            }
            match self.attempt(&messages, ids).await? {
                Attempted::Done { known } => {
                    self.count(&messages, known);
                    self.pass(&mut batch, messages.len());
                    // What stopped the batch there: it failed, or cannot be decoded.
                    alone = usize::from(!batch.is_empty());
                    together = batch.len();
                }
                Attempted::Failed { .. } | Attempted::Held { .. } if self.setup.handler.is_for_all() => {
                    alone = messages.len();
                }
                Attempted::Failed { at: 0, .. } | Attempted::Held { at: 0, .. } => alone = 1,
                Attempted::Failed { at, .. } | Attempted::Held { at, .. } => together = at,
            }
        }
        Ok(())
    }

    /// The first messages that have an id or none, and their claims.
    fn decoded<'m>(&self, batch: impl Iterator<Item = &'m Message>) -> (Vec<Message>, Vec<Option<Claim>>) {
        let decoded = batch.map_while(|message| Some((message.clone(), self.claim(message).ok()?)));
        decoded.unzip()
    }

    /// The claim of a message's id, if it has one.
    fn claim(&self, message: &Message) -> Result<Option<Claim>, String> {
        if !message.is_readable() {
            return Err("the name of a header is not UTF-8".to_owned());
        }
        let id = (self.setup.extractor)(message)?;
        let claim = |MessageId { scope, key, fingerprint }| {
            Claim::new(scope, key, fingerprint, Guarantee::Atomic, &self.setup.options.policy)
        };
        Ok(id.map(claim))
    }

    /// The messages are done: they make room.
    fn pass(&self, batch: &mut VecDeque<Message>, count: usize) {
        for message in batch.drain(..count) {
            self.waiting.remove(&message);
        }
        self.progress.set(&self.partition, self.next);
    }

    fn count(&mut self, messages: &[Message], known: usize) {
        let stats = &self.setup.stats;
        let without_id = messages.iter().filter(|message| matches!((self.setup.extractor)(message), Ok(None))).count();
        stats.add(Count::Applied, messages.len() - known);
        stats.add(Count::Known, known);
        stats.add(Count::WithoutId, without_id);
        self.dead_in_row = 0;
    }

    /// Applies a message by itself, until it is applied or a dead letter. Each try is counted before it starts, so a
    /// message that ends the process is found.
    async fn apply_alone(&mut self, message: &Message) -> Result<(), Halt> {
        let claim = match self.claim(message) {
            Ok(claim) => claim,
            Err(error) => return self.bury(message, None, Reason::Undecodable, &error, 0).await,
        };
        let tries = self.setup.options.tries;
        let mut last_error = None;
        loop {
            let nth = self.begin_try(message.offset()).await?;
            if nth > tries {
                let error = last_error.unwrap_or_else(|| {
                    "each time that it was tried, the process ended or lost the partition before it was applied"
                        .to_owned()
                });
                return self.bury(message, claim, Reason::Exhausted, &error, tries).await;
            }
            let mut held = 0;
            let failure = loop {
                match self.attempt(std::slice::from_ref(message), vec![claim.clone()]).await? {
                    Attempted::Done { known } => {
                        self.count(std::slice::from_ref(message), known);
                        return Ok(());
                    }
                    Attempted::Failed { failure, .. } => break failure,
                    Attempted::Held { record, .. } => {
                        if let Some((reason, error)) = hopeless(claim.as_ref(), record.as_ref()) {
                            return self.bury(message, claim, reason, error, nth).await;
                        }
                    }
                }
                held += 1;
                self.pause(Backoff::OF_HELD.after(held)).await?;
            };
            let error = failure.text();
            if let Failure::Rejected(_) = failure {
                return self.bury(message, claim, Reason::Rejected, &error, nth).await;
            }
            if nth >= tries {
                return self.bury(message, claim, Reason::Exhausted, &error, nth).await;
            }
            // The error may quote the message, so it goes into the dead letter only.
            tracing::debug!(?message, nth, "a message failed and is tried again");
            self.setup.stats.add(Count::Retried, 1);
            last_error = Some(error);
            self.pause(self.setup.options.backoff.after(nth)).await?;
        }
    }

    async fn begin_try(&mut self, offset: i64) -> Result<u32, Halt> {
        let setup = self.setup.clone();
        let ownership = self.ownership.clone();
        let begun = self.insist("count a try", || setup.store.begin_try(ownership.clone(), offset)).await?;
        begun.ok_or_else(|| self.fenced())
    }

    /// Applies messages in one transaction, however long the database does not answer.
    async fn attempt(&mut self, messages: &[Message], claims: Vec<Option<Claim>>) -> Result<Attempted, Halt> {
        let last = messages.last().expect("a batch is not empty");
        let last = LastMessage { offset: last.offset(), digest: last.digest() };
        let step = Step { from: Some(self.next), to: last.offset + 1, last: Some(last) };
        let mut failures = 0;
        loop {
            let attempt = attempt::Attempt::new(&self.setup, messages, &claims);
            let end = attempt.run(&self.setup.store, self.ownership.clone(), Some(step), None).await;
            match end {
                Ok((BatchEnd::Applied { known }, _)) => {
                    self.next = step.to;
                    return Ok(Attempted::Done { known: known.len() });
                }
                Ok((BatchEnd::Lost(place), _)) => {
                    // Sent again after an answer that was lost.
                    if place.is_some_and(|place| place.is_of(&self.ownership) && place.next == Some(step.to)) {
                        self.next = step.to;
                        return Ok(Attempted::Done { known: 0 });
                    }
                    return Err(self.fenced());
                }
                Ok((BatchEnd::Failed { at, why }, failure)) => {
                    return Ok(Attempted::Failed { at, failure: failure.unwrap_or_else(|| Failure::of(why)) });
                }
                Ok((BatchEnd::Held { at, record }, _)) => return Ok(Attempted::Held { at, record }),
                Ok((BatchEnd::NoDeadLetter, _)) => unreachable!("the batch is for no letter"),
                Err(attempt::Error::Panicked { at, text }) => {
                    return Ok(Attempted::Failed { at, failure: Failure::Panicked(text) });
                }
                Err(attempt::Error::Store(error)) => {
                    failures += 1;
                    self.wait_for_store("apply messages", &error, failures).await?;
                    if error.kind() == ErrorKind::NotKnown && self.moved_to(step.to).await? {
                        return Ok(Attempted::Done { known: 0 });
                    }
                }
            }
        }
    }

    /// Whether the place is at `to`, after an answer that was lost.
    async fn moved_to(&mut self, to: i64) -> Result<bool, Halt> {
        let setup = self.setup.clone();
        let Ownership { place, owner, epoch } = self.ownership.clone();
        let At { value: place, .. } =
            self.insist("find out what was committed", || setup.store.take(place.clone(), owner)).await?;
        if place.epoch != epoch {
            // Somebody had taken it meanwhile, and this was a takeover in turn.
            self.ownership.epoch = place.epoch;
            return Err(Halt::Again);
        }
        if place.next == Some(to) {
            self.next = to;
        }
        Ok(place.next == Some(to))
    }

    /// Gives a message up.
    async fn bury(
        &mut self,
        message: &Message,
        claim: Option<Claim>,
        reason: Reason,
        error: &str,
        attempts: u32,
    ) -> Result<(), Halt> {
        let digest = message.digest();
        let mut trouble = Trouble::new(digest, reason, error, attempts).with_message(dead_letter::encode(message));
        if let Some(claim) = claim {
            trouble = trouble.with_record(claim.id());
        }
        if let Some(key) = message.key() {
            trouble = trouble.with_key(key.clone());
        }
        if let Some(trace) = message.header("traceparent").and_then(|trace| std::str::from_utf8(trace).ok()) {
            trouble = trouble.with_trace(trace);
        }
        let offset = message.offset();
        let last = Some(LastMessage { offset, digest });
        let step = Step { from: Some(self.next), to: offset + 1, last };
        let (setup, ownership) = (self.setup.clone(), self.ownership.clone());
        let bury = || setup.store.bury(ownership.clone(), offset, trouble.clone(), Some(step));
        match self.insist("write a dead letter", bury).await? {
            Applied::Applied(_) => self.next = step.to,
            Applied::Lost => return Err(self.fenced()),
        }
        self.setup.stats.add(Count::Buried, 1);
        tracing::error!(?message, ?reason, attempts, "a message became a dead letter");
        self.dead_in_row += 1;
        let max = self.setup.options.dead_in_row;
        if self.dead_in_row >= max {
            self.progress.set(&self.partition, self.next);
            return Err(Halt::Stopped(format!(
                "{max} messages in a row became dead letters, so the fault is probably not theirs. {}",
                how_to_go_on(&self.ownership.place),
            )));
        }
        Ok(())
    }

    /// Applies the dead letters that an operator wants.
    async fn replay_letters(&mut self) -> Result<(), Halt> {
        let request = DeadLettersRequest {
            place: Some(self.ownership.place.clone()),
            wanted: true,
            limit: self.setup.options.batch_messages,
            ..DeadLettersRequest::default()
        };
        let setup = self.setup.clone();
        let wanted = self.insist("look for dead letters", || setup.store.dead_letters(request.clone())).await?;
        for letter in wanted.value.items {
            self.replay(letter).await?;
        }
        Ok(())
    }

    async fn replay(&mut self, letter: DeadLetter) -> Result<(), Halt> {
        let setup = self.setup.clone();
        let message = letter.trouble.message.as_ref().and_then(|encoded| dead_letter::decode(&letter.id, encoded));
        let failed = match &message {
            None => Some("the letter does not have its message".to_owned()),
            Some(message) => match self.claim(message) {
                Err(error) => Some(error),
                Ok(claim) => self.replayed(&letter, message, claim).await?,
            },
        };
        let Some(_) = failed else { return Ok(()) };
        // The error may quote the message.
        tracing::error!(offset = letter.id.offset, partition = %self.partition, "a dead letter failed again, and stays");
        let id = letter.id;
        self.insist("keep a dead letter", || setup.store.order(id.clone(), Order::Keep)).await?;
        Ok(())
    }

    /// Why the dead letter cannot be applied, if it cannot.
    async fn replayed(
        &mut self,
        letter: &DeadLetter,
        message: &Message,
        claim: Option<Claim>,
    ) -> Result<Option<String>, Halt> {
        let claims = vec![claim];
        let mut failures = 0;
        loop {
            let attempt = attempt::Attempt::new(&self.setup, std::slice::from_ref(message), &claims);
            let end = attempt.run(&self.setup.store, self.ownership.clone(), None, Some(letter.id.clone())).await;
            return match end {
                Ok((BatchEnd::Applied { .. }, _)) => {
                    self.setup.stats.add(Count::Replayed, 1);
                    Ok(None)
                }
                Ok((BatchEnd::NoDeadLetter, _)) => Ok(None),
                Ok((BatchEnd::Lost(_), _)) => Err(self.fenced()),
                Ok((BatchEnd::Failed { why, .. }, failure)) => {
                    Ok(Some(failure.unwrap_or_else(|| Failure::of(why)).text()))
                }
                Ok((BatchEnd::Held { .. }, _)) => Ok(Some("its id is held".to_owned())),
                Err(attempt::Error::Panicked { text, .. }) => Ok(Some(text)),
                Err(attempt::Error::Store(error)) => {
                    failures += 1;
                    self.wait_for_store("apply a dead letter", &error, failures).await?;
                    continue;
                }
            };
        }
    }

    fn fenced(&self) -> Halt {
        self.setup.stats.add(Count::Fenced, 1);
        Halt::Lost
    }

    /// Asks the database until it answers.
    async fn insist<'s, T>(
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

    async fn wait_for_store(&self, what: &str, error: &Error, failures: u32) -> Result<(), Halt> {
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

    async fn pause(&self, span: Duration) -> Result<(), Halt> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Halt::Asked),
            () = sleep(span) => Ok(()),
        }
    }
}

/// Why a message whose id is held will never be applied.
fn hopeless(claim: Option<&Claim>, record: Option<&At<Record>>) -> Option<(Reason, &'static str)> {
    let At { value: record, now } = record?;
    match decide(Some(record), claim?.fingerprint, *now) {
        Decision::Mismatch => Some((Reason::Reused, "its id belongs to another message, or to another request")),
        Decision::Unknown => {
            Some((Reason::OutcomeUnknown, "an operation with its id has begun, and its outcome is not known"))
        }
        _ => None,
    }
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
