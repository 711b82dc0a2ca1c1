//! What the tests share: topics of their own, and what sends to them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keylatch_kafka::Kafka;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use testing_support::{eventually, kafka};

/// How long something may take that goes on by itself. The machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A name that no other test has.
pub(crate) fn name(of: &str) -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("{of}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn servers() -> String {
    kafka::shared().servers()
}

pub(crate) fn client() -> Kafka {
    Kafka::new(servers()).with("session.timeout.ms", "2000").with("heartbeat.interval.ms", "300")
}

/// Both group protocols.
pub(crate) fn clients() -> [Kafka; 2] {
    [client(), Kafka::new(servers()).with("group.protocol", "consumer")]
}

pub(crate) fn config() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers());
    config
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    config().create().expect("there is a client")
}

/// Makes a topic of its own.
pub(crate) async fn topic(partitions: i32) -> String {
    let topic = name("topic");
    make_topic(&topic, partitions).await;
    topic
}

pub(crate) async fn make_topic(topic: &str, partitions: i32) {
    // A topic that was just deleted may still be there.
    eventually(SOON, "the topic to be made", async || {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let made = admin().create_topics(&[new], &AdminOptions::new()).await.expect("the broker answers");
        made.iter().all(Result::is_ok)
    })
    .await;
}

pub(crate) async fn delete_topic(topic: &str) {
    let deleted = admin().delete_topics(&[topic], &AdminOptions::new()).await.expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

/// A message to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Say {
    pub(crate) partition: i32,
    pub(crate) id: Option<String>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
}

/// A message of the key `key`, with a number and perhaps something that happens.
pub(crate) fn say(partition: i32, key: &str, value: &str) -> Say {
    let id = Some(format!("{key}-{}", value.split(' ').next().unwrap_or_default()));
    Say { partition, id, key: Some(key.into()), value: Some(value.into()) }
}

pub(crate) fn producer() -> FutureProducer {
    config().set("enable.idempotence", "true").set("linger.ms", "2").create().expect("there is a client")
}

pub(crate) async fn send(topic: &str, messages: impl IntoIterator<Item = Say>) {
    send_with(&producer(), topic, messages).await;
}

pub(crate) async fn send_with(producer: &FutureProducer, topic: &str, messages: impl IntoIterator<Item = Say>) {
    let mut deliveries = Vec::new();
    for Say { partition, id, key, value } in messages {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic).partition(partition);
        (record.key, record.payload) = (key.as_deref(), value.as_deref());
        if let Some(id) = &id {
            record.headers = Some(OwnedHeaders::new().insert(Header { key: "message-id", value: Some(id.as_str()) }));
        }
        deliveries.push(producer.send_result(record).expect("the queue has room"));
    }
    for delivery in deliveries {
        delivery.await.expect("the producer is there").expect("the broker takes it");
    }
}
