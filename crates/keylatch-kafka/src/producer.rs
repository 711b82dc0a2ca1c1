//! The relay's way to Kafka.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use keylatch_core::outbox::{Published, Publisher, Sent};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _, PurgeConfig};
use tokio::time::timeout_at;

use crate::poller::{Complaints, log};
use crate::{InvalidSettings, Kafka};

/// After this time the client gives a message up, so that a process that was paused does not send what another relay has
/// long sent. A call to [`Publisher::publish`] ends before.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(12);
/// How long a call may take, less than [`MESSAGE_TIMEOUT`]: so no message is given up between two of its key.
const CALL_MAX: Duration = Duration::from_secs(10);
/// How long before the end of a call the client is told to send no more; and not more than a quarter of the call.
const PURGE: Duration = Duration::from_millis(500);
/// For so long, a topic that is not there is not asked for again.
const ABSENT: Duration = Duration::from_secs(5);
/// How long a topic that was just created may be unknown; librdkafka's own 30 s would hold up a call for all that time.
const PROPAGATION_MS: &str = "2000";

/// Nothing of a key is sent, or counts as sent, after something of it that was not.
const BEHIND: &str = "an earlier event of its key was not sent";

type Inner = FutureProducer<Context>;

/// Publishes events to Kafka, for [`Relay`](keylatch::outbox::Relay).
///
/// The event's key, value and headers are the message's. With the headers of CloudEvents (the binary content mode of their
/// Kafka binding), unless the event has them itself: `ce_specversion`, `ce_id`, `ce_source` and, if the event has a header
/// `type`, `ce_type`. Consumers know an event by `ce_source` and `ce_id`.
///
/// The producer is idempotent, and an event is acknowledged when all replicas in sync have it. A key goes to the same
/// partition as with Kafka's own clients.
pub struct Producer {
    config: ClientConfig,
    source: String,
    inner: Mutex<Option<Inner>>,
    /// Topics that were not there, and until when they are not asked for.
    absent: Mutex<HashMap<String, Instant>>,
}

impl Producer {
    /// A producer whose events come from `source`: a URI that names the service, such as `/shop/orders`. It must stay the
    /// same, because consumers know an event by it.
    ///
    /// # Errors
    ///
    /// If a setting cannot be used.
    pub fn new(kafka: &Kafka, source: impl Into<String>) -> Result<Self, InvalidSettings> {
        let millis = MESSAGE_TIMEOUT.as_millis().try_into().expect("it is short");
        let config = kafka.producer(millis, PROPAGATION_MS)?;
        Ok(Self { config, source: source.into(), inner: Mutex::default(), absent: Mutex::default() })
    }

    /// The client, which is made when it is needed.
    fn client(&self) -> Result<Inner, KafkaError> {
        let mut inner = self.inner.lock();
        if let Some(client) = &*inner {
            return Ok(client.clone());
        }
        let client: Inner = self.config.create_with_context(Context::default())?;
        *inner = Some(client.clone());
        Ok(client)
    }

    /// The next call makes another client: this one has failed, or may still send.
    fn replace(&self) {
        if let Some(client) = self.inner.lock().take() {
            drop_elsewhere(client);
        }
    }

    async fn publish_until(&self, events: &[Published], until: Instant) -> Vec<Sent> {
        let until = until.min(Instant::now() + CALL_MAX);
        let mut sent = match self.client() {
            Ok(client) => self.round(&client, events, until).await,
            Err(error) => vec![Sent::Later(format!("no Kafka client can be made: {error}")); events.len()],
        };
        // The broker refuses a whole batch of messages for one that is too large. So that one is looked for.
        let mut stopped = HashSet::new();
        for (at, event) in events.iter().enumerate() {
            let key = key_of(event);
            if key.as_ref().is_some_and(|key| stopped.contains(key)) {
                sent[at] = Sent::Later(BEHIND.into());
            } else if matches!(&sent[at], Sent::Refused(_))
                && Instant::now() + PURGE < until
                && let Ok(client) = self.client()
            {
                sent[at] = self.round(&client, &events[at..=at], until).await.remove(0);
            }
            if let Some(key) = key.filter(|_| sent[at] != Sent::Acknowledged) {
                stopped.insert(key);
            }
        }
        sent
    }

