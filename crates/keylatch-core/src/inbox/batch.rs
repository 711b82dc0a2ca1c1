//! A batch of messages, and which of them are applied.

use std::collections::HashMap;
use std::fmt;

use super::dead_letter::DeadLetterId;
use super::place::{Ownership, Place, Step};
use crate::machine::Claim;
use crate::store::{At, Error, ErrorKind};
use crate::tx::{Database, Entered, Misuse, Work};
use crate::{Record, RecordId, State, Timestamp};

/// Messages that are applied in one transaction, in their order.
///
/// A batch is for the messages from the next offset of the place on (`step`), or for one that was given up (`letter`).
pub struct Batch<D: Database> {
    /// Whose batch it is: nothing happens unless it has the place.
    pub ownership: Ownership,
    /// The move of the place past its messages. Its `from` is a condition too.
    pub step: Option<Step>,
    /// The dead letter whose message it applies. It must be there, and is removed in the commit.
    pub letter: Option<DeadLetterId>,
    /// The messages; [`BATCH_MESSAGES_MAX`] at most.
    pub parts: Vec<Part<D>>,
}

/// The most messages that a batch can have.
pub const BATCH_MESSAGES_MAX: usize = 10_000;

/// Messages that one handler applies together: one for a handler of single messages, many for a handler of batches.
///
/// The transaction is lent to each part anew, so a handler that keeps it is found by its part.
pub struct Part<D: Database> {
    /// For each message the claim of its id, or `None` if it has none. The claim is the same that any other sender of
    /// the operation would make, such as one by HTTP; its guarantee is `Atomic`.
    pub ids: Vec<Option<Claim>>,
    /// Starts the handler, unless all messages of the part are known.
    pub start: StartPart<D>,
}

/// Starts the work of a part, given the handler's end of the transaction, and which messages of the part are to be
/// applied: their positions in [`Part::ids`], in ascending order, never none.
///
/// If the work ends with [`Ending::Commit`](crate::tx::Ending::Commit), its completion is recorded for each id. Any
/// other ending fails the batch: a refusal that keeps its answer and no writes is the consumer's to bury.
pub type StartPart<D> = Box<dyn FnOnce(<D as Database>::Handle, Vec<usize>) -> Work + Send>;

/// How a batch ended. Positions count the messages of the batch from 0, over all its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum BatchEnd {
    /// Everything is committed: the writes, the records and the place. The messages at these positions were not
    /// applied, because their ids were known: they had taken effect before, perhaps earlier in this batch.
    Applied {
        /// In ascending order.
        known: Vec<usize>,
    },
    /// A handler failed, and nothing is committed. Apply the messages before it as a batch, then this one by itself.
    Failed {
        /// The first message of the handler's part. It can be the part after the one that broke the transaction and
        /// ended well, so judge a message only when it is by itself. `None` if the store cannot tell, because the commit
        /// was refused: then apply each message by itself.
        at: Option<usize>,
        /// Why.
        why: Why,
    },
    /// The id of a message is held by someone else, and nothing is committed. Apply the messages before it as a batch;
    /// then [`decide`](crate::machine::decide) says what the record means for this one: it is running elsewhere (try
    /// later), its id belongs to another message, or its outcome is unknown.
    Held {
        /// The message; 0 if the store cannot tell.
        at: usize,
        /// The record. `None` if it is in another transaction, or was committed just now, or an earlier message of this
        /// batch has the id with another fingerprint: once the messages before it are committed, try again.
        record: Option<At<Record>>,
    },
    /// The place is not the caller's, or not where the step begins; this is the place. Nothing is committed by this
    /// call. An earlier call of the same batch was, if the place is the caller's and stands where the step ends.
    Lost(Option<Place>),
    /// The dead letter is not there: someone has removed it, or a call of the same batch was committed. Nothing is
    /// committed.
    NoDeadLetter,
}

