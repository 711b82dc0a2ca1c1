//! Who reads a topic without a group: the process that holds a lease in the store has all partitions, others stand by.
//!
//! The lease only says who is to work. That the work of no other process counts is up to the places, which each new holder
//! takes.

use std::sync::Arc;
use std::time::Duration;

use keylatch::leader::Candidate;
use keylatch_core::inbox::Inbox;
use keylatch_core::store::Store;
use keylatch_core::{Key, Scope};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::consumer::Setup;
use crate::id::hashed;
use crate::partition::Partition;
use crate::poller::{Context, Event, Poller, ask};

/// How often a topic is looked at for partitions that were added, unless the user has set how old metadata may be.
const LOOK: Duration = Duration::from_secs(10);
const METADATA_AGE: &str = "topic.metadata.refresh.interval.ms";
/// How long a broker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// What the lease of a topic is in the scope of its consumer. Operations of message ids are `topic …`, or a source, which
/// has no space.
const OPERATION: &str = "lease of a topic";

/// The leases of a consumer's topics, each on a task of its own.
pub(crate) struct Leases {
    tasks: JoinSet<()>,
    stopping: CancellationToken,
}

impl Leases {
    /// Asks for the leases, and tells `events` which partitions there are while they are held.
    pub(crate) fn start<S: Inbox>(
        setup: &Setup<S>,
        config: &ClientConfig,
        topics: &[String],
        poller: &Arc<Poller>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Self {
        let (mut tasks, stopping) = (JoinSet::new(), CancellationToken::new());
        let set = config.get(METADATA_AGE).and_then(|age| age.parse().ok()).filter(|age| *age > 0);
        for topic in topics {
            let store: Arc<dyn Store> = setup.store.clone();
            let topic = Topic {
                candidate: Candidate::new(store, scope(&setup.name), key(topic), setup.options.lease),
                name: topic.as_str().into(),
                poller: poller.clone(),
                look: set.map_or(LOOK, Duration::from_millis),
                events: events.clone(),
                stopping: stopping.clone(),
            };
            tasks.spawn(topic.run());
        }
        Self { tasks, stopping }
    }

    /// Gives the leases back, after the places.
    pub(crate) async fn end(mut self, until: Instant) {
        self.stopping.cancel();
        while let Ok(Some(_)) = timeout_at(until, self.tasks.join_next()).await {}
    }
}

fn scope(consumer: &str) -> Scope {
    Scope::of_parts(consumer, &[OPERATION]).expect("a name of a place can be a caller")
}

fn key(topic: &str) -> Key {
    Key::new(topic).or_else(|_| Key::new(&hashed(topic))).expect("a hash is a key")
}

struct Topic {
    candidate: Candidate,
    name: Arc<str>,
    poller: Arc<Poller>,
    look: Duration,
    events: mpsc::UnboundedSender<Event>,
    stopping: CancellationToken,
}

impl Topic {
    async fn run(self) {
        let mut failing = false;
        while !self.stopping.is_cancelled() {
            match self.candidate.win().await {
                Ok(Some(held)) => {
                    failing = false;
                    tracing::info!(topic = &*self.name, "this process reads the topic");
                    tokio::select! {
                        () = self.stopping.cancelled() => return self.candidate.release(held).await,
                        () = held.lost() => self.lost(),
                        () = self.look() => return self.candidate.release(held).await,
                    }
                }
                Ok(None) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, topic = &*self.name, "waiting for the store to say who reads the topic");
                    }
                    failing = true;
                }
            }
            let _ = timeout(self.candidate.pause(), self.stopping.cancelled()).await;
        }
    }

    fn lost(&self) {
        tracing::warn!(topic = &*self.name, "another process reads the topic; this one stands by");
        let _ = self.events.send(Event::Lost(self.name.clone()));
    }

    /// Looks for partitions until the client is gone.
    async fn look(&self) {
        let mut failures = 0;
        while let Some(client) = self.poller.client() {
            match self.partitions(client).await {
                Ok(partitions) => {
                    failures = if partitions.is_empty() { failures + 1 } else { 0 };
                    if failures == 1 {
                        tracing::warn!(topic = &*self.name, "the topic is not there; waiting for it");
                    }
                    let _ = self.events.send(Event::Found(self.name.clone(), partitions));
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, topic = &*self.name, "waiting for Kafka to say which partitions there are");
                    }
                }
            }
            let pause = if failures == 0 { self.look } else { Backoff::OF_SERVERS.after(failures).min(self.look) };
            sleep(pause).await;
        }
        let _ = self.events.send(Event::Ended("its thread has ended".to_owned()));
    }

    /// All partitions of the topic; none if it is not there.
    async fn partitions(&self, client: Arc<BaseConsumer<Context>>) -> KafkaResult<Vec<Partition>> {
        let name = self.name.clone();
        let numbers = ask(client, move |client| {
            let metadata = client.fetch_metadata(Some(&name), ANSWER_MAX)?;
            let Some(topic) = metadata.topics().iter().find(|found| found.name() == &*name) else {
                return Ok(Vec::new());
            };
            match topic.error().map(RDKafkaErrorCode::from) {
                None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                Some(error) => return Err(KafkaError::MetadataFetch(error)),
            }
            Ok(topic.partitions().iter().map(MetadataPartition::id).collect())
        });
        let partition = |number| Partition { topic: self.name.clone(), number };
        Ok(numbers.await?.into_iter().map(partition).collect())
    }
}
