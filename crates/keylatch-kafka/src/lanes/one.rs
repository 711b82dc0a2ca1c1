//! A message in its lane: it is tried until it is applied or a dead letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keylatch::entry_point::{Answer, Ran};
use keylatch::{Error, Refused};
use keylatch_core::inbox::{DeadLetter, Inbox, Order, Reason, Tried};
use keylatch_core::{Key, RecordId, Scope};
use parking_lot::Mutex;

use super::through::{Closed, Entry, Gate, NotApplied, Said, Through};
use crate::attempt::Failure;
use crate::backoff::Backoff;
use crate::owned::{GivenUp, Halt, Owned};
use crate::stats::Count;
use crate::{Message, MessageId};

/// For so long the place counts as ours after it was checked. It is much shorter than the time after which a group
/// gives the partitions of a silent member to others.
const FRESH: Duration = Duration::from_secs(1);

/// What the lanes of a partition share.
pub(super) struct Shared<S: Inbox> {
    pub(super) owned: Arc<Owned<S>>,
    pub(super) through: Arc<Through>,
    /// When the place was ours for sure; `None` before it was looked at.
    checked: Mutex<Option<Instant>>,
    /// The offset below which everything is done.
    pub(super) mark: AtomicI64,
    /// The tries of one message that earlier owners have counted.
    pub(super) tried: Option<Tried>,
}

/// What a lane does next.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Message,
    /// Whether each try is counted in the place before it starts.
    pub(super) is_counted: bool,
    /// The dead letter that it is, if an operator wants it to be applied.
    pub(super) letter: Option<Box<DeadLetter>>,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It is applied; or it was known.
    Applied { is_known: bool, has_id: bool },
    /// It is a dead letter.
    Dead,
}

/// How a try ended.
enum Try {
    Done {
        is_known: bool,
    },
    Failed(Failure),
    /// It did not start, and never will.
    Hopeless(Reason, &'static str),
}

/// When the handler of a try starts, once the key is held.
#[derive(Debug, Clone)]
enum Start {
    /// If the place is ours.
    AtOnce,
    /// Once the try is counted in the place; this gets the number.
    Counted(Arc<AtomicU32>),
    /// Not at all: the message is given up, unless it is known.
    Never,
}

impl<S: Inbox> Shared<S> {
    pub(super) fn new(owned: Arc<Owned<S>>, through: Arc<Through>, next: i64, tried: Option<Tried>) -> Self {
        Self { owned, through, checked: Mutex::default(), mark: AtomicI64::new(next), tried }
    }

    /// The place was ours at `at`.
    pub(super) fn is_ours(&self, at: Instant) {
        let mut checked = self.checked.lock();
        *checked = (*checked).max(Some(at));
    }

    pub(super) async fn work(self: Arc<Self>, job: &Job) -> Result<Ended, Halt> {
        match &job.letter {
            Some(letter) => self.replay(&job.message, letter).await,
            None => self.apply(&job.message, job.is_counted).await,
        }
    }

    /// Applies a message, however often it has to be tried.
    async fn apply(self: Arc<Self>, message: &Message, is_counted: bool) -> Result<Ended, Halt> {
        let options = &self.owned.setup.options;
        let (id, has_id) = match self.owned.id(message) {
            Ok(Some(id)) => (id, true),
            Ok(None) => (by_place(&self.owned.setup.name, message), false),
            Err(error) => return self.give_up(message, None, Reason::Undecodable, error, 0).await,
        };
        let earlier = self.tried.filter(|tried| tried.offset == message.offset());
        let mut nth = earlier.map_or(0, |tried| tried.attempts);
        let mut last_error = None;
        let counted = Arc::new(AtomicU32::new(0));
        loop {
            let counts = nth < options.tries && self.counts(message, nth, is_counted);
            let start = if counts && self.through.gate_may_write {
                nth += 1;
                Start::Counted(counted.clone())
            } else {
                nth = if counts { self.owned.begin_try(message.offset()).await?.max(nth + 1) } else { nth + 1 };
                if nth > options.tries { Start::Never } else { Start::AtOnce }
            };
            let tried = self.try_once(message, &id, &start).await?;
            nth = nth.max(counted.load(Ordering::Relaxed));
            let (reason, error) = match tried {
                Try::Done { is_known } => return Ok(Ended::Applied { is_known, has_id }),
                Try::Hopeless(reason, error) => {
                    // This one did not start.
                    nth -= u32::from(last_error.is_some() || nth > options.tries);
                    (reason, last_error.unwrap_or_else(|| error.to_owned()))
                }
                Try::Failed(Failure::Rejected(failed)) => (Reason::Rejected, failed.to_string()),
                Try::Failed(failure) => {
                    last_error = Some(failure.text());
                    if nth < options.tries {
                        // The error may quote the message, so it goes into the dead letter only.
                        tracing::debug!(?message, nth, "a message failed and is tried again");
                        self.owned.setup.stats.add(Count::Retried, 1);
                        self.owned.pause(options.backoff.after(nth)).await?;
                    }
                    continue;
                }
            };
            return self.give_up(message, Some(&id), reason, error, nth).await;
        }
    }

