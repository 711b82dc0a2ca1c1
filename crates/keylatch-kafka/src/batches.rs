//! Batches: applies the messages of a partition in their order, in one transaction as many as there are.
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

use keylatch_core::inbox::{BatchEnd, DeadLetter, Inbox, LastMessage, Ownership, Reason, Step};
use keylatch_core::machine::{Claim, Decision, decide};
use keylatch_core::store::{At, ErrorKind};
use keylatch_core::{Guarantee, Record};
use tokio::time::{MissedTickBehavior, interval};

use crate::attempt::{self, Attempted, Failure};
use crate::backoff::Backoff;
use crate::consumer::Handler;
use crate::owned::{GivenUp, Halt, Owned};
use crate::stats::Count;
use crate::worker::{DEAD_LETTERS_EVERY, Start};
use crate::{Message, MessageId, dead_letter};

/// The work on a partition, in batches.
pub(crate) struct Batches<'o, S: Inbox> {
    owned: &'o Owned<S>,
    handler: &'o Handler<S::Database>,
    start: Start,
    /// So many messages go by themselves: the owner before may have died in one of them.
    careful: usize,
}

impl<'o, S: Inbox> Batches<'o, S> {
    pub(crate) fn new(owned: &'o Owned<S>, handler: &'o Handler<S::Database>, start: Start) -> Self {
        let careful = if start.after_crash { owned.setup.options.batch_messages } else { 0 };
        Self { owned, handler, start, careful }
    }

    /// Works until something halts it.
    pub(crate) async fn work(mut self) -> Halt {
        let Err(halt) = self.go_on().await else { unreachable!("it ends with a reason") };
        halt
    }

