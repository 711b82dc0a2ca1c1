//! Is it the same log?

use std::time::{Duration, Instant};

use keylatch_kafka::Count;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Message as _, Offset};
use testing_support::eventually;

use crate::consuming::{Db, check, consumer};
use crate::setup::{SOON, admin, client, config, delete_topic, make_topic, name, say, send, send_with, topic};

/// Applies ten messages, and stops.
async fn ten(db: &Db, name: &str, topic: &str) {
    send(topic, (0..10).map(|nth| say(0, "k", &nth.to_string()))).await;
    let consuming = db.start(consumer(client(), name, topic));
    db.await_effects(10).await;
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_created_again_stops_the_consumer_which_says_how_to_go_on() {
    // Shorter than before, and longer.
    for (db, count) in Db::both().await.into_iter().zip([3, 30]) {
        let (topic, name) = (topic(1).await, name("c"));
        ten(&db, &name, &topic).await;
        delete_topic(&topic).await;
        make_topic(&topic, 1).await;
        send(&topic, (100..100 + count).map(|nth| say(0, "k", &nth.to_string()))).await;
        let consuming = db.start(consumer(client(), &name, &topic));
        let why = consuming.await_stopped().await;
        assert!(why.contains("deleted and created again") && why.contains("go_on"), "{why}");
        assert_eq!(db.effects().await.len(), 10);
        db.go_on(&name, &topic, Some(0)).await;
        db.await_effects(10 + usize::try_from(count).unwrap()).await;
        assert!(consuming.stats.stopped().is_empty());
        consuming.stop().await;
        check(&db.effects().await, &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_created_again_under_a_running_consumer_stops_it() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    send(&topic, (0..10).map(|nth| say(0, "k", &nth.to_string()))).await;
    let kafka = client().with("topic.metadata.refresh.interval.ms", "300");
    let consuming = db.start(consumer(kafka, &name, &topic));
    db.await_effects(10).await;
    delete_topic(&topic).await;
    make_topic(&topic, 1).await;
    send(&topic, (100..103).map(|nth| say(0, "k", &nth.to_string()))).await;
    let why = consuming.await_stopped().await;
    assert!(why.contains("deleted and created again"), "{why}");
    assert_eq!(db.effects().await.len(), 10);
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_were_removed_before_they_were_applied_stop_it() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    ten(&db, &name, &topic).await;
    send(&topic, (10..20).map(|nth| say(0, "k", &nth.to_string()))).await;
    remove_before(&topic, 15).await;
    let consuming = db.start(consumer(client(), &name, &topic));
    let why = consuming.await_stopped().await;
    assert!(why.contains("removed before it was applied"), "{why}");
    db.go_on(&name, &topic, Some(15)).await;
    db.await_effects(15).await;
    consuming.stop().await;
    check(&db.effects().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_messages_that_were_removed_stop_nothing() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    ten(&db, &name, &topic).await;
    remove_before(&topic, 10).await;
    send(&topic, [say(0, "k", "10")]).await;
    let consuming = db.start(consumer(client(), &name, &topic));
    db.await_effects(11).await;
    assert_eq!(consuming.stats.of(Count::SameLog), 0);
    consuming.stop().await;
    send(&topic, [say(0, "k", "11")]).await;
    let consuming = db.start(consumer(client(), &name, &topic));
    db.await_effects(12).await;
    // This time the last message was there.
    assert_eq!(consuming.stats.of(Count::SameLog), 1);
    consuming.stop().await;
}

async fn remove_before(topic: &str, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("an offset");
    admin().delete_records(&list, &AdminOptions::new()).await.expect("it answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_aborted_transactions_are_not_applied_and_their_gaps_are_passed() {
    let db = Db::postgres().await;
    let topic = topic(1).await;
    let timeout = Duration::from_secs(30);
    let transactional: rdkafka::producer::FutureProducer =
        config().set("transactional.id", name("tx")).create().expect("there is a client");
    let transactional = tokio::task::spawn_blocking(move || {
        transactional.init_transactions(timeout).expect("the broker answers");
        transactional
    })
    .await
    .expect("it ends");
    for (nth, commits) in [true, false, true, false, true].into_iter().enumerate() {
        transactional.begin_transaction().expect("there is none");
        let messages = (0..5).map(|one| say(0, "k", &(nth * 5 + one).to_string()));
        send_with(&transactional, &topic, messages).await;
        let ending = transactional.clone();
        let ended = tokio::task::spawn_blocking(move || {
            if commits { ending.commit_transaction(timeout) } else { ending.abort_transaction(timeout) }
        });
        ended.await.expect("it ends").expect("the broker answers");
    }
    let consuming = db.start(consumer(client(), &name("c"), &topic));
    db.await_effects(15).await;
    consuming.stop().await;
    let sequences: Vec<_> = db.effects().await.into_iter().map(|effect| effect.sequence).collect();
    assert_eq!(sequences, (0..25).filter(|nth| nth / 5 % 2 == 0).collect::<Vec<_>>());
}

/// A topic whose old messages of a key soon go.
async fn compacted_topic() -> String {
    let topic = name("compacted");
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("min.cleanable.dirty.ratio", "0.01")
        .set("segment.ms", "100");
    let made = admin().create_topics(&[new], &AdminOptions::new()).await.expect("it answers");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    topic
}

/// The offsets that are there.
fn offsets(topic: &str) -> Vec<i64> {
    let reading: BaseConsumer = config().set("group.id", name("reader")).create().expect("there is a client");
    let (_, end) = reading.fetch_watermarks(topic, 0, SOON).expect("it answers");
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
    reading.assign(&from).expect("a partition");
    let (mut offsets, until) = (Vec::new(), Instant::now() + SOON);
    while offsets.last().is_none_or(|last| last + 1 < end) {
        assert!(Instant::now() < until, "it has {offsets:?} of {end}");
        let Some(Ok(message)) = reading.poll(Duration::from_millis(500)) else { continue };
        offsets.push(message.offset());
    }
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_were_compacted_away_stop_nothing() {
    let db = Db::sqlite().await;
    let (topic, name) = (compacted_topic().await, name("c"));
    let numbers = |from: i32| (from..from + 10).map(|nth| say(0, &format!("k{}", nth % 5), &nth.to_string()));
    send(&topic, numbers(0)).await;
    let consuming = db.start(consumer(client(), &name, &topic));
    db.await_effects(10).await;
    consuming.stop().await;
    // What it has applied is replaced, its last message too, and so is what it has not.
    send(&topic, numbers(10)).await;
    let mut more = 20;
    eventually(SOON * 2, "the old messages to be compacted away", async || {
        // A segment is only compacted once there is a later one.
        send(&topic, [say(0, "roll", &more.to_string())]).await;
        more += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| offsets(&topic)).first().is_some_and(|first| *first >= 15)
    })
    .await;
    let consuming = db.start(consumer(client(), &name, &topic));
    let last = more - 1;
    let all = async || db.effects().await.last().is_some_and(|effect| effect.sequence == i64::from(last));
    eventually(SOON, "the last message", all).await;
    assert!(consuming.stats.stopped().is_empty());
    // There was nothing to compare.
    assert_eq!(consuming.stats.of(Count::SameLog), 0);
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &[]);
    let numbers: Vec<_> = effects.iter().filter(|effect| effect.key != "roll").map(|effect| effect.sequence).collect();
    assert_eq!(numbers, (0..10).chain(15..20).collect::<Vec<_>>());
}
