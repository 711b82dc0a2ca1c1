//! The relay's producer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use keylatch_core::outbox::{Event, EventId, Published, Publisher as _, Sent};
use keylatch_kafka::{Kafka, Producer};
use rdkafka::Message as _;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use testing_support::kafka;

use crate::setup::{admin, config, name, servers, topic};

fn published(nth: u8, event: Event) -> Published {
    Published { id: EventId::from_bytes([nth; 16]), event }
}

fn in_time() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A message as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, String)>,
}

/// So many messages of a topic, by partition and offset.
pub(crate) async fn logged(topic: &str, count: usize) -> Vec<Logged> {
    let reading: BaseConsumer = config()
        .set("group.id", name("reader"))
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("there is a client");
    reading.subscribe(&[topic]).expect("a topic");
    let reading = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + crate::setup::SOON;
        let mut logged = Vec::new();
        while logged.len() < count {
            assert!(Instant::now() < until, "only {} messages came", logged.len());
            let Some(Ok(message)) = reading.poll(Duration::from_millis(100)) else { continue };
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            logged.push((
                (message.partition(), message.offset()),
                Logged {
                    partition: message.partition(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
                },
            ));
        }
        logged.sort_by_key(|(at, _)| *at);
        logged.into_iter().map(|(_, logged)| logged).collect()
    });
    reading.await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_in_order_as_cloudevents_on_the_partition_of_their_key() {
    let topic = topic(4).await;
    let producer = Producer::new(&Kafka::new(servers()), "/shop").unwrap();
    let events: Vec<_> = (0..200)
        .map(|nth| published(nth, Event::new(&*topic).with_key(format!("k{}", nth % 10)).with_value(vec![nth])))
        .collect();
    assert!(producer.publish(&events, in_time()).await.iter().all(|sent| *sent == Sent::Acknowledged));
    let more = Event::new(&*topic).with_header("type", "order.created").with_header("traceparent", "00-1-2-01");
    let more = [published(200, more), published(201, Event::new(&*topic).with_header("ce_source", "/other"))];
    assert!(producer.publish(&more, in_time()).await.iter().all(|sent| *sent == Sent::Acknowledged));

    let logged = logged(&topic, 202).await;
    let mut last = HashMap::new();
    let mut partitions = HashMap::new();
    for message in logged.iter().filter(|message| message.key.is_some()) {
        let before = last.insert(&message.key, message.value.clone());
        assert!(before.is_none_or(|before| before < message.value));
        assert_eq!(*partitions.entry(&message.key).or_insert(message.partition), message.partition);
    }
    // What the clients in Java compute: murmur2, without its sign, modulo the partitions.
    for (key, partition) in &partitions {
        let key = key.as_ref().expect("it has one");
        assert_eq!(i32::try_from((murmur2(key) & 0x7fff_ffff) % 4).unwrap(), *partition);
    }
    let with = |header: &str, value: &str| {
        logged.iter().find(|message| message.headers.contains(&(header.into(), value.into()))).cloned()
    };
    let id = EventId::from_bytes([200; 16]).to_string();
    let typed = with("ce_id", &id).expect("it has its id");
    for (header, value) in [
        ("ce_specversion", "1.0"),
        ("ce_source", "/shop"),
        ("ce_type", "order.created"),
        ("type", "order.created"),
        ("traceparent", "00-1-2-01"),
    ] {
        assert!(typed.headers.contains(&(header.into(), value.into())), "{header}: {typed:?}");
    }
    assert_eq!((typed.key, typed.value), (None, None));
    let own = with("ce_source", "/other").expect("its own source");
    assert_eq!(own.headers.iter().filter(|(name, _)| name == "ce_source").count(), 1);
}