    /// Whether a try is counted in the place before it starts: if the owner before may have died in a message; and if it
    /// is not the first of the message that holds up the place, so that it is not tried anew by each owner.
    fn counts(&self, message: &Message, before: u32, is_counted: bool) -> bool {
        is_counted || before > 0 && message.offset() == self.mark.load(Ordering::Relaxed)
    }

    /// Sends a message through the engine, however long the store does not answer or somebody else has its key. If it
    /// is given up, the handler does not start, but it may be known.
    async fn try_once(self: &Arc<Self>, message: &Message, id: &MessageId, start: &Start) -> Result<Try, Halt> {
        let (mut failures, mut held) = (0, 0);
        loop {
            let answer = {
                let _permit = tokio::select! {
                    biased;
                    () = self.owned.stop.cancelled() => return Err(Halt::Asked),
                    permit = self.through.permits.acquire() => permit.expect("it is never closed"),
                };
                // Here too, so that a transaction seldom waits for it.
                match self.check().await {
                    Ok(()) => {
                        let gate = self.clone().gate(message.offset(), start.clone());
                        let entry = Entry { id: id.clone(), message: message.clone(), gate };
                        self.through.send(entry).await.map(Try::of)
                    }
                    Err(closed) => Ok(Err(closed)),
                }
            };
            match answer {
                Ok(Ok(Ok(ended))) => return Ok(ended),
                Ok(Ok(Err(refused))) => {
                    held += 1;
                    if let (Refused::Quota(quota), 1) = (refused, held) {
                        tracing::warn!(?quota, "a limit of the engine holds up messages; raise it in its Limits");
                    }
                    self.owned.pause(Backoff::OF_HELD.after(held)).await?;
                }
                Ok(Err(Closed::Lost)) => return Err(self.owned.fenced()),
                Ok(Err(Closed::GivenUp)) => return Ok(Try::Hopeless(Reason::Exhausted, GivenUp::NEVER_ENDED)),
                Err(Error::Store(error)) | Ok(Err(Closed::Store(error))) => {
                    failures += 1;
                    self.owned.wait_for_store("apply a message", &error, failures).await?;
                }
                Err(Error::Misused(misuse)) => return Ok(Try::Failed(Failure::Misused(misuse))),
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, "the engine takes no messages");
                    }
                    self.owned.pause(Backoff::OF_SERVERS.after(failures)).await?;
                }
            }
        }
    }

    /// Asked while the key is held: so whoever has taken the place waits for this run, before it gives the message up.
    fn gate(self: Arc<Self>, offset: i64, start: Start) -> Gate {
        Box::pin(async move {
            match start {
                Start::Never => Err(Closed::GivenUp),
                Start::AtOnce => self.check().await,
                Start::Counted(count) => self.count(offset, &count).await,
            }
        })
    }

    /// Counts a try in the place, which must be ours. Nothing is counted while somebody else has the key: an owner that dies
    /// while it waits has not tried.
    async fn count(&self, offset: i64, count: &AtomicU32) -> Result<(), Closed> {
        let (setup, asked) = (&self.owned.setup, Instant::now());
        let begun = setup.store.begin_try(self.owned.ownership.clone(), offset).await.map_err(Closed::Store)?;
        let nth = begun.ok_or(Closed::Lost)?;
        self.is_ours(asked);
        count.store(nth, Ordering::Relaxed);
        if nth > setup.options.tries { Err(Closed::GivenUp) } else { Ok(()) }
    }

    /// Whether the place is still ours.
    async fn check(&self) -> Result<(), Closed> {
        if self.checked.lock().is_some_and(|checked| checked.elapsed() < FRESH) {
            return Ok(());
        }
        let asked = Instant::now();
        let ownership = &self.owned.ownership;
        let place = self.owned.setup.store.place(ownership.place.clone()).await.map_err(Closed::Store)?.value;
        if !place.is_some_and(|place| place.is_of(ownership)) {
            return Err(Closed::Lost);
        }
        self.is_ours(asked);
        Ok(())
    }

    async fn give_up(
        &self,
        message: &Message,
        id: Option<&MessageId>,
        reason: Reason,
        error: String,
        attempts: u32,
    ) -> Result<Ended, Halt> {
        let record = id.map(|id| RecordId::of(&id.scope, &id.key));
        self.owned.bury(message, &GivenUp { reason, error, attempts, record }, None).await?;
        Ok(Ended::Dead)
    }

    /// Applies a dead letter that an operator wants, or keeps it.
    async fn replay(self: Arc<Self>, message: &Message, letter: &DeadLetter) -> Result<Ended, Halt> {
        let Ok(id) = self.owned.id(message) else {
            self.owned.keep_letter(letter).await?;
            return Ok(Ended::Dead);
        };
        let has_id = id.is_some();
        let id = id.unwrap_or_else(|| by_place(&self.owned.setup.name, message));
        let Try::Done { is_known } = self.try_once(message, &id, &Start::AtOnce).await? else {
            self.owned.keep_letter(letter).await?;
            return Ok(Ended::Dead);
        };
        // If the process dies before that, the message is known the next time.
        let discard = || self.owned.setup.store.order(letter.id.clone(), Order::Discard);
        self.owned.insist("remove a dead letter", discard).await?;
        self.owned.setup.stats.add(Count::Replayed, 1);
        Ok(Ended::Applied { is_known, has_id })
    }
}

