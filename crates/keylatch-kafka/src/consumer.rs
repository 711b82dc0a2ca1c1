//! A consumer, as a service makes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::Tx;
use keylatch::leader::LEADER_LEASE_MS_MIN;
use keylatch::outbox::RELAY_LEASE;
use keylatch_core::inbox::{Inbox, InvalidPlace, PlaceName};
use keylatch_core::outbox::{Event, Events, InvalidEvent};
use keylatch_core::tx::Database;
use keylatch_core::{InvalidPolicy, Policy};

use crate::backoff::Backoff;
use crate::group::Group;
use crate::id::{Extractor, MessageId, of_headers};
use crate::lanes::through::Through;
use crate::lanes::{LANES, WINDOW};
use crate::poller::Limits;
use crate::stats::Stats;
use crate::telemetry;
use crate::{Failed, InvalidSettings, Kafka, Message};

/// Messages of a batch, at most. A batch takes what is there, and never waits for more.
pub const BATCH_MESSAGES: usize = 500;
/// Bytes after which a batch ends: it is in memory, and rolled back if one of its messages fails.
pub const BATCH_BYTES: usize = 4 * 1_024 * 1_024;
/// Messages of a partition that are handed to its worker ahead: the next batch, while one is applied.
pub const AHEAD_MESSAGES: usize = 2 * BATCH_MESSAGES;
/// Bytes of all partitions that are handed to their workers ahead. Beside them the client keeps up to 4 MiB of each
/// partition, which librdkafka's `queued.max.messages.kbytes` changes.
pub const AHEAD_BYTES: usize = 64 * 1_024 * 1_024;
/// Tries of a message before it becomes a dead letter: with the default pauses, more than ten minutes.
pub const TRIES: u32 = 16;
/// The pause after the first failed try. It doubles with each.
pub const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between two tries.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Dead letters one after another that stop a partition: then the fault is probably not the messages'.
pub const DEAD_IN_ROW: u32 = 50;
/// How long a batch may take to end after its partition was revoked. Meanwhile the group waits.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How long a consumer may take to end: less than Kubernetes waits before it kills.
pub const STOP: Duration = Duration::from_secs(20);

/// On a store that one process at a time consumes for, such as SQLite: if that process dies, the next one begins after at
/// most so long. The same as a relay's.
pub const LEASE: Duration = RELAY_LEASE;

/// Where a consumer begins that has no place yet, and whose group has committed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    /// With the first message that is there.
    #[default]
    Beginning,
    /// With the first message that is sent from now on.
    End,
}

/// A consumer of topics: it applies each message once, and remembers in the store how far it has come.
///
/// All processes with the same name and topics share the partitions. The name is also the group at the broker. On SQLite
/// there is no group: one process at a time reads a topic for the file, and others stand by.
///
/// ```no_run
/// use keylatch::Tx;
/// use keylatch::sqlite::{Sqlite, Store};
/// use keylatch_kafka::{Consumer, Failed, Kafka, Message};
///
/// async fn apply(mut tx: Tx<Sqlite>, message: Message) -> Result<(), Failed> {
///     let text = message.value().ok_or_else(|| Failed::reject("it has no value"))?.to_vec();
///     tx.run(move |db| db.execute("INSERT INTO seen (text) VALUES (?1)", [text])).await?;
///     Ok(())
/// }
///
/// # async fn service(stopped: impl Future<Output = ()>) -> Result<(), Box<dyn std::error::Error>> {
/// let store = Store::open("data/keylatch.db").await?;
/// let kafka = Kafka::new("127.0.0.1:9092");
/// Consumer::new(kafka, "inventory", ["orders"]).each(store, apply)?.run_until(stopped).await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Consumer {
    kafka: Kafka,
    name: String,
    topics: Vec<String>,
    pub(crate) options: Options,
    extractor: Option<Extractor>,
}

