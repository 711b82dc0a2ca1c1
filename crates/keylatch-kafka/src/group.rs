//! A member of a consumer group, or the process that reads on a lease: which partitions it has, and who works on them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use keylatch_core::Epoch;
use keylatch_core::inbox::{Inbox, PlaceName, Sharing};
use rdkafka::ClientConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::cleaner::clean;
use crate::consumer::Setup;
use crate::leased::Leases;
use crate::open::{Opened, Opener};
use crate::owned::{Halt, Owned};
use crate::partition::Partition;
use crate::poller::{Event, Left, Order, Poller, Route, Waiting};
use crate::progress::Progress;
use crate::stats::{Count, Stats, Stopped};
use crate::worker::{Start, Worker};

/// How often the broker is told how far the partitions have come, and partitions that stand still are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a member whose place was taken waits until it takes it back, if the partition is still its own then. Whoever
/// lost the partition hears of it before that.
const LOST_PAUSE: Duration = Duration::from_secs(5);

/// A member of a group.
pub(crate) struct Group<S: Inbox> {
    config: ClientConfig,
    topics: Vec<String>,
    setup: Arc<Setup<S>>,
}

impl<S: Inbox> Group<S> {
    pub(crate) fn new(config: ClientConfig, topics: Vec<String>, setup: Setup<S>) -> Self {
        Self { config, topics, setup: Arc::new(setup) }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.setup.stats.clone()
    }

    pub(crate) async fn run_until(self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        let _cleaning = AbortOnDropHandle::new(tokio::spawn(clean(self.setup.clone())));
        let mut failures = 0;
        loop {
            let (events_tx, events) = mpsc::unbounded_channel();
            let limits = self.setup.options.ahead;
            let on_lease = self.setup.store.sharing() == Sharing::OneProcess;
            let topics = if on_lease { &[][..] } else { &self.topics };
            match Poller::start(&self.config, topics, limits, events_tx.clone()) {
                Ok((poller, left)) => {
                    let (done, halts) = mpsc::unbounded_channel();
                    let poller = Arc::new(poller);
                    let start = || Leases::start(&self.setup, &self.config, &self.topics, &poller, &events_tx);
                    let leases = on_lease.then(start);
                    let mut member = Member {
                        setup: self.setup.clone(),
                        poller: poller.clone(),
                        leases,
                        ours: HashMap::new(),
                        opening: None,
                        done,
                        progress: Arc::default(),
                        bytes: Arc::default(),
                        left,
                    };
                    let started = Instant::now();
                    match member.live(events, halts, stopped.as_mut()).await {
                        None => return member.end().await,
                        Some(why) => {
                            tracing::error!(why, "the Kafka client failed for good, and is replaced");
                            self.setup.stats.add(Count::Clients, 1);
                            member.drop_all().await;
                        }
                    }
                    if started.elapsed() > Backoff::OF_SERVERS.longest {
                        failures = 0;
                    }
                }
                Err(error) => tracing::error!(%error, "no Kafka client can be made"),
            }
            failures += 1;
            tokio::select! {
                () = stopped.as_mut() => return,
                () = sleep(Backoff::OF_SERVERS.after(failures)) => {}
            }
        }
    }
}

/// A client's life in the group.
struct Member<S: Inbox> {
    setup: Arc<Setup<S>>,
    poller: Arc<Poller>,
    /// Ready when the client has left the group.
    left: Left,
    /// Without a group.
    leases: Option<Leases>,
    ours: HashMap<Partition, State>,
    /// The assignment that is not answered yet.
    opening: Option<Opening>,
    done: mpsc::UnboundedSender<Ended>,
    progress: Arc<Progress>,
    /// Of all partitions, fetched and not applied.
    bytes: Arc<AtomicUsize>,
}

struct Opening {
    partitions: Vec<Partition>,
    task: JoinHandle<Vec<Option<Opened>>>,
}

/// A worker that ended.
struct Ended {
    partition: Partition,
    life: u64,
    halt: Halt,
}

/// What becomes of a partition that is ours.
enum State {
    Working(Working),
    /// It is opened again then.
    Waiting(Instant),
    Opening(JoinHandle<Option<Opened>>),
    /// Until an operator moves its place, which has this epoch.
    Stopped {
        why: String,
        place: PlaceName,
        epoch: Epoch,
    },
}

struct Working {
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Which worker of the partition it is.
    life: u64,
    place: PlaceName,
    epoch: Epoch,
}

