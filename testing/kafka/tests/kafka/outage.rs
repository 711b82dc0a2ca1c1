//! Databases and brokers that are not there.

use std::time::{Duration, Instant};

use keylatch_kafka::{Consumer, Count, Kafka};
use testing_kafka::open_postgres;
use testing_support::postgres::Cluster;
use testing_support::{eventually, kafka};
use tokio::time::sleep;

use crate::consuming::{Db, check, consumer};
use crate::setup::{SOON, client, name, say, send, topic};

/// For so long the database is down: `KEYLATCH_KAFKA_OUTAGE_SECONDS`, or this.
const DOWN_SECONDS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_is_waited_for_and_is_no_try_of_a_message() {
    let cluster = Cluster::start("");
    cluster.sql("postgres", "CREATE DATABASE app");
    let db = Db::Postgres(open_postgres(&cluster.url("app")).await, cluster.url("app"));
    let (topic, name) = (topic(2).await, name("c"));
    let numbers = |from: i32, to: i32| {
        (from..to).flat_map(|nth| [0, 1].map(|part| say(part, &format!("k{part}"), &nth.to_string())))
    };
    send(&topic, numbers(0, 50)).await;
    // One try: an outage that counted as one would make dead letters.
    let consuming = db.start(consumer(client(), &name, &topic).with_tries(1, Duration::ZERO, Duration::ZERO));
    db.await_effects(100).await;
    let down = std::env::var("KEYLATCH_KAFKA_OUTAGE_SECONDS")
        .map_or(DOWN_SECONDS, |seconds| seconds.parse().expect("KEYLATCH_KAFKA_OUTAGE_SECONDS is a number of seconds"));
    // In the middle of a batch, twice: once while it is down for a while, and once as it starts again at once.
    for (from, down) in [(50, Duration::from_secs(down)), (100, Duration::ZERO)] {
        send(&topic, [say(0, "k0", &format!("{from} slow:500"))]).await;
        sleep(Duration::from_millis(200)).await;
        let cluster = &cluster;
        tokio::task::block_in_place(|| cluster.stop_immediately());
        send(&topic, numbers(from + 1, from + 50)).await;
        sleep(down).await;
        tokio::task::block_in_place(|| cluster.start_again());
        eventually(SOON, "what was sent", async || consuming.stats.of(Count::Applied) >= (from as u64 + 49) * 2).await;
    }
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &[]);
    assert_eq!(effects.len(), 298);
    assert!(db.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_in_time_although_no_broker_answers() {
    let db = Db::sqlite().await;
    let deadlines = |consumer: Consumer| consumer.with_deadlines(Duration::from_secs(1), Duration::from_secs(3));
    // Never there.
    let nowhere = Kafka::new("127.0.0.1:1");
    let consuming = db.start(deadlines(Consumer::new(nowhere, "nowhere", ["t"])));
    sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    consuming.stop().await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_die_or_stand_still_are_waited_for_and_delay_no_end() {
    let cluster = tokio::task::block_in_place(|| kafka::Cluster::start(1));
    let db = Db::sqlite().await;
    let (topic, name) = (name("topic"), name("c"));
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", cluster.servers());
    let admin: rdkafka::admin::AdminClient<_> = config.create().expect("there is a client");
    let new = rdkafka::admin::NewTopic::new(&topic, 1, rdkafka::admin::TopicReplication::Fixed(1));
    let made = admin.create_topics(&[new], &rdkafka::admin::AdminOptions::new()).await.expect("it answers");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let producer = config.create().expect("there is a client");
    let kafka = Kafka::new(cluster.servers()).with("session.timeout.ms", "6000");
    let deadlines = (Duration::from_secs(1), Duration::from_secs(3));
    let consuming = db.start(consumer(kafka.clone(), &name, &topic).with_deadlines(deadlines.0, deadlines.1));
    crate::setup::send_with(&producer, &topic, (0..10).map(|nth| say(0, "k", &nth.to_string()))).await;
    db.await_effects(10).await;
    tokio::task::block_in_place(|| {
        cluster.kill(0);
        cluster.start_again(0);
    });
    crate::setup::send_with(&producer, &topic, (10..20).map(|nth| say(0, "k", &nth.to_string()))).await;
    db.await_effects(20).await;
    // It stands still while the consumer ends.
    cluster.pause(0);
    let started = Instant::now();
    consuming.stop().await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    cluster.resume(0);
    crate::setup::send_with(&producer, &topic, (20..30).map(|nth| say(0, "k", &nth.to_string()))).await;
    let consuming = db.start(consumer(kafka, &name, &topic));
    db.await_effects(30).await;
    // Its place was given back, although it could not leave its group.
    assert_eq!(consuming.stats.of(Count::TakenOver), 0);
    consuming.stop().await;
    check(&db.effects().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_of_three_brokers_dies_each_message_is_applied_once() {
    let cluster = tokio::task::block_in_place(|| kafka::Cluster::start(3));
    let db = Db::postgres().await;
    let (topic, name) = (name("topic"), name("c"));
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", cluster.servers()).set("enable.idempotence", "true");
    let admin: rdkafka::admin::AdminClient<_> = config.create().expect("there is a client");
    let new = rdkafka::admin::NewTopic::new(&topic, 3, rdkafka::admin::TopicReplication::Fixed(3));
    let made = admin.create_topics(&[new], &rdkafka::admin::AdminOptions::new()).await.expect("it answers");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    let producer = config.create().expect("there is a client");
    let kafka = Kafka::new(cluster.servers()).with("session.timeout.ms", "6000");
    let consuming = db.start(consumer(kafka, &name, &topic));
    let mut sent = 0;
    for broker in 0..2 {
        let batch = |from: i32| {
            (from..from + 50).flat_map(|nth| (0..3).map(move |part| say(part, &format!("k{part}"), &nth.to_string())))
        };
        crate::setup::send_with(&producer, &topic, batch(sent)).await;
        tokio::task::block_in_place(|| cluster.kill(broker));
        crate::setup::send_with(&producer, &topic, batch(sent + 50)).await;
        sent += 100;
        db.await_effects(usize::try_from(sent).unwrap() * 3).await;
        tokio::task::block_in_place(|| cluster.start_again(broker));
    }
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &[]);
    assert_eq!(effects.len(), 600);
}