#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) start_at: StartAt,
    pub(crate) policy: Policy,
    pub(crate) batch_messages: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) ahead: Limits,
    pub(crate) lanes: usize,
    pub(crate) window: usize,
    pub(crate) tries: u32,
    pub(crate) backoff: Backoff,
    pub(crate) dead_in_row: u32,
    pub(crate) dead_letter_topic: Option<String>,
    pub(crate) dead_letter_retention: Option<Duration>,
    pub(crate) drain: Duration,
    pub(crate) stop: Duration,
    pub(crate) lease: Duration,
}

/// A consumer that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidConsumer {
    /// Its settings.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Its name or a topic.
    #[error(transparent)]
    Name(#[from] InvalidPlace),
    /// It has no topics.
    #[error("a consumer needs at least one topic")]
    NoTopics,
    /// It has a topic that is a pattern.
    #[error("a topic is named, and {0} is a pattern")]
    Pattern(String),
    /// Its topic of dead letters cannot be one.
    #[error("dead letters cannot go to {topic:?}: {why}")]
    DeadLetterTopic {
        /// The topic.
        topic: String,
        /// Why not.
        why: InvalidEvent,
    },
    /// It would read its own dead letters.
    #[error("dead letters cannot go to {0:?}, which this consumer reads")]
    OwnDeadLetters(String),
    /// A limit is zero.
    #[error("the limit {0} is zero")]
    Zero(&'static str),
    /// The lease is too short.
    #[error("the lease of a consumer is at least {LEADER_LEASE_MS_MIN} ms")]
    Lease,
    /// A batch is larger than stores take.
    #[error("a batch has at most {} messages", keylatch_core::inbox::BATCH_MESSAGES_MAX)]
    BatchTooLarge,
    /// The records of messages cannot be kept so.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// Records are forgotten while messages are still tried.
    #[error(
        "a message may be tried for {tried_for:?}, but records are kept for {kept:?}: what is done meanwhile would be \
         applied again. Raise the retention or the tombstone of the policy, or lower the tries or their pauses"
    )]
    Retention {
        /// How long all tries of a message and the pauses between them take, if its handler takes no time.
        tried_for: Duration,
        /// Retention and tombstone of the policy.
        kept: Duration,
    },
    /// The engine is `Atomic`.
    #[error("the engine is Atomic, and has no leases; use Consumer::lanes with its store")]
    Atomic,
    /// The engine's records end with its process.
    #[error(
        "the records of the engine end with its process, and so would the knowledge of what is done; use another store"
    )]
    NotDurable,
}

impl Consumer {
    /// A consumer of `topics` with this name.
    pub fn new<T: Into<String>>(kafka: Kafka, name: &str, topics: impl IntoIterator<Item = T>) -> Self {
        let options = Options {
            start_at: StartAt::default(),
            policy: Policy::default(),
            batch_messages: BATCH_MESSAGES,
            batch_bytes: BATCH_BYTES,
            ahead: Limits { records: AHEAD_MESSAGES, bytes: AHEAD_BYTES },
            lanes: LANES,
            window: WINDOW,
            tries: TRIES,
            backoff: Backoff { first: PAUSE, longest: PAUSE_MAX },
            dead_in_row: DEAD_IN_ROW,
            dead_letter_topic: None,
            dead_letter_retention: None,
            drain: DRAIN,
            stop: STOP,
            lease: LEASE,
        };
        let topics = topics.into_iter().map(Into::into).collect();
        Self { kafka, name: name.to_owned(), topics, options, extractor: None }
    }