impl Try {
    /// What an answer means. It was no try if it was refused because somebody else has the key, or the engine has no
    /// room.
    fn of(answer: Answer<Said>) -> Result<Result<Self, Refused>, Closed> {
        Ok(Ok(match answer {
            Answer::Ran(Ran { value: Ok(()), .. }) => Self::Done { is_known: false },
            Answer::Ran(Ran { value: Err(NotApplied::Failed(failure)), .. }) => Self::Failed(failure),
            Answer::Ran(Ran { value: Err(NotApplied::Closed(closed)), .. }) => return Err(closed),
            Answer::Replayed(_) | Answer::Refused(Refused::Expired) => Self::Done { is_known: true },
            Answer::Refused(Refused::Mismatch) => Self::Hopeless(Reason::Reused, GivenUp::REUSED),
            Answer::Refused(Refused::Unknown) => Self::Hopeless(Reason::OutcomeUnknown, GivenUp::NOT_KNOWN),
            Answer::Refused(refused) => return Ok(Err(refused)),
        }))
    }
}

/// The id of a message that has none of its own: where it is. Another log may have another message there.
fn by_place(consumer: &str, message: &Message) -> MessageId {
    // As for ids: a topic has no space, and no slash.
    let operation = format!("place {}", message.topic());
    let scope = Scope::of_parts(consumer, &[&operation]).expect("the names of a place fit into a scope");
    let digest = hex::encode(message.digest().as_bytes());
    let key = format!("{}/{}/{digest}", message.partition(), message.offset());
    let key = Key::new(&key).expect("numbers are a key");
    MessageId { scope, key, fingerprint: message.fingerprint() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_an_id_is_told_apart_by_where_it_is_and_what_it_is() {
        let id = |message: Message| by_place("c", &message);
        let one = Message::new(&"t".repeat(249), i32::MAX, i64::MAX).with_value("v");
        assert_eq!(id(one.clone()), id(one.clone()));
        let others = [
            Message::new(&"u".repeat(249), i32::MAX, i64::MAX).with_value("v"),
            Message::new(&"t".repeat(249), 1, i64::MAX).with_value("v"),
            Message::new(&"t".repeat(249), i32::MAX, 1).with_value("v"),
            // The same place of a topic that was created again.
            one.clone().with_header("h", "1"),
        ];
        assert!(
            others
                .into_iter()
                .all(|other| (id(other.clone()).scope, id(other).key) != (id(one.clone()).scope, id(one.clone()).key))
        );
    }
}
