//! The thread that polls the client, whatever database and handlers do.
//!
//! Only this thread calls the client, except for [questions](ask). It hands rebalances to the [group](crate::group),
//! which answers later with an [`Order`]: not in the callback, which would stop the polling.
//!
//! Each partition has a queue of its own at the client, which is read while its worker has room. A full partition is not
//! paused: a pause drops what has been fetched, and after it the client waits for up to a second before it fetches again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset};
use tokio::sync::{mpsc as channel, oneshot};

use crate::Message;
use crate::partition::Partition;
use crate::telemetry::Lag;

/// How long a rebalance may wait.
const POLL: Duration = Duration::from_millis(10);
/// So many messages of a partition are handed on before the next partition has its turn.
const IN_A_ROW: usize = 1_000;
/// How often the same complaint is logged.
const COMPLAINT_EVERY: Duration = Duration::from_secs(30);

/// What the group tells the poller.
#[derive(Debug)]
pub(crate) enum Order {
    /// Fetch these from their offsets on, `None` for the end. What has no route stands still.
    Assign(Vec<(Partition, Option<i64>, Option<Route>)>),
    /// Fetch this one from an offset on, wherever it was fetched before. A seek would not do after an offset that was not
    /// there.
    Reassign(Partition, i64, Route),
    /// Fetch these no more.
    Unassign(Vec<Partition>),
    /// Tell the broker these offsets.
    Commit(Vec<(Partition, i64)>),
    /// Look at the queues: a message has come, or there is room again.
    Look,
    /// Leave the group and end.
    Stop,
}

/// What the poller tells the group.
#[derive(Debug)]
pub(crate) enum Event {
    /// These are ours; an [`Order::Assign`] is awaited.
    Assigned(Vec<Partition>),
    /// These are no longer ours; an [`Order::Unassign`] is awaited. If they are lost, somebody else may have them.
    Revoked { partitions: Vec<Partition>, lost: bool },
    /// These are all partitions of the topic, and all are ours: of a consumer that reads on a [lease](crate::leased).
    Found(Arc<str>, Vec<Partition>),
    /// Another process reads the topic.
    Lost(Arc<str>),
    /// An offset of some partition is not in its log.
    OutOfRange,
    /// The client is of no more use. It is the last event.
    Ended(String),
}

/// The way of a partition's messages to their worker.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) messages: channel::UnboundedSender<Message>,
    pub(crate) waiting: Arc<Waiting>,
}

/// What has been fetched of a partition and is not applied.
#[derive(Debug)]
pub(crate) struct Waiting {
    records: AtomicUsize,
    bytes: AtomicUsize,
    of_all: Arc<AtomicUsize>,
    /// Whether the poller waits for room.
    full: AtomicBool,
    limits: Limits,
    looks: Arc<Looks>,
}

impl Waiting {
    /// Of a partition of `poller`, whose bytes count in `of_all`.
    pub(crate) fn new(of_all: Arc<AtomicUsize>, poller: &Poller) -> Self {
        Self {
            records: AtomicUsize::default(),
            bytes: AtomicUsize::default(),
            of_all,
            full: AtomicBool::new(false),
            limits: poller.limits,
            looks: poller.looks.clone(),
        }
    }