    /// With another beginning than that of the topic.
    #[must_use]
    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.options.start_at = start_at;
        self
    }

    /// With ids that `extractor` finds, instead of those in the [headers](MessageId).
    #[must_use]
    pub fn with_ids(
        mut self,
        extractor: impl Fn(&Message) -> Result<Option<MessageId>, String> + Send + Sync + 'static,
    ) -> Self {
        self.extractor = Some(Arc::new(extractor));
        self
    }

    /// With this retention of message ids: for so long, the same id again is no second effect. On a lease, the policy of the
    /// engine counts instead.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.options.policy = policy;
        self
    }

    /// With at most so many messages in a transaction instead of [`BATCH_MESSAGES`].
    #[must_use]
    pub fn with_batch_max(mut self, messages: usize) -> Self {
        self.options.batch_messages = messages;
        self.options.ahead.records = messages.saturating_mul(2);
        self
    }

    /// With so many bytes handed to workers ahead, over all partitions, instead of [`AHEAD_BYTES`].
    #[must_use]
    pub fn with_ahead_bytes(mut self, bytes: usize) -> Self {
        self.options.ahead.bytes = bytes;
        self
    }

    /// With so many tries of a message, and pauses between them that begin with `pause` and double up to `pause_max`,
    /// instead of [`TRIES`], [`PAUSE`] and [`PAUSE_MAX`].
    #[must_use]
    pub fn with_tries(mut self, tries: u32, pause: Duration, pause_max: Duration) -> Self {
        self.options.tries = tries;
        self.options.backoff = Backoff { first: pause, longest: pause_max };
        self
    }

    /// With so many dead letters in a row that stop a partition, instead of [`DEAD_IN_ROW`].
    #[must_use]
    pub fn with_dead_in_row(mut self, messages: u32) -> Self {
        self.options.dead_in_row = messages;
        self
    }

    /// With dead letters that also go to `topic`, by the outbox of the store: a
    /// [`Relay`](keylatch::outbox::Relay) sends them. The event commits with the dead letter. It has the key, the value
    /// and the headers of the message, and headers that say what became of it: see the [manual](crate::manual).
    #[must_use]
    pub fn with_dead_letter_topic(mut self, topic: impl Into<String>) -> Self {
        self.options.dead_letter_topic = Some(topic.into());
        self
    }

    /// With dead letters that go by themselves when they are so old, unless an operator wants them to be applied. Without
    /// this they stay until an operator removes them.
    #[must_use]
    pub fn with_dead_letter_retention(mut self, retention: Duration) -> Self {
        self.options.dead_letter_retention = Some(retention);
        self
    }

    /// With so much time for a batch when its partition is revoked, and so much to end, instead of [`DRAIN`] and [`STOP`].
    #[must_use]
    pub fn with_deadlines(mut self, drain: Duration, stop: Duration) -> Self {
        self.options.drain = drain;
        self.options.stop = stop;
        self
    }

    /// With this lease instead of [`LEASE`], on a store that one process at a time consumes for. Elsewhere it means nothing.
    /// All processes should have the same.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// Applies each message with `handler`. Many share one transaction; if one fails, what the others wrote is applied
    /// again without it.
    ///
    /// # Errors
    ///
    /// If a setting, a name or a limit cannot be used.
    pub fn each<S, H, F>(self, store: S, handler: H) -> Result<Running<S>, InvalidConsumer>
    where
        S: Inbox,
        H: Fn(Tx<S::Database>, Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        self.batches(store, Handler::Each(Arc::new(move |tx, message| Box::pin(handler(tx, message)))))
    }

    /// Applies messages with one call of `handler` for each batch. If that fails, each is applied by itself.
    ///
    /// # Errors
    ///
    /// As [`each`](Self::each).
    pub fn all<S, H, F>(self, store: S, handler: H) -> Result<Running<S>, InvalidConsumer>
    where
        S: Inbox,
        H: Fn(Tx<S::Database>, Vec<Message>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failed>> + Send + 'static,
    {
        self.batches(store, Handler::All(Arc::new(move |tx, messages| Box::pin(handler(tx, messages)))))
    }

    fn batches<S: Inbox>(self, store: S, handler: Handler<S::Database>) -> Result<Running<S>, InvalidConsumer> {
        self.running(store, Mode::Batches(handler))
    }

    pub(crate) fn running<S: Inbox>(self, store: S, mode: Mode<S::Database>) -> Result<Running<S>, InvalidConsumer> {
        if self.topics.is_empty() {
            return Err(InvalidConsumer::NoTopics);
        }
        for topic in &self.topics {
            if topic.starts_with('^') {
                return Err(InvalidConsumer::Pattern(topic.clone()));
            }
            PlaceName::new(&self.name, topic, 0)?;
        }
        let options = self.options;
        if let Some(topic) = &options.dead_letter_topic {
            if self.topics.contains(topic) {
                return Err(InvalidConsumer::OwnDeadLetters(topic.clone()));
            }
            if let Err(why) = Events::default().publish(Event::new(topic)) {
                return Err(InvalidConsumer::DeadLetterTopic { topic: topic.clone(), why });
            }
        }
        let limits = [
            ("batch_max", options.batch_messages),
            ("ahead_bytes", options.ahead.bytes),
            ("tries", options.tries as usize),
            ("dead_in_row", options.dead_in_row as usize),
            ("lanes", options.lanes),
            ("window", options.window),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(InvalidConsumer::Zero(name));
        }
        if options.batch_messages > keylatch_core::inbox::BATCH_MESSAGES_MAX {
            return Err(InvalidConsumer::BatchTooLarge);
        }
        if options.lease < Duration::from_millis(LEADER_LEASE_MS_MIN) {
            return Err(InvalidConsumer::Lease);
        }
        let config = self.kafka.consumer(&self.name)?;
        let extractor = self.extractor.unwrap_or_else(|| {
            let name = self.name.clone();
            Arc::new(move |message: &Message| of_headers(&name, message))
        });
        telemetry::begin();
        let setup =
            Setup { store: Arc::new(store), name: self.name, mode, extractor, options, stats: Stats::default() };
        Ok(Running(Group::new(config, self.topics, setup)))
    }
}

