//! Where a consumer begins, whatever the group has committed.

use std::time::Duration;

use keylatch_kafka::{Count, StartAt};
use rdkafka::Offset;
use rdkafka::admin::{AdminOptions, NewPartitions};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;
use testing_support::eventually;

use crate::consuming::{Db, check, consumer};
use crate::setup::{SOON, admin, client, config, make_topic, name, say, send, topic};

/// Commits an offset for a group that has no members, as tools do.
async fn commit(group: &str, topic: &str, offset: i64) {
    let committing: BaseConsumer = config().set("group.id", group).create().expect("there is a client");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("an offset");
    // The group's coordinator may not be ready.
    eventually(SOON, "the commit", async || committing.commit(&list, CommitMode::Sync).is_ok()).await;
}

async fn committed(group: &str, topic: &str) -> Option<i64> {
    let asking: BaseConsumer = config().set("group.id", group).create().expect("there is a client");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, 0);
    let list = asking.committed_offsets(list, Duration::from_secs(10)).expect("the broker answers");
    match list.find_partition(topic, 0).expect("it was asked for").offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn group_offsets_that_are_rewound_or_deleted_repeat_nothing_and_skip_nothing() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        // Without ids, so that the place alone counts.
        let plain = |nth: i32| crate::setup::Say { id: None, ..say(0, "k", &nth.to_string()) };
        send(&topic, (0..30).map(plain)).await;
        for (round, breaks) in ["nothing", "rewound", "ahead", "deleted"].into_iter().enumerate() {
            match breaks {
                "rewound" => commit(&name, &topic, 3).await,
                "ahead" => commit(&name, &topic, 1_000).await,
                "deleted" => {
                    let deleted = admin().delete_groups(&[&name], &AdminOptions::new()).await.expect("it answers");
                    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
                }
                _ => {}
            }
            let before = 30 + 10 * i32::try_from(round).unwrap();
            send(&topic, (before..before + 10).map(plain)).await;
            let consuming = db.start(consumer(client(), &name, &topic));
            db.await_effects(usize::try_from(before).unwrap() + 10).await;
            consuming.stop().await;
            let effects = db.effects().await;
            check(&effects, &[]);
            assert_eq!(effects.len(), usize::try_from(before).unwrap() + 10, "{breaks}");
            assert_eq!(committed(&name, &topic).await, Some(i64::from(before) + 10), "{breaks}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_the_group_or_the_setting_says_where_it_begins() {
    let db = Db::sqlite().await;
    let (one, other, name) = (topic(1).await, topic(1).await, name("c"));
    send(&one, (0..10).map(|nth| say(0, "one", &nth.to_string()))).await;
    send(&other, (0..10).map(|nth| say(0, "other", &nth.to_string()))).await;
    commit(&name, &one, 7).await;
    let consuming = db.start(consumer(client(), &name, &one).start_at(StartAt::End));
    db.await_effects(3).await;
    consuming.stop().await;
    let consuming = db.start(consumer(client(), &name, &other).start_at(StartAt::End));
    // Its place is written down before anything is sent.
    eventually(SOON, "the place", async || committed_or_placed(&db, &name, &other).await).await;
    send(&other, [say(0, "other", "10")]).await;
    db.await_effects(4).await;
    consuming.stop().await;
    let sequences: Vec<_> = db.effects().await.into_iter().map(|effect| effect.sequence).collect();
    assert_eq!(sequences, [7, 8, 9, 10]);
}

async fn committed_or_placed(db: &Db, consumer: &str, topic: &str) -> bool {
    use keylatch_core::inbox::PlaceName;
    let place = PlaceName::new(consumer, topic, 0).expect("a name");
    db.places().place(place).await.expect("the store answers").value.is_some_and(|place| place.owner.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_later_begin_at_their_beginning() {
    let db = Db::postgres().await;
    let (topic, name) = (topic(2).await, name("c"));
    send(&topic, [say(0, "old", "1"), say(1, "old", "2")]).await;
    let kafka = client().with("topic.metadata.refresh.interval.ms", "500");
    let consuming = db.start(consumer(kafka.clone(), &name, &topic).start_at(StartAt::End));
    send_until(&db, &topic, 1).await;
    consuming.stop().await;
    // While nobody looks.
    let more = admin().create_partitions(&[NewPartitions::new(&topic, 12)], &AdminOptions::new()).await;
    assert!(more.expect("it answers").iter().all(Result::is_ok));
    await_partitions(&topic, 12).await;
    // They are opened in any order.
    send(&topic, (0..4).flat_map(|nth| (2..12).map(move |part| say(part, &format!("new{part}"), &nth.to_string()))))
        .await;
    let consuming = db.start(consumer(kafka, &name, &topic).start_at(StartAt::End));
    eventually(SOON, "the new ones", async || {
        db.effects().await.iter().filter(|effect| effect.key.starts_with("new")).count() == 40
    })
    .await;
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &[]);
    assert!(effects.iter().all(|effect| effect.key != "old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_under_a_running_member_are_applied_from_their_beginning() {
    for (db, kafka) in Db::each_way().await {
        let (topic, name) = (topic(2).await, name("c"));
        let consuming = db.start(consumer(kafka.with("topic.metadata.refresh.interval.ms", "500"), &name, &topic));
        send(&topic, (0..20).map(|nth| say(nth % 2, &format!("k{}", nth % 2), &nth.to_string()))).await;
        db.await_effects(20).await;
        let more = admin().create_partitions(&[NewPartitions::new(&topic, 6)], &AdminOptions::new()).await;
        assert!(more.expect("it answers").iter().all(Result::is_ok));
        await_partitions(&topic, 6).await;
        send(&topic, (20..80).map(|nth| say(nth % 6, &format!("k{}", nth % 6), &nth.to_string()))).await;
        db.await_effects(80).await;
        consuming.stop().await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), 80);
    }
}

/// Waits until the broker says that the topic has so many partitions.
async fn await_partitions(topic: &str, count: usize) {
    use rdkafka::producer::Producer as _;
    eventually(SOON, "the partitions", async || {
        let known = crate::setup::producer();
        let metadata = known.client().fetch_metadata(Some(topic), Duration::from_secs(5)).expect("it answers");
        metadata.topics()[0].partitions().len() == count
    })
    .await;
}

/// Sends to partition 0 until the consumer, which begins at the end, has applied so many.
async fn send_until(db: &Db, topic: &str, count: usize) {
    let mut sent = 0;
    eventually(SOON, "the first effect", async || {
        sent += 1;
        send(topic, [say(0, "live", &sent.to_string())]).await;
        db.effects().await.len() >= count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_waited_for() {
    let db = Db::sqlite().await;
    let topic = name("later");
    let kafka = client().with("topic.metadata.refresh.interval.ms", "500");
    let consuming = db.start(consumer(kafka, &name("c"), &topic));
    make_topic(&topic, 1).await;
    send(&topic, [say(0, "k", "1")]).await;
    db.await_effects(1).await;
    consuming.await_count(Count::Applied, 1).await;
    consuming.stop().await;
}