    fn add(&self, bytes: usize) {
        self.records.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.of_all.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A message is applied, or dropped.
    pub(crate) fn remove(&self, message: &Message) {
        self.records.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(message.bytes(), Ordering::Relaxed);
        self.of_all.fetch_sub(message.bytes(), Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) && self.has_much_room() && self.full.swap(false, Ordering::Relaxed) {
            self.looks.ask();
        }
    }

    /// Whether another message may come. If not, the poller is told once there is much room.
    fn has_room(&self) -> bool {
        let records = self.records.load(Ordering::Relaxed);
        let has_room =
            records == 0 || records < self.limits.records && self.of_all.load(Ordering::Relaxed) < self.limits.bytes;
        if !has_room {
            self.full.store(true, Ordering::Relaxed);
        }
        has_room
    }

    /// Whether there is room for a good part of what there can be: the poller is not woken for each message.
    fn has_much_room(&self) -> bool {
        let records = self.records.load(Ordering::Relaxed);
        let has_half = || self.of_all.load(Ordering::Relaxed) <= self.limits.bytes / 2;
        records == 0 || records <= self.limits.records / 2 && has_half()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.of_all.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// The way of orders to the poller. It is asked to look at its queues, and not again before it does.
#[derive(Debug)]
struct Looks {
    orders: mpsc::Sender<Order>,
    asked: AtomicBool,
}

impl Looks {
    fn ask(&self) {
        if !self.asked.swap(true, Ordering::SeqCst) {
            // If the poller has ended, nothing more comes.
            let _ = self.orders.send(Order::Look);
        }
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Messages of a partition.
    pub(crate) records: usize,
    /// Bytes of all partitions; one message of each is let through even so.
    pub(crate) bytes: usize,
}

/// A client and its thread.
#[derive(Debug)]
pub(crate) struct Poller {
    looks: Arc<Looks>,
    limits: Limits,
    consumer: Weak<BaseConsumer<Context>>,
}

/// Ready when the client has left its group and its thread has ended.
pub(crate) type Left = oneshot::Receiver<()>;

impl Poller {
    /// Joins the group with a new client; without topics it joins none.
    pub(crate) fn start(
        config: &ClientConfig,
        topics: &[String],
        limits: Limits,
        events: channel::UnboundedSender<Event>,
    ) -> KafkaResult<(Self, Left)> {
        let context = Context::default();
        let (rebalances, closing) = (context.rebalances.clone(), context.closing.clone());
        let consumer: Arc<BaseConsumer<Context>> = Arc::new(config.create_with_context(context)?);
        let topics: Vec<_> = topics.iter().map(String::as_str).collect();
        if !topics.is_empty() {
            consumer.subscribe(&topics)?;
        }
        let (orders, taken) = mpsc::channel();
        let looks = Arc::new(Looks { orders, asked: AtomicBool::new(false) });
        let (ended, left) = oneshot::channel();
        let weak = Arc::downgrade(&consumer);
        let thread = Thread { consumer, rebalances, assigned: HashMap::new(), looks: looks.clone(), events };
        let run = move || {
            thread.run(&taken, &closing);
            // Nobody may wait for it any more.
            let _ = ended.send(());
        };
        thread::Builder::new().name("keylatch-kafka".into()).spawn(run).expect("a thread can be started");
        Ok((Self { looks, limits, consumer: weak }, left))
    }

    pub(crate) fn order(&self, order: Order) {
        // If the thread has ended, the group hears of that.
        let _ = self.looks.orders.send(order);
    }

    /// The client, for questions.
    pub(crate) fn client(&self) -> Option<Arc<BaseConsumer<Context>>> {
        self.consumer.upgrade()
    }
}

impl Drop for Poller {
    /// The thread ends also if nobody has told it to.
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}

/// Asks the client something that blocks, on a thread of its own: the runtime never waits for it.
pub(crate) async fn ask<T: Send + 'static>(
    client: Arc<BaseConsumer<Context>>,
    question: impl FnOnce(&BaseConsumer<Context>) -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    let (reply, replied) = oneshot::channel();
    let asked = thread::Builder::new().name("keylatch-kafka-ask".into()).spawn(move || {
        let _ = reply.send(question(&client));
    });
    match asked {
        Ok(_) => replied.await.unwrap_or(Err(KafkaError::Canceled)),
        Err(_) => Err(KafkaError::Canceled),
    }
}

struct Thread {
    consumer: Arc<BaseConsumer<Context>>,
    rebalances: Arc<Mutex<Vec<Event>>>,
    /// What is ours, and where its messages go; `None` if it stands still.
    assigned: HashMap<Partition, Option<Routed>>,
    /// For the client, which says when a message has come.
    looks: Arc<Looks>,
    events: channel::UnboundedSender<Event>,
}

struct Routed {
    route: Route,
    queue: PartitionQueue<Context>,
}

impl Thread {
    fn run(mut self, orders: &mpsc::Receiver<Order>, closing: &AtomicBool) {
        let (mut ended, mut pause) = (None, Duration::ZERO);
        while ended.is_none() {
            match orders.recv_timeout(pause) {
                Ok(Order::Stop) => break,
                Ok(Order::Look) => self.looks.asked.store(false, Ordering::SeqCst),
                // This thread itself can send orders, so there is no other error.
                Err(_) => {}
                Ok(order) => {
                    self.obey(order);
                    pause = Duration::ZERO;
                    continue;
                }
            }
            let consumer = self.consumer.clone();
            while let Some(polled) = consumer.poll(Duration::ZERO) {
                // Messages come from the queues of their partitions.
                ended = polled.err().and_then(|error| self.complaint(&error)).or(ended);
            }
            let rebalances: Vec<_> = self.rebalances.lock().drain(..).collect();
            for event in rebalances {
                self.rebalance(event);
            }
            let (more, errors) = self.hand_on();
            ended = errors.iter().find_map(|error| self.complaint(error)).or(ended);
            pause = if more { Duration::ZERO } else { POLL };
        }
        // From here on, the callback answers rebalances itself: the drop waits for these answers.
        closing.store(true, Ordering::SeqCst);
        self.assigned.clear();
        // Questions hold the client for a moment.
        while Arc::strong_count(&self.consumer) > 1 {
            self.consumer.poll(POLL);
        }
        let events = self.events.clone();
        drop(self);
        if let Some(why) = ended {
            let _ = events.send(Event::Ended(why));
        }
    }

    fn obey(&mut self, order: Order) {
        let result = match order {
            Order::Assign(partitions) => self.assign(partitions),
            Order::Reassign(partition, offset, route) => {
                let one = std::slice::from_ref(&partition);
                self.unassign(one).and_then(|()| self.assign(vec![(partition, Some(offset), Some(route))]))
            }
            Order::Unassign(partitions) => self.unassign(&partitions),
            Order::Commit(offsets) => {
                let mut list = TopicPartitionList::with_capacity(offsets.len());
                for (partition, offset) in offsets {
                    add(&mut list, &partition, Offset::Offset(offset));
                }
                self.consumer.commit(&list, CommitMode::Async)
            }
            Order::Look | Order::Stop => Ok(()),
        };
        if let Err(error) = result {
            // After a fatal error, or for partitions that were lost meanwhile. Nothing rests on it: places are fenced.
            tracing::debug!(%error, "the Kafka client refused an order");
        }
    }

    fn assign(&mut self, partitions: Vec<(Partition, Option<i64>, Option<Route>)>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut still = Vec::new();
        for (partition, offset, route) in partitions {
            add(&mut list, &partition, offset.map_or(Offset::End, Offset::Offset));
            if let Some(offset) = offset {
                self.consumer.context().lag.reads(&partition, offset);
            }
            // A queue that is dropped takes the callback of its partition with it.
            self.assigned.remove(&partition);
            // Before the client begins to fetch, so that no message goes past the queue.
            let queue = self.consumer.split_partition_queue(&partition.topic, partition.number);
            let routed = route.zip(queue).map(|(route, mut queue)| {
                let looks = self.looks.clone();
                queue.set_nonempty_callback(move || looks.ask());
                Routed { route, queue }
            });
            if routed.is_none() {
                still.push(partition.clone());
            }
            self.assigned.insert(partition, routed);
        }
        // The client takes a list as a whole or not at all, and waits for an answer that it takes.
        let twice = self.at_the_client(&list)?;
        if twice.count() > 0 {
            self.consumer.incremental_unassign(&twice)?;
        }
        self.consumer.incremental_assign(&list)?;
        self.stand_still(&still);
        Ok(())
    }

    /// Fetches no more of these. Their offsets are lost (<https://github.com/confluentinc/librdkafka/issues/3176>), so
    /// they do not go on before they are assigned anew.
    fn stand_still(&self, partitions: &[Partition]) {
        if !partitions.is_empty() && self.consumer.pause(&listed(partitions)).is_err() {
            tracing::debug!("partitions were not paused");
        }
    }

    fn unassign(&mut self, partitions: &[Partition]) -> KafkaResult<()> {
        for partition in partitions {
            self.assigned.remove(partition);
            self.consumer.context().lag.ends(partition);
        }
        let list = listed(partitions);
        let list = self.at_the_client(&list)?;
        if list.count() == 0 {
            return Ok(());
        }
        // A pause would last until the partition comes back.
        let _ = self.consumer.resume(&list);
        self.consumer.incremental_unassign(&list)
    }

    /// What is in `list` and assigned at the client.
    fn at_the_client(&self, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        let assigned = self.consumer.assignment()?;
        let mut both = TopicPartitionList::new();
        for element in list.elements() {
            if assigned.find_partition(element.topic(), element.partition()).is_some() {
                both.add_partition(element.topic(), element.partition());
            }
        }
        Ok(both)
    }

    /// Hands on what has been fetched, as far as there is room. Returns whether there may be more, and what went wrong.
    fn hand_on(&mut self) -> (bool, Vec<KafkaError>) {
        let (mut more, mut errors, mut still) = (false, Vec::new(), Vec::new());
        for (partition, routed) in &mut self.assigned {
            let Some(Routed { route, queue }) = routed else { continue };
            let mut taken = 0;
            let ended = loop {
                if taken == IN_A_ROW || !route.waiting.has_room() {
                    more |= taken == IN_A_ROW;
                    break false;
                }
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        let message = Message::received(partition.topic.clone(), &message);
                        route.waiting.add(message.bytes());
                        if route.messages.send(message).is_err() {
                            break true;
                        }
                    }
                    Some(Err(error)) => errors.push(error),
                    None => break false,
                }
                taken += 1;
            };
            if ended {
                // The worker has ended: the partition stands still until it is opened again.
                *routed = None;
                still.push(partition.clone());
            }
        }
        self.stand_still(&still);
        (more, errors)
    }

    fn rebalance(&mut self, event: Event) {
        if let Event::Revoked { partitions, .. } = &event {
            for partition in partitions {
                self.assigned.remove(partition);
            }
        }
        let _ = self.events.send(event);
    }

    /// Why the client has to be replaced, if it has.
    fn complaint(&self, error: &KafkaError) -> Option<String> {
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            return Some(format!("{code}: {reason}"));
        }
        match error {
            KafkaError::MessageConsumptionFatal(code) => return Some(code.to_string()),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                let _ = self.events.send(Event::OutOfRange);
            }
            // The context has logged it, with its reason.
            _ => {}
        }
        None
    }
}