/// Why a handler's part cannot be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The handler said so: its [`Ending`](crate::tx::Ending) was not a commit.
    Ended,
    /// It used its transaction in a way that cannot be committed.
    Misused(Misuse),
}

impl<D: Database> Batch<D> {
    /// Fails if it has too many messages, or its step leads nowhere, or it has neither step nor dead letter.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Refused`].
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why| Err(Error::new(ErrorKind::Refused, why));
        if self.parts.iter().map(|part| part.ids.len()).sum::<usize>() > BATCH_MESSAGES_MAX {
            return refuse("the batch has too many messages");
        }
        if self.letter.as_ref().is_some_and(|letter| letter.place != self.ownership.place) {
            return refuse("the letter is of another place");
        }
        match &self.step {
            Some(step) => step.check(),
            None if self.letter.is_none() => refuse("the batch has neither a step nor a letter"),
            None => Ok(()),
        }
    }

    /// The claims of all its messages that have an id.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.parts.iter().flat_map(|part| part.ids.iter().flatten())
    }
}

impl<D: Database> fmt::Debug for Batch<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ownership, step, letter, parts } = self;
        f.debug_struct("Batch")
            .field("ownership", ownership)
            .field("step", step)
            .field("letter", letter)
            .field("parts", parts)
            .finish()
    }
}

impl<D: Database> fmt::Debug for Part<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("messages", &self.ids.len()).finish_non_exhaustive()
    }
}

/// Which messages of a batch are applied; for authors of stores.
#[derive(Debug)]
pub struct Triage {
    /// For each part, in order.
    pub parts: Vec<Triaged>,
    /// The positions of the messages that are known.
    pub known: Vec<usize>,
}

/// Which messages of a part are applied.
#[derive(Debug)]
pub struct Triaged {
    /// The position of its first message in the batch.
    pub first: usize,
    /// The positions in the part of the messages that are applied. If there are none, the part is not started.
    pub fresh: Vec<usize>,
    /// The records of those that have an id, to be completed.
    pub entered: Vec<Entered>,
}

impl Triage {
    /// Sorts the messages of `batch` at `now`, given the current records of their ids.
    ///
    /// # Errors
    ///
    /// [`BatchEnd::Held`] if an id is held.
    #[expect(clippy::result_large_err, reason = "it is the other outcome, and no failure")]
    pub fn of<D: Database>(
        batch: &Batch<D>,
        found: &HashMap<RecordId, Record>,
        now: Timestamp,
    ) -> Result<Self, BatchEnd> {
        let mut triage = Self { parts: Vec::with_capacity(batch.parts.len()), known: Vec::new() };
        let mut earlier = HashMap::new();
        let mut at = 0;
        for part in &batch.parts {
            let mut triaged = Triaged { first: at, fresh: Vec::new(), entered: Vec::new() };
            for (position, claim) in part.ids.iter().enumerate() {
                let known = match claim {
                    None => false,
                    Some(claim) => match earlier.insert(claim.id(), claim.fingerprint) {
                        Some(fingerprint) if fingerprint == claim.fingerprint => true,
                        Some(_) => return Err(BatchEnd::Held { at, record: None }),
                        None => match Entered::new(claim, found.get(&claim.id()).cloned(), now) {
                            Ok(entered) => {
                                triaged.entered.push(entered);
                                false
                            }
                            Err(record) if took_effect(&record, claim) => true,
                            Err(record) => {
                                let record = Some(At { value: record, now });
                                return Err(BatchEnd::Held { at, record });
                            }
                        },
                    },
                };
                if known {
                    triage.known.push(at);
                } else {
                    triaged.fresh.push(position);
                }
                at += 1;
            }
            triage.parts.push(triaged);
        }
        Ok(triage)
    }
}

/// Whether the operation that `claim` is for has taken effect. With its answer or as a tombstone, it must not run
/// again.
fn took_effect(record: &Record, claim: &Claim) -> bool {
    record.fingerprint == claim.fingerprint && matches!(record.state, State::Completed { .. })
}
