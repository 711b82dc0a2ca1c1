//! A transactional store in memory, written as somebody outside would write one: with the public API of keylatch-core
//! alone. It passes all conformance suites, and with a [`Mistake`] it fails the case that is there for it.
//!
//! One transaction at a time holds the store, until it ends.

mod inbox;
mod outbox;
mod store;

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use keylatch_core::inbox::{Place, PlaceName};
use keylatch_core::machine::Claim;
use keylatch_core::outbox::{Events, Publishes};
use keylatch_core::store::{At, Error};
use keylatch_core::tx::{Database, Ending, Entered, Misuse, Seen, Start, Transacted, Transactional, Work};
use keylatch_core::{Clock, Record, RecordId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Something that the author of a store may get wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The record of the claim is not compared again after the transaction has begun.
    KeyNotChecked,
    /// The writes are committed before the record, in a separate commit.
    WritesCommitFirst,
    /// The record is committed although the writes cannot be.
    RecordCommitsAlone,
    /// A refusal keeps the handler's writes.
    RefusalKeepsWrites,
    /// A run that is rolled back leaves a record.
    RollBackIsRecorded,
    /// A transaction that was not returned is still committed.
    LeakIsIgnored,
    /// What a handler wrote before it panicked is committed.
    PanicCommits,
    /// A takeover does not raise the epoch.
    TakeoverKeepsEpoch,
    /// The look does not see the latest record.
    LookIsStale,
    /// Events are written in a commit of their own, before the transaction's.
    EventsCommitFirst,
    /// An answer that says no keeps its events.
    RefusalKeepsEvents,
    /// Events are forgotten although the transaction is committed.
    EventsAreLost,
    /// A relay's reads go on where the one before ended.
    CursorScans,
    /// Events are settled for anyone.
    SettlesWithoutLease,
    /// Events are settled by their number alone.
    SettlesByNumber,
    /// The events behind a refused one of their key go on.
    RefusedHoldsBackNothing,
    /// An event that cannot be read makes the whole read fail.
    UnreadableStopsAll,
    /// Nobody is told of a commit with events.
    NobodyIsWoken,
    /// A place is moved in a commit of its own, before the effect's.
    PlaceMovesAlone,
    /// A batch is applied for anyone.
    EpochNotChecked,
    /// A batch is applied wherever the place is.
    OffsetNotChecked,
    /// The ids of messages are not looked up.
    IdsAreNotLookedUp,
    /// A try is counted when it has failed.
    TryIsCountedAfterwards,
    /// A dead letter is written although the place is lost.
    DeadLetterCommitsAlone,
    /// A burial that is sent again writes its events again.
    BurialRepeatsItsEvents,
    /// That a place is given back is not written.
    ReturnIsForgotten,
}

/// A database that is a list of texts.
#[derive(Debug, Clone, Copy)]
pub struct Texts;

impl Database for Texts {
    type Handle = Handle;
}

/// The store. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Store {
    state: Arc<Mutex<State>>,
    /// Held by the open transaction.
    transaction: Arc<tokio::sync::Mutex<()>>,
    /// Wakes the relay.
    published: Arc<Notify>,
    clock: Clock,
    mistake: Option<Mistake>,
}

#[derive(Debug, Default)]
struct State {
    queue: outbox::Queue,
    places: BTreeMap<PlaceName, Place>,
    letters: inbox::DeadLetters,
    /// The tries that a mistaken store counts later.
    tried: BTreeMap<PlaceName, Place>,
    records: BTreeMap<RecordId, Record>,
    texts: Vec<String>,
}

/// What a transaction has written.
#[derive(Debug, Default)]
pub struct Written {
    texts: Vec<String>,
    events: Events,
    failed: bool,
}

impl Publishes for Handle {
    fn events(&mut self) -> &mut Events {
        &mut self.events
    }
}

/// The handler's end of a transaction. It goes back when it is dropped.
#[derive(Debug)]
pub struct Handle {
    written: Option<Written>,
    home: Arc<Mutex<Option<Written>>>,
}

const LENT: &str = "it is here until it is dropped";

impl Deref for Handle {
    type Target = Written;

    fn deref(&self) -> &Written {
        self.written.as_ref().expect(LENT)
    }
}

impl DerefMut for Handle {
    fn deref_mut(&mut self) -> &mut Written {
        self.written.as_mut().expect(LENT)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        *self.home.lock() = self.written.take();
    }
}

impl Written {
    /// Writes a text.
    pub fn write(&mut self, text: String) {
        self.texts.push(text);
    }

    /// A statement that fails, and the transaction with it.
    pub fn fail(&mut self) {
        self.failed = true;
    }
}

impl Store {
    /// An empty store.
    pub fn new(clock: Clock, mistake: Option<Mistake>) -> Self {
        Self { state: Arc::default(), transaction: Arc::default(), published: Arc::default(), clock, mistake }
    }