/// The hash of Kafka's clients in Java.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(bytes.len()).expect("a short key");
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word = (word ^ word >> 24).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    for (at, byte) in rest.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * at);
        if at == 0 {
            hash = hash.wrapping_mul(M);
        }
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_is_refused_and_holds_back_its_key_alone() {
    let small = name("small");
    let new = NewTopic::new(&small, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "1000");
    let made = admin().create_topics(&[new], &AdminOptions::new()).await.expect("it answers");
    assert!(made.iter().all(Result::is_ok));
    let producer = Producer::new(&Kafka::new(servers()), "/shop").unwrap();
    let event = |nth: u8, key: &str, bytes: usize| {
        published(nth, Event::new(&*small).with_key(key.to_owned()).with_value(vec![nth; bytes]))
    };
    // Larger than the topic takes, and larger than the client takes.
    let events = [
        event(1, "a", 10),
        event(2, "b", 10),
        event(3, "a", 2_000),
        event(4, "a", 10),
        event(5, "b", 10),
        event(6, "c", 2_000_000),
        event(7, "c", 10),
        event(8, "d", 10),
    ];
    // What the broker refuses together is sent again in the next calls, as the relay does.
    let mut sent: Vec<Option<Sent>> = vec![None; events.len()];
    for _ in 0..6 {
        let held = |key: &str, sent: &[Option<Sent>]| {
            events.iter().zip(sent).any(|(event, sent)| {
                matches!(sent, Some(Sent::Refused(_))) && event.event.key().is_some_and(|of| *of == *key)
            })
        };
        let left: Vec<_> = (0..events.len()).filter(|nth| sent[*nth].is_none()).collect();
        let key = |nth: usize| String::from_utf8(events[nth].event.key().expect("it has one").to_vec()).expect("text");
        let left: Vec<_> = left.into_iter().filter(|nth| !held(&key(*nth), &sent)).collect();
        let call: Vec<_> = left.iter().map(|nth| events[*nth].clone()).collect();
        let said = producer.publish(&call, in_time()).await;
        for (nth, said) in left.into_iter().zip(said) {
            if !matches!(said, Sent::Later(_)) {
                sent[nth] = Some(said);
            }
        }
    }
    let short: Vec<_> = sent
        .iter()
        .map(|sent| match sent {
            Some(Sent::Acknowledged) => "sent",
            Some(Sent::Refused(_)) => "refused",
            _ => "held",
        })
        .collect();
    assert_eq!(short, ["sent", "sent", "refused", "held", "sent", "refused", "held", "sent"]);
    let values: Vec<_> =
        logged(&small, 4).await.into_iter().filter_map(|message| message.value?.first().copied()).collect();
    let of = |key: [u8; 2]| values.iter().filter(|value| key.contains(value)).copied().collect::<Vec<_>>();
    assert_eq!(of([2, 5]), [2, 5]);
    assert!(!values.contains(&4) && !values.contains(&7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_delays_no_other() {
    let (there, absent) = (topic(1).await, name("absent"));
    let producer = Producer::new(&Kafka::new(servers()), "/shop").unwrap();
    let events = [published(1, Event::new(&*absent).with_key("k")), published(2, Event::new(&*there).with_key("k"))];
    let started = Instant::now();
    let sent = producer.publish(&events, in_time()).await;
    assert!(matches!(&sent[0], Sent::Later(why) if why.contains(&absent)), "{sent:?}");
    assert_eq!(sent[1], Sent::Acknowledged);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    // It is known for a while.
    let started = Instant::now();
    let sent = producer.publish(&events[..1], in_time()).await;
    assert!(matches!(&sent[0], Sent::Later(_)));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_call_ends_in_time_and_nothing_is_sent_later() {
    let cluster = tokio::task::block_in_place(|| kafka::Cluster::start(1));
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", cluster.servers());
    let admin: rdkafka::admin::AdminClient<_> = config.create().expect("there is a client");
    let new = NewTopic::new("t", 1, TopicReplication::Fixed(1));
    assert!(admin.create_topics(&[new], &AdminOptions::new()).await.expect("it answers").iter().all(Result::is_ok));
    let producer = Producer::new(&Kafka::new(cluster.servers()), "/shop").unwrap();
    let event = |nth: u8| [published(nth, Event::new("t").with_key("k"))];
    assert_eq!(producer.publish(&event(1), in_time()).await, [Sent::Acknowledged]);
    tokio::task::block_in_place(|| cluster.kill(0));
    let started = Instant::now();
    let sent = producer.publish(&event(2), started + Duration::from_secs(2)).await;
    assert!(matches!(&sent[0], Sent::Later(_)), "{sent:?}");
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
    tokio::task::block_in_place(|| cluster.start_again(0));
    assert_eq!(producer.publish(&event(3), in_time()).await, [Sent::Acknowledged]);
    let reading: BaseConsumer = config.set("group.id", "reader").create().expect("there is a client");
    let (low, high) = reading.fetch_watermarks("t", 0, Duration::from_secs(10)).expect("it answers");
    assert_eq!((low, high), (0, 2));
}