    async fn go_on(&mut self) -> Result<(), Halt> {
        let mut letters = interval(DEAD_LETTERS_EVERY);
        letters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let received = tokio::select! {
                biased;
                () = self.owned.stop.cancelled() => return Err(Halt::Asked),
                _ = letters.tick() => {
                    for letter in self.owned.wanted_letters().await? {
                        self.replay(letter).await?;
                    }
                    continue;
                }
                received = self.start.messages.recv() => received,
            };
            let Some(first) = received else { return Err(self.owned.closed().await) };
            let batch = self.batch_from(first)?;
            self.apply(batch).await?;
        }
    }

    /// What is there and is to be applied, from `first` on.
    fn batch_from(&mut self, first: Message) -> Result<VecDeque<Message>, Halt> {
        let options = &self.owned.setup.options;
        let (mut next, mut bytes) = (Some(first), 0);
        let mut batch = VecDeque::new();
        while let Some(message) = next {
            if self.owned.is_new(&mut self.start.check, self.start.next, &message)? {
                bytes += message.bytes();
                batch.push_back(message);
            }
            let has_room = batch.len() < options.batch_messages && bytes < options.batch_bytes;
            next = if has_room { self.start.messages.try_recv().ok() } else { None };
        }
        Ok(batch)
    }

    async fn apply(&mut self, mut batch: VecDeque<Message>) -> Result<(), Halt> {
        // So many go in the next batch, and so many by themselves before it.
        let (mut together, mut alone) = (batch.len(), 0_usize);
        while !batch.is_empty() {
            if self.owned.stop.is_cancelled() {
                return Err(Halt::Asked);
            }
            if self.careful > 0 || alone > 0 {
                let message = batch[0].clone();
                self.apply_alone(&message).await?;
                self.pass(&mut batch, 1);
                self.owned.check_dead_in_row()?;
                (self.careful, alone) = (self.careful.saturating_sub(1), alone.saturating_sub(1));
                continue;
            }
            together = together.min(batch.len()).max(1);
            let (messages, ids) = self.decoded(batch.iter().take(together));
            if messages.is_empty() {
                alone = 1;
                continue;
            }
            match self.attempt(&messages, &ids).await? {
                Attempted::Done { known } => {
                    self.count(&ids, &known);
                    self.pass(&mut batch, messages.len());
                    // What stopped the batch there: it failed, or cannot be decoded.
                    alone = usize::from(!batch.is_empty());
                    together = batch.len();
                }
                // The commit was refused: it can be any of them.
                Attempted::Failed { at: None, .. } => alone = messages.len(),
                Attempted::Failed { .. } | Attempted::Held { .. } if self.handler.is_for_all() => {
                    alone = messages.len();
                }
                Attempted::Failed { at: Some(0), .. } | Attempted::Held { at: 0, .. } => alone = 1,
                Attempted::Failed { at: Some(at), .. } | Attempted::Held { at, .. } => together = at,
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
        let claim = |MessageId { scope, key, fingerprint }| {
            Claim::new(scope, key, fingerprint, Guarantee::Atomic, &self.owned.setup.options.policy)
        };
        Ok(self.owned.id(message)?.map(claim))
    }

    /// The messages are done: they make room.
    fn pass(&self, batch: &mut VecDeque<Message>, count: usize) {
        for message in batch.drain(..count) {
            self.owned.waiting.remove(&message);
        }
        self.owned.progress.set(&self.owned.partition, self.start.next);
    }

    fn count(&self, ids: &[Option<Claim>], known: &[usize]) {
        for (at, id) in ids.iter().enumerate() {
            self.owned.count_done(id.is_some(), known.binary_search(&at).is_ok());
        }
    }

    /// Applies a message by itself, until it is applied or a dead letter. Each try is counted before it starts, so a
    /// message that ends the process is found.
    async fn apply_alone(&mut self, message: &Message) -> Result<(), Halt> {
        let claim = match self.claim(message) {
            Ok(claim) => claim,
            Err(error) => return self.bury(message, None, Reason::Undecodable, error, 0).await,
        };
        let tries = self.owned.setup.options.tries;
        let mut last_error = None;
        loop {
            let nth = self.owned.begin_try(message.offset()).await?;
            if nth > tries {
                let error = last_error.unwrap_or_else(|| GivenUp::NEVER_ENDED.to_owned());
                return self.bury(message, claim, Reason::Exhausted, error, tries).await;
            }
            let mut held = 0;
            let failure = loop {
                let ids = std::slice::from_ref(&claim);
                match self.attempt(std::slice::from_ref(message), ids).await? {
                    Attempted::Done { known } => {
                        self.count(ids, &known);
                        return Ok(());
                    }
                    Attempted::Failed { failure, .. } => break failure,
                    Attempted::Held { record, .. } => {
                        if let Some((reason, error)) = hopeless(claim.as_ref(), record.as_ref()) {
                            return self.bury(message, claim, reason, error.to_owned(), nth).await;
                        }
                    }
                }
                held += 1;
                self.owned.pause(Backoff::OF_HELD.after(held)).await?;
            };
            let error = failure.text();
            if let Failure::Rejected(_) = failure {
                return self.bury(message, claim, Reason::Rejected, error, nth).await;
            }
            if nth >= tries {
                return self.bury(message, claim, Reason::Exhausted, error, nth).await;
            }
            // The error may quote the message, so it goes into the dead letter only.
            tracing::debug!(?message, nth, "a message failed and is tried again");
            self.owned.setup.stats.add(Count::Retried, 1);
            last_error = Some(error);
            self.owned.pause(self.owned.setup.options.backoff.after(nth)).await?;
        }
    }

    /// Applies messages in one transaction, however long the database does not answer.
    async fn attempt(&mut self, messages: &[Message], claims: &[Option<Claim>]) -> Result<Attempted, Halt> {
        let last = messages.last().expect("a batch is not empty");
        let last = LastMessage { offset: last.offset(), digest: last.digest() };
        let step = Step { from: Some(self.start.next), to: last.offset + 1, last: Some(last) };
        let ownership = &self.owned.ownership;
        let mut failures = 0;
        loop {
            match self.try_once(messages, claims, Some(step), None).await {
                Ok((BatchEnd::Applied { known }, _)) => {
                    self.start.next = step.to;
                    return Ok(Attempted::Done { known });
                }
                Ok((BatchEnd::Lost(place), _)) => {
                    // Sent again after an answer that was lost.
                    if place.is_some_and(|place| place.is_of(ownership) && place.next == Some(step.to)) {
                        self.start.next = step.to;
                        return Ok(Attempted::Done { known: Vec::new() });
                    }
                    return Err(self.owned.fenced());
                }
                Ok((BatchEnd::Failed { at, why }, failure)) => {
                    return Ok(Attempted::Failed { at, failure: failure.unwrap_or_else(|| Failure::of(why)) });
                }
                Ok((BatchEnd::Held { at, record }, _)) => return Ok(Attempted::Held { at, record }),
                Ok((BatchEnd::NoDeadLetter, _)) => unreachable!("the batch is for no letter"),
                Err(attempt::Error::Panicked { at, text }) => {
                    return Ok(Attempted::Failed { at: Some(at), failure: Failure::Panicked(text) });
                }
                Err(attempt::Error::Store(error)) => {
                    failures += 1;
                    self.owned.wait_for_store("apply messages", &error, failures).await?;
                    if error.kind() == ErrorKind::NotKnown && self.moved_to(step.to).await? {
                        return Ok(Attempted::Done { known: Vec::new() });
                    }
                }
            }
        }
    }

    async fn try_once(
        &self,
        messages: &[Message],
        claims: &[Option<Claim>],
        step: Option<Step>,
        letter: Option<&DeadLetter>,
    ) -> Result<(BatchEnd, Option<Failure>), attempt::Error> {
        let attempt = attempt::Attempt::new(self.handler, &self.owned.setup.options.policy, messages, claims);
        let letter = letter.map(|letter| letter.id.clone());
        attempt.run(&*self.owned.setup.store, self.owned.ownership.clone(), step, letter).await
    }

    /// Whether the place is at `to`, after an answer that was lost.
    async fn moved_to(&mut self, to: i64) -> Result<bool, Halt> {
        let Ownership { place, owner, epoch } = &self.owned.ownership;
        let take = || self.owned.setup.store.take(place.clone(), *owner);
        let At { value: place, .. } = self.owned.insist("find out what was committed", take).await?;
        if place.epoch != *epoch {
            // Somebody had taken it meanwhile, and this was a takeover in turn.
            if let Some(ownership) = place.ownership() {
                self.owned.give_back(ownership).await;
            }
            return Err(Halt::Again);
        }
        if place.next == Some(to) {
            self.start.next = to;
        }
        Ok(place.next == Some(to))
    }

    /// Gives a message up, and passes it.
    async fn bury(
        &mut self,
        message: &Message,
        claim: Option<Claim>,
        reason: Reason,
        error: String,
        attempts: u32,
    ) -> Result<(), Halt> {
        let last = LastMessage { offset: message.offset(), digest: message.digest() };
        let step = Step { from: Some(self.start.next), to: last.offset + 1, last: Some(last) };
        let given_up = GivenUp { reason, error, attempts, record: claim.map(|claim| claim.id()) };
        self.owned.bury(message, &given_up, Some(step)).await?;
        self.start.next = step.to;
        Ok(())
    }

    /// Applies a dead letter that an operator wants.
    async fn replay(&mut self, letter: DeadLetter) -> Result<(), Halt> {
        let message = letter.trouble.message.as_ref().and_then(|encoded| dead_letter::decode(&letter.id, encoded));
        let applied = match message.map(|message| (self.claim(&message), message)) {
            Some((Ok(claim), message)) => self.replayed(&letter, &message, claim).await?,
            // It cannot be decoded, or the letter does not have its message.
            _ => false,
        };
        if applied { Ok(()) } else { self.owned.keep_letter(&letter).await }
    }

    /// Whether the dead letter is applied, or gone.
    async fn replayed(&mut self, letter: &DeadLetter, message: &Message, claim: Option<Claim>) -> Result<bool, Halt> {
        let claims = [claim];
        let mut failures = 0;
        loop {
            return match self.try_once(std::slice::from_ref(message), &claims, None, Some(letter)).await {
                Ok((BatchEnd::Applied { .. }, _)) => {
                    self.owned.setup.stats.add(Count::Replayed, 1);
                    Ok(true)
                }
                Ok((BatchEnd::NoDeadLetter, _)) => Ok(true),
                Ok((BatchEnd::Lost(_), _)) => Err(self.owned.fenced()),
                Ok((BatchEnd::Failed { .. } | BatchEnd::Held { .. }, _)) | Err(attempt::Error::Panicked { .. }) => {
                    Ok(false)
                }
                Err(attempt::Error::Store(error)) => {
                    failures += 1;
                    self.owned.wait_for_store("apply a dead letter", &error, failures).await?;
                    continue;
                }
            };
        }
    }
}

/// Why a message whose id is held will never be applied.
fn hopeless(claim: Option<&Claim>, record: Option<&At<Record>>) -> Option<(Reason, &'static str)> {
    let At { value: record, now } = record?;
    match decide(Some(record), claim?.fingerprint, *now) {
        Decision::Mismatch => Some((Reason::Reused, GivenUp::REUSED)),
        Decision::Unknown => Some((Reason::OutcomeUnknown, GivenUp::NOT_KNOWN)),
        _ => None,
    }
}