/// A consumer with its store and handler.
pub struct Running<S: Inbox>(Group<S>);

impl<S: Inbox> Running<S> {
    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }

    /// Consumes until `stopped` is ready. Then it ends the batches that are under way, within the deadline, gives its places
    /// back, and leaves the group.
    ///
    /// It waits for topics, brokers and the database for as long as they are not there, and says so in the log.
    pub async fn run_until(self, stopped: impl Future<Output = ()>) {
        self.0.run_until(stopped).await;
    }
}

/// What a consumer is made of.
pub(crate) struct Setup<S: Inbox> {
    pub(crate) store: Arc<S>,
    pub(crate) name: String,
    pub(crate) mode: Mode<S::Database>,
    pub(crate) extractor: Extractor,
    pub(crate) options: Options,
    pub(crate) stats: Stats,
}

/// How messages are applied.
pub(crate) enum Mode<D: Database> {
    Batches(Handler<D>),
    Lanes(Arc<Through>),
}

/// Applies the messages of a batch.
pub(crate) enum Handler<D: Database> {
    Each(Arc<dyn Fn(Tx<D>, Message) -> Handled + Send + Sync>),
    All(Arc<dyn Fn(Tx<D>, Vec<Message>) -> Handled + Send + Sync>),
}

type Handled = BoxFuture<'static, Result<(), Failed>>;

impl<D: Database> Handler<D> {
    pub(crate) const fn is_for_all(&self) -> bool {
        matches!(self, Self::All(_))
    }
}

impl<D: Database> Clone for Handler<D> {
    fn clone(&self) -> Self {
        match self {
            Self::Each(each) => Self::Each(each.clone()),
            Self::All(all) => Self::All(all.clone()),
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kafka, name, topics, .. } = self;
        f.debug_struct("Consumer")
            .field("kafka", kafka)
            .field("name", name)
            .field("topics", topics)
            .finish_non_exhaustive()
    }
}

impl<S: Inbox> fmt::Debug for Running<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}
