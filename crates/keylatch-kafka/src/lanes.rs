//! Lanes: applies each message of a partition through an engine. Messages of different keys are applied at once, those
//! of one key in their order, and those without a key whenever there is room.
//!
//! ```text
//!  read ─▶ is it the same log? ─▶ the lane of its key ─▶ the engine: claims, runs, records ─▶ done
//!            │ is it a dead letter? done                     │ failed: this lane waits         │
//!            ▼                                               └ given up: a dead letter ────────┤
//!          Tracker ◀───────────────────────────────────────────────────────────────────────────┘
//!            └── the place follows the offset below which everything is done
//! ```
//!
//! What is done above that offset is known by its record, or by its dead letter: so whoever reads it again after a
//! crash does not apply it again.

mod consumer;
mod one;
pub(crate) mod through;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use keylatch_core::Fingerprint;
use keylatch_core::inbox::{DeadLetterId, DeadLettersRequest, Inbox, Tracker};
use keylatch_core::store::{Applied, PAGE_RECORDS_MAX};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use self::one::{Ended, Job, Shared};
use self::through::Through;
use crate::owned::{Halt, Owned};
use crate::worker::{DEAD_LETTERS_EVERY, Start};
use crate::{Message, dead_letter};

/// Handlers of lanes that run at once, over all partitions: as many as a store on PostgreSQL opens connections by
/// default.
pub const LANES: usize = 16;
/// Messages of a partition that may be read past the oldest that is not done. They are read again after a crash.
pub const WINDOW: usize = 2_000;
/// How long the place may be behind what is done.
const PLACE_AFTER: Duration = Duration::from_millis(100);

/// The work on a partition, in lanes.
pub(crate) struct Lanes<S: Inbox> {
    owned: Arc<Owned<S>>,
    shared: Arc<Shared<S>>,
    start: Start,
    tracker: Tracker,
    /// The messages from the place on that are dead letters.
    dead: HashSet<(i64, Fingerprint)>,
    /// The keys that have a message under way, and what waits behind it.
    lanes: HashMap<Bytes, VecDeque<Job>>,
    running: JoinSet<(Job, Result<Ended, Halt>)>,
    /// The dead letters that are in a lane.
    letters: HashSet<DeadLetterId>,
    /// So many messages go by themselves: the owner before may have died in one of them.
    careful: usize,
    /// When the place is moved; `None` if it is at the mark.
    place_at: Option<Instant>,
}

impl<S: Inbox> Lanes<S> {
    pub(crate) fn new(owned: Arc<Owned<S>>, through: Arc<Through>, start: Start) -> Self {
        let careful = if start.after_crash { through.window } else { 0 };
        let shared = Arc::new(Shared::new(owned.clone(), through, start.next, start.tried));
        Self {
            owned,
            shared,
            tracker: Tracker::new(start.next),
            start,
            dead: HashSet::new(),
            lanes: HashMap::new(),
            running: JoinSet::new(),
            letters: HashSet::new(),
            careful,
            place_at: None,
        }
    }

