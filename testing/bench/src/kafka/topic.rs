//! A topic full of messages.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use keylatch_kafka::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Message as _, Offset};

use super::Applied;
use crate::Result;

/// How long anything may take.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// How many messages are under way to the broker.
const UNDER_WAY: usize = 10_000;

/// One partition.
pub(super) struct Topic {
    servers: String,
    pub(super) name: &'static str,
}

/// The id of a message, with as little order as a random UUID has.
pub(super) fn id(number: usize) -> String {
    let mut hasher = DefaultHasher::new();
    number.hash(&mut hasher);
    format!("{:016x}{number:016x}", hasher.finish())
}

/// The value of a message, and what the raw writes write.
pub(super) fn body(number: usize) -> Vec<u8> {
    format!("{number:>200}").into_bytes()
}

impl Topic {
    pub(super) async fn filled(servers: &str, name: &'static str, messages: usize, ids: bool) -> Result<Self> {
        let topic = Self { servers: servers.to_owned(), name };
        let admin: AdminClient<DefaultClientContext> = topic.config().create()?;
        let new = NewTopic::new(name, 1, TopicReplication::Fixed(1));
        for made in admin.create_topics(&[new], &AdminOptions::new()).await? {
            made.map_err(|(name, code)| format!("the topic {name} was not made: {code}"))?;
        }
        let producer: FutureProducer = topic.config().set("linger.ms", "5").create()?;
        let mut under_way = Vec::with_capacity(UNDER_WAY);
        for number in 0..messages {
            let (key, value) = (format!("k{}", number % 100), body(number));
            let mut record = FutureRecord::to(name).key(&key).payload(&value);
            if ids {
                let id = id(number);
                record = record.headers(OwnedHeaders::new().insert(Header { key: "message-id", value: Some(&id) }));
            }
            under_way.push(producer.send_result(record).map_err(|(error, _)| error)?);
            if under_way.len() == UNDER_WAY || number + 1 == messages {
                for delivery in under_way.drain(..) {
                    delivery.await?.map_err(|(error, _)| error)?;
                }
            }
        }
        Ok(topic)
    }

    pub(super) fn kafka(&self) -> Kafka {
        Kafka::new(&*self.servers)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        config
    }

    /// What a consumer can take that does nothing else.
    pub(super) async fn poll_and_drop(&self, count: usize) -> Result<Applied> {
        let mut config = self.config();
        config.set("group.id", "poll-and-drop").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(self.name, 0, Offset::Beginning)?;
        consumer.assign(&from)?;
        let polling = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + LONGEST;
            let (mut began, mut taken, mut bytes) = (None, 0, 0);
            while taken < count {
                if Instant::now() > until {
                    return Err("no messages came".into());
                }
                let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
                bytes += message?.payload().map_or(0, <[u8]>::len);
                began.get_or_insert_with(Instant::now);
                taken += 1;
            }
            assert!(bytes > taken, "messages have values");
            let time = began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
            Ok(Applied { messages: taken, time, in_all: taken })
        });
        polling.await?
    }
}