impl<S: Inbox> Member<S> {
    /// Lives until it is stopped, or the client fails; then it says why.
    async fn live(
        &mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut halts: mpsc::UnboundedReceiver<Ended>,
        mut stopped: Pin<&mut impl Future<Output = ()>>,
    ) -> Option<String> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopped.as_mut() => return None,
                opened = opened(&mut self.opening) => self.answer(opened),
                event = events.recv() => match event {
                    Some(Event::Assigned(partitions)) => self.assigned(partitions),
                    Some(Event::Revoked { partitions, lost }) => self.revoked(partitions, lost).await,
                    Some(Event::Found(topic, partitions)) => self.found(&topic, partitions).await,
                    Some(Event::Lost(topic)) => self.revoked(self.of_topic(&topic), true).await,
                    Some(Event::OutOfRange) => self.open_all_again(),
                    Some(Event::Ended(why)) => return Some(why),
                    None => return Some("its thread has ended".to_owned()),
                },
                Some(ended) = halts.recv() => self.halted(ended),
                _ = tick.tick() => self.tick().await,
            }
        }
    }

    /// Takes the places, and answers when all are taken.
    fn assigned(&mut self, partitions: Vec<Partition>) {
        tracing::info!(partitions = partitions.len(), "partitions were assigned");
        let opener = self.opener();
        let all = partitions.clone();
        let task = tokio::spawn(async move { join_all(all.into_iter().map(|one| opener.open(one))).await });
        self.opening = Some(Opening { partitions, task });
    }

    /// Opens the partitions that are new, and lets those go that are no more.
    async fn found(&mut self, topic: &str, partitions: Vec<Partition>) {
        let gone: Vec<_> = self.of_topic(topic).into_iter().filter(|ours| !partitions.contains(ours)).collect();
        if !gone.is_empty() {
            self.revoked(gone, false).await;
        }
        let mut are_new = false;
        for partition in partitions {
            if let Entry::Vacant(new) = self.ours.entry(partition) {
                new.insert(State::Waiting(Instant::now()));
                are_new = true;
            }
        }
        if are_new {
            self.tick().await;
        }
    }

    fn of_topic(&self, topic: &str) -> Vec<Partition> {
        self.ours.keys().filter(|partition| &*partition.topic == topic).cloned().collect()
    }

    fn opener(&self) -> Opener<S> {
        Opener { setup: self.setup.clone(), poller: self.poller.clone() }
    }

    fn answer(&mut self, opened: Vec<Option<Opened>>) {
        let Some(Opening { partitions, .. }) = self.opening.take() else { return };
        let mut opened: HashMap<_, _> =
            opened.into_iter().flatten().map(|opened| (opened.partition.clone(), opened)).collect();
        let mut assigned = Vec::with_capacity(partitions.len());
        for partition in partitions {
            match opened.remove(&partition) {
                Some(opened) => {
                    let fetch = opened.fetch;
                    assigned.push((partition, Some(fetch), self.work(opened)));
                }
                None => {
                    // Opening it panicked, or the client is going.
                    self.ours.insert(partition.clone(), State::Waiting(Instant::now() + TICK));
                    assigned.push((partition, None, None));
                }
            }
        }
        self.poller.order(Order::Assign(assigned));
    }

    /// Starts the worker of a partition, unless it stands still.
    fn work(&mut self, opened: Opened) -> Option<Route> {
        let Opened { partition, ownership, next, check, tried, after_crash, stopped, .. } = opened;
        let (place, epoch) = (ownership.place.clone(), ownership.epoch);
        if let Some(why) = stopped {
            let setup = self.setup.clone();
            // So that the next owner knows that nothing was under way.
            tokio::spawn(async move { drop(setup.store.give_back(ownership).await) });
            self.stand_still(partition, why, place, epoch);
            return None;
        }
        tracing::info!(%partition, next, after_crash, "a place was taken");
        let (messages, received) = mpsc::unbounded_channel();
        let waiting = Arc::new(Waiting::new(self.bytes.clone(), &self.poller));
        let owned =
            Owned::new(self.setup.clone(), partition.clone(), ownership, waiting.clone(), self.progress.clone());
        let stop = owned.stop.clone();
        let worker = Worker { owned, start: Start { next, check, tried, after_crash, messages: received } };
        static LIVES: AtomicU64 = AtomicU64::new(0);
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        let (done, of) = (self.done.clone(), partition.clone());
        let task = tokio::spawn(async move {
            let halt = AssertUnwindSafe(worker.run()).catch_unwind().await.unwrap_or(Halt::Again);
            let _ = done.send(Ended { partition: of, life, halt });
        });
        self.ours.insert(partition, State::Working(Working { stop, task, life, place, epoch }));
        self.show_stopped();
        Some(Route { messages, waiting })
    }

    /// Ends the work on partitions that are no longer ours.
    async fn revoked(&mut self, partitions: Vec<Partition>, lost: bool) {
        tracing::info!(partitions = partitions.len(), lost, "partitions were revoked");
        self.give_up_opening();
        let until = Instant::now() + if lost { Duration::ZERO } else { self.setup.options.drain };
        let gone = partitions.iter().filter_map(|partition| self.ours.remove(partition)).collect();
        end_all(gone, until).await;
        if !lost {
            self.commit();
        }
        self.show_stopped();
        self.poller.order(Order::Unassign(partitions));
    }

    /// The client waits for the answer to an assignment even if it revokes it.
    fn give_up_opening(&mut self) {
        if let Some(Opening { partitions, task }) = self.opening.take() {
            task.abort();
            self.poller.order(Order::Assign(partitions.into_iter().map(|one| (one, None, None)).collect()));
        }
    }

    fn halted(&mut self, Ended { partition, life, halt }: Ended) {
        let Some(State::Working(working)) = self.ours.get(&partition) else { return };
        if working.life != life {
            return;
        }
        let (place, epoch) = (working.place.clone(), working.epoch);
        let pause = match halt {
            // To be opened again.
            Halt::Asked => Duration::ZERO,
            Halt::Again => TICK,
            Halt::Lost => {
                tracing::warn!(%partition, "somebody else has taken the place");
                LOST_PAUSE
            }
            Halt::Stopped(why) => return self.stand_still(partition, why, place, epoch),
        };
        self.ours.insert(partition, State::Waiting(Instant::now() + pause));
    }

    fn stand_still(&mut self, partition: Partition, why: String, place: PlaceName, epoch: Epoch) {
        tracing::error!(%partition, "the partition stands still: {why}");
        self.ours.insert(partition, State::Stopped { why, place, epoch });
        self.show_stopped();
    }

    fn show_stopped(&self) {
        let stopped = self.ours.iter().filter_map(|(partition, state)| match state {
            State::Stopped { why, .. } => {
                Some(Stopped { topic: partition.topic.to_string(), partition: partition.number, why: why.clone() })
            }
            _ => None,
        });
        self.setup.stats.set_stopped(stopped.collect());
    }

    /// After an offset was not there: it is not said of which partition.
    fn open_all_again(&mut self) {
        for state in self.ours.values() {
            if let State::Working(working) = state {
                working.stop.cancel();
            }
        }
    }

    async fn tick(&mut self) {
        self.commit();
        let now = Instant::now();
        for partition in self.ours.keys().cloned().collect::<Vec<_>>() {
            match self.ours.get_mut(&partition) {
                Some(State::Waiting(at)) if *at <= now => {
                    let opener = self.opener();
                    let opening = partition.clone();
                    let task = tokio::spawn(async move { opener.open(opening).await });
                    self.ours.insert(partition, State::Opening(task));
                }
                Some(State::Opening(task)) if task.is_finished() => match task.await {
                    Ok(Some(opened)) => {
                        let fetch = opened.fetch;
                        if let Some(route) = self.work(opened) {
                            self.poller.order(Order::Reassign(partition, fetch, route));
                        }
                    }
                    _ => drop(self.ours.insert(partition, State::Waiting(now + TICK))),
                },
                Some(State::Stopped { place, epoch, .. }) => {
                    let place = timeout(TICK, self.setup.store.place(place.clone())).await;
                    let moved = |epoch| matches!(&place, Ok(Ok(now)) if now.value.as_ref().is_some_and(|now| now.epoch != epoch));
                    if moved(*epoch) {
                        tracing::info!(%partition, "the place was moved, and the partition goes on");
                        self.ours.insert(partition, State::Waiting(now));
                    }
                }
                _ => {}
            }
        }
        self.show_stopped();
    }

    fn commit(&self) {
        let offsets = self.progress.take();
        if !offsets.is_empty() {
            self.poller.order(Order::Commit(offsets));
        }
    }

    /// Ends in order: what is under way is applied, places are given back, and the group is left.
    async fn end(mut self) {
        let until = Instant::now() + self.setup.options.stop;
        self.give_up_opening();
        // Half of the time is for the broker.
        end_all(self.ours.drain().map(|(_, state)| state).collect(), until - self.setup.options.stop / 2).await;
        self.commit();
        self.show_stopped();
        self.poller.order(Order::Stop);
        if let Some(leases) = self.leases {
            leases.end(until).await;
        }
        if timeout_at(until, self.left).await.is_err() {
            tracing::warn!("the Kafka client has not left its group in time; the broker will find out");
        }
    }

    /// The client has failed, and others may have the partitions.
    async fn drop_all(self) {
        if let Some(opening) = &self.opening {
            opening.task.abort();
        }
        for state in self.ours.values() {
            match state {
                State::Working(working) => working.task.abort(),
                State::Opening(task) => task.abort(),
                _ => {}
            }
        }
        if let Some(leases) = self.leases {
            leases.end(Instant::now() + TICK).await;
        }
    }
}

/// The places of the assignment that is not answered, once they are taken.
async fn opened(opening: &mut Option<Opening>) -> Vec<Option<Opened>> {
    match opening {
        Some(opening) => (&mut opening.task).await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// Lets the work on these partitions end, until then.
async fn end_all(states: Vec<State>, until: Instant) {
    for state in &states {
        match state {
            State::Working(working) => working.stop.cancel(),
            State::Opening(task) => task.abort(),
            _ => {}
        }
    }
    for state in states {
        let State::Working(mut working) = state else { continue };
        if timeout_at(until, &mut working.task).await.is_err() {
            // Nothing of its batch is committed any more, or all of it.
            working.task.abort();
            let _ = working.task.await;
        }
    }
}