    /// All committed texts, in alphabetical order.
    pub fn texts(&self) -> Vec<String> {
        let mut texts = self.state.lock().texts.clone();
        texts.sort();
        texts
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn commit(&self, entered: &Entered, ending: Ending, written: Written) -> Result<Transacted, Error> {
        let refused = matches!(ending, Ending::RecordOnly(_)) && !self.makes(Mistake::RefusalKeepsEvents);
        let events = if refused || self.makes(Mistake::EventsAreLost) { Events::default() } else { written.events };
        if self.makes(Mistake::EventsCommitFirst) {
            self.state.lock().queue.extend(&events, self.clock.now());
        }
        let (completion, texts) = match ending {
            Ending::Commit(completion) => (completion, written.texts),
            Ending::RecordOnly(completion) if self.makes(Mistake::RefusalKeepsWrites) => (completion, written.texts),
            Ending::RecordOnly(completion) => (completion, Vec::new()),
            Ending::RollBack => {
                if self.makes(Mistake::RollBackIsRecorded) {
                    self.state.lock().records.insert(entered.record().id(), entered.record().clone());
                }
                return Ok(Transacted::RolledBack);
            }
        };
        let mut state = self.state.lock();
        let id = entered.record().id();
        if self.makes(Mistake::WritesCommitFirst) {
            state.texts.extend(texts.clone());
        }
        // A claim on a lease may have come between.
        if state.records.get(&id) != entered.previous() && !self.makes(Mistake::KeyNotChecked) {
            return Ok(Transacted::Held(None));
        }
        if written.failed && !self.makes(Mistake::RecordCommitsAlone) {
            return Ok(Transacted::Misused(Misuse::Failed));
        }
        let mut record = entered.completed(&completion, self.clock.now());
        if let Some(previous) = entered.previous().filter(|_| self.makes(Mistake::TakeoverKeepsEpoch)) {
            record.epoch = previous.epoch;
        }
        state.records.insert(id, record.clone());
        if !written.failed && !self.makes(Mistake::WritesCommitFirst) {
            state.texts.extend(texts);
        }
        if !self.makes(Mistake::EventsCommitFirst) {
            state.queue.extend(&events, self.clock.now());
        }
        if !events.is_empty() && !self.makes(Mistake::NobodyIsWoken) {
            self.published.notify_one();
        }
        Ok(Transacted::Committed(record))
    }

    /// Lends what was written so far to the work of `start`, until that ends.
    async fn lend(&self, written: Written, start: impl FnOnce(Handle) -> Work) -> (Ending, Option<Written>) {
        let home = Arc::new(Mutex::new(None));
        let handle = Handle { written: Some(written), home: home.clone() };
        let ending = AssertUnwindSafe(start(handle)).catch_unwind().await.unwrap_or_else(|panic| {
            if self.makes(Mistake::PanicCommits) {
                self.state.lock().texts.extend(home.lock().take().unwrap_or_default().texts);
            }
            resume_unwind(panic)
        });
        let returned = home.lock().take();
        (ending, returned)
    }

    async fn attempt(&self, claim: Claim, seen: At<Option<Record>>, start: Start<Texts>) -> Result<Transacted, Error> {
        let turn = self.transaction.clone().lock_owned().await;
        let mut previous = self.state.lock().records.get(&claim.id()).cloned();
        if self.makes(Mistake::KeyNotChecked) {
            previous = seen.value;
        }
        let entered = match Entered::new(&claim, previous, self.clock.now()) {
            Ok(entered) => entered,
            Err(record) => return Ok(Transacted::Held(Some(record))),
        };
        let (ending, returned) = self.lend(Written::default(), start).await;
        let written = match (returned, &ending) {
            (Some(written), _) => written,
            (None, Ending::RollBack) => return Ok(Transacted::RolledBack),
            (None, _) if self.makes(Mistake::LeakIsIgnored) => Written::default(),
            (None, _) => return Ok(Transacted::Misused(Misuse::NotReturned)),
        };
        drop(turn);
        self.commit(&entered, ending, written)
    }
}

impl Transactional for Store {
    type Database = Texts;

    fn look(&self, claim: &Claim) -> BoxFuture<'_, Result<At<Seen>, Error>> {
        let record = self.state.lock().records.get(&claim.id()).cloned();
        let record = record.filter(|_| !self.makes(Mistake::LookIsStale));
        let found = record.as_ref().map_or(Ok(()), |record| store::own(claim.id(), record).map(drop));
        let seen = At { value: Seen { record, busy: false }, now: self.clock.now() };
        Box::pin(async { found.map(|()| seen) })
    }

    fn transact(
        &self,
        claim: Claim,
        seen: At<Option<Record>>,
        start: Start<Texts>,
    ) -> BoxFuture<'_, Result<At<Transacted>, Error>> {
        Box::pin(async move {
            let value = self.attempt(claim, seen, start).await?;
            Ok(At { value, now: self.clock.now() })
        })
    }
}