    /// Works until something halts it. Then it waits for the handlers that have started.
    pub(crate) async fn work(mut self) -> Halt {
        let Err(halt) = self.go_on().await else { unreachable!("it ends with a reason") };
        if matches!(halt, Halt::Lost) {
            return halt;
        }
        // What waits ends at once.
        self.owned.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            if let Err(Halt::Lost) = self.settle(ended) {
                return Halt::Lost;
            }
        }
        if let Err(Halt::Lost) = self.move_place().await {
            return Halt::Lost;
        }
        halt
    }

    async fn go_on(&mut self) -> Result<(), Halt> {
        self.look_for_dead().await?;
        let stop = self.owned.stop.clone();
        let mut letters = interval(DEAD_LETTERS_EVERY);
        letters.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Halt::Asked),
                () = at(self.place_at) => self.move_place().await?,
                _ = letters.tick(), if self.careful == 0 => self.replay_letters().await?,
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => self.settle(ended)?,
                received = self.start.messages.recv(), if self.has_room() => match received {
                    Some(message) => self.read(message)?,
                    None => return Err(self.owned.closed().await),
                },
            }
        }
    }

    /// Whether another message may be read. After a crash, one goes after the other, and the place goes with them: it
    /// counts the tries of one message only.
    fn has_room(&self) -> bool {
        if self.careful > 0 {
            return self.tracker.open() == 0 && self.place_at.is_none();
        }
        self.tracker.kept() < self.shared.through.window
    }

    /// A message above the place may be a dead letter, and have no record.
    async fn look_for_dead(&mut self) -> Result<(), Halt> {
        let mut request = DeadLettersRequest {
            place: Some(self.owned.ownership.place.clone()),
            offset_min: Some(self.start.next),
            limit: PAGE_RECORDS_MAX,
            ..DeadLettersRequest::default()
        };
        loop {
            let page = || self.owned.setup.store.dead_letters(request.clone());
            let page = self.owned.insist("look for dead letters", page).await?.value;
            self.dead.extend(page.items.into_iter().map(|letter| (letter.id.offset, letter.id.digest)));
            let Some(next) = page.next else { return Ok(()) };
            request.after = Some(next);
        }
    }

    fn read(&mut self, message: Message) -> Result<(), Halt> {
        if !self.owned.is_new(&mut self.start.check, self.start.next, &message)? {
            return Ok(());
        }
        let (offset, digest) = (message.offset(), message.digest());
        // It is behind if the log was read again from an earlier offset.
        self.tracker.read(offset, digest).map_err(|_| Halt::Again)?;
        let is_counted = self.careful > 0;
        self.careful = self.careful.saturating_sub(1);
        if self.dead.remove(&(offset, digest)) {
            self.pass(&message);
        } else {
            self.put(Job { message, is_counted, letter: None });
        }
        Ok(())
    }

    /// Into the lane of its key.
    fn put(&mut self, job: Job) {
        match job.message.key().cloned() {
            None => self.begin(job),
            Some(key) => match self.lanes.get_mut(&key) {
                Some(lane) => lane.push_back(job),
                None => {
                    self.lanes.insert(key, VecDeque::new());
                    self.begin(job);
                }
            },
        }
    }

    fn begin(&mut self, job: Job) {
        let shared = self.shared.clone();
        self.running.spawn(async move {
            let ended = shared.work(&job).await;
            (job, ended)
        });
    }

    /// A message has ended, or its lane is halted.
    fn settle(&mut self, ended: Result<(Job, Result<Ended, Halt>), JoinError>) -> Result<(), Halt> {
        // A task panics only by a mistake of ours.
        let (Job { message, letter, .. }, ended) = ended.map_err(|_| Halt::Again)?;
        let ended = ended?;
        match &letter {
            Some(letter) => drop(self.letters.remove(&letter.id)),
            None => self.pass(&message),
        }
        self.next_of(&message);
        match ended {
            Ended::Applied { is_known, has_id } if letter.is_none() => self.owned.count_done(has_id, is_known),
            Ended::Dead if letter.is_none() => self.owned.check_dead_in_row()?,
            _ => {}
        }
        Ok(())
    }

    /// The lane of `message` goes on, unless the worker is about to end.
    fn next_of(&mut self, message: &Message) {
        let Some(key) = message.key() else { return };
        match self.lanes.get_mut(key).and_then(VecDeque::pop_front) {
            Some(job) if !self.owned.stop.is_cancelled() => self.begin(job),
            _ => drop(self.lanes.remove(key)),
        }
    }

    /// The message is done for good: it makes room, and the place may follow.
    fn pass(&mut self, message: &Message) {
        self.owned.waiting.remove(message);
        self.tracker.done(message.offset());
        self.shared.mark.store(self.tracker.mark(), Ordering::Relaxed);
        if self.place_at.is_none() && self.tracker.step().is_some() {
            let after = if self.careful > 0 { Duration::ZERO } else { PLACE_AFTER };
            self.place_at = Some(Instant::now() + after);
        }
    }

    async fn move_place(&mut self) -> Result<(), Halt> {
        self.place_at = None;
        let Some(step) = self.tracker.step() else { return Ok(()) };
        let asked = std::time::Instant::now();
        let owned = self.owned.clone();
        let advance = || owned.setup.store.advance(owned.ownership.clone(), step);
        // At the end there is no time to wait.
        let moved = if owned.stop.is_cancelled() {
            advance().await.map_err(|_| Halt::Asked)?
        } else {
            owned.insist("move the place", advance).await?
        };
        if moved == Applied::Lost {
            return Err(owned.fenced());
        }
        self.shared.is_ours(asked);
        self.tracker.stepped(&step);
        owned.progress.set(&owned.partition, step.to);
        Ok(())
    }

    /// Puts the dead letters that an operator wants into the lanes of their keys.
    async fn replay_letters(&mut self) -> Result<(), Halt> {
        for letter in self.owned.wanted_letters().await? {
            if self.letters.contains(&letter.id) {
                continue;
            }
            let encoded = letter.trouble.message.as_ref();
            let Some(message) = encoded.and_then(|encoded| dead_letter::decode(&letter.id, encoded)) else {
                self.owned.keep_letter(&letter).await?;
                continue;
            };
            self.letters.insert(letter.id.clone());
            self.put(Job { message, is_counted: false, letter: Some(Box::new(letter)) });
        }
        Ok(())
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