fn add(list: &mut TopicPartitionList, partition: &Partition, offset: Offset) {
    let added = list.add_partition_offset(&partition.topic, partition.number, offset);
    added.expect("an offset of a log is not negative");
}

fn listed(partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, partition.number);
    }
    list
}

/// What the client calls, on the thread that polls.
#[derive(Debug, Default)]
pub(crate) struct Context {
    rebalances: Arc<Mutex<Vec<Event>>>,
    closing: Arc<AtomicBool>,
    complaints: Complaints,
    lag: Lag,
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        self.lag.count(&statistics);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.complaints.say(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().map(Partition::of).collect();
        let assigned = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            // An assignment is left unanswered: closing revokes what is not there.
            if !assigned {
                let _ = consumer.incremental_unassign(list);
            }
            return;
        }
        let event = if assigned {
            Event::Assigned(partitions)
        } else {
            Event::Revoked { partitions, lost: consumer.assignment_lost() }
        };
        self.rebalances.lock().push(event);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            // The place is what counts, and the next commit says more.
            tracing::debug!(%error, "Kafka did not take a commit");
        }
    }
}

/// Passes on what librdkafka logs.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    use RDKafkaLogLevel::{Alert, Critical, Emerg, Error, Info, Notice, Warning};
    match level {
        Emerg | Alert | Critical | Error | Warning => tracing::warn!(target: "rdkafka", facility, "{text}"),
        Notice | Info => tracing::info!(target: "rdkafka", facility, "{text}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "rdkafka", facility, "{text}"),
    }
}

/// Logs what is wrong with topics and brokers, each thing once in a while.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<HashMap<String, Instant>>);

impl Complaints {
    /// So many different ones are remembered.
    const MAX: usize = 100;

    pub(crate) fn say(&self, error: &KafkaError, reason: &str) {
        let now = Instant::now();
        let mut said = self.0.lock();
        said.retain(|_, at| now.duration_since(*at) < COMPLAINT_EVERY);
        if said.len() < Self::MAX && said.insert(reason.to_owned(), now).is_none() {
            tracing::warn!(%error, "Kafka: {reason}");
        }
    }
}