    /// Sends events, and waits for all of them.
    async fn round(&self, client: &Inner, events: &[Published], until: Instant) -> Vec<Sent> {
        let mut waiting = Vec::with_capacity(events.len());
        let mut stopped = HashSet::new();
        for event in events {
            let key = key_of(event);
            let sent = match &key {
                Some(key) if stopped.contains(key) => Err(Sent::Later(BEHIND.into())),
                _ => self.send(client, event),
            };
            if let (Err(_), Some(key)) = (&sent, key) {
                stopped.insert(key);
            }
            waiting.push(sent);
        }
        let left = until.saturating_duration_since(Instant::now());
        let deadline = (until - PURGE.min(left / 4)).into();
        let (mut result, mut purged, mut broken) = (Vec::with_capacity(events.len()), false, false);
        for (event, waiting) in events.iter().zip(waiting) {
            let mut delivery = match waiting {
                Err(sent) => {
                    result.push(sent);
                    continue;
                }
                Ok(delivery) => delivery,
            };
            let mut delivered = timeout_at(deadline, &mut delivery).await.ok();
            if delivered.is_none() {
                if !purged {
                    // In each partition, what was sent is a beginning of what was to be sent.
                    client.purge(PurgeConfig::default().queue().inflight());
                    purged = true;
                }
                delivered = timeout_at(until.into(), &mut delivery).await.ok();
            }
            result.push(match delivered {
                Some(Ok(Ok(_))) => Sent::Acknowledged,
                Some(Ok(Err((error, _)))) => {
                    broken |= client.client().fatal_error().is_some();
                    self.failed(event, &error)
                }
                Some(Err(_)) | None => Sent::Later("the broker did not answer in time".into()),
            });
        }
        if purged || broken {
            self.replace();
        }
        result
    }

    fn send(&self, client: &Inner, Published { id, event }: &Published) -> Result<DeliveryFuture, Sent> {
        let now = Instant::now();
        if self.absent.lock().get(event.topic()).is_some_and(|until| now < *until) {
            return Err(Sent::Later(absent(event.topic())));
        }
        let mut headers = OwnedHeaders::new_with_capacity(event.headers().len() + 4);
        for (key, value) in event.headers() {
            if key.contains('\0') {
                return Err(Sent::Refused("the name of a header has a zero byte".into()));
            }
            headers = headers.insert(Header { key, value: Some(&**value) });
        }
        let has = |name: &str| event.headers().iter().any(|(key, _)| key == name);
        let id = id.to_string();
        let own = [("ce_specversion", "1.0"), ("ce_id", &*id), ("ce_source", &*self.source)];
        for (key, value) in own {
            if !has(key) {
                headers = headers.insert(Header { key, value: Some(value) });
            }
        }
        if let Some((_, kind)) = event.headers().iter().find(|(key, _)| key == "type").filter(|_| !has("ce_type")) {
            headers = headers.insert(Header { key: "ce_type", value: Some(&**kind) });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(event.topic()).headers(headers);
        record.key = event.key().map(|key| &**key);
        record.payload = event.value().map(|value| &**value);
        client.send_result(record).map_err(|(error, _)| self.failed_at_once(client, event.topic(), &error))
    }

    fn failed_at_once(&self, client: &Inner, topic: &str, error: &KafkaError) -> Sent {
        if client.client().fatal_error().is_some() {
            self.replace();
        }
        self.reason(topic, error)
    }

    fn failed(&self, Published { event, .. }: &Published, error: &KafkaError) -> Sent {
        self.reason(event.topic(), error)
    }

    fn reason(&self, topic: &str, error: &KafkaError) -> Sent {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
                Sent::Refused("the message is larger than the client or the topic allows".into())
            }
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                let now = Instant::now();
                let mut topics = self.absent.lock();
                topics.retain(|_, until| now < *until);
                topics.insert(topic.to_owned(), now + ABSENT);
                Sent::Later(absent(topic))
            }
            Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {
                Sent::Later("the broker did not answer in time".into())
            }
            _ => Sent::Later(error.to_string()),
        }
    }
}

fn absent(topic: &str) -> String {
    format!("the topic {topic} is not there; create it")
}

/// What the events of one order have in common.
fn key_of(Published { event, .. }: &Published) -> Option<(&str, &Bytes)> {
    event.key().map(|key| (event.topic(), key))
}

/// Dropping a client waits for its threads.
fn drop_elsewhere(client: Inner) {
    let dropping = Arc::new(Mutex::new(Some(client)));
    let in_thread = dropping.clone();
    let spawned =
        thread::Builder::new().name("keylatch-kafka-drop".into()).spawn(move || drop(in_thread.lock().take()));
    if spawned.is_err() {
        tracing::warn!("no thread for ending a Kafka client");
    }
}

impl Publisher for Producer {
    fn publish<'p>(&'p self, events: &'p [Published], until: Instant) -> BoxFuture<'p, Vec<Sent>> {
        Box::pin(self.publish_until(events, until))
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.replace();
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({})", self.source)
    }
}

#[derive(Debug, Default)]
struct Context(Complaints);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.say(&error, reason);
    }
}
