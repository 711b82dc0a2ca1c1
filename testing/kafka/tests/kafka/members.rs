//! Several members of a group: they join, leave, pause and come back, under load.

use std::time::Duration;

use keylatch_kafka::{Consumer, Count};
use rand::Rng as _;
use testing_support::at_once;
use tokio::time::sleep;

use crate::consuming::{Consuming, Db, check, consumer, nothing};
use crate::setup::{clients, name, say, send, topic};

/// How long members come and go: `KEYLATCH_KAFKA_REBALANCE_SECONDS`, or this.
const REBALANCE_SECONDS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn members_that_join_and_leave_under_load_apply_each_message_once() {
    join_and_leave(Db::start).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_lanes_that_join_and_leave_under_load_apply_each_message_once() {
    join_and_leave(|db, consumer| db.start_lanes(consumer, nothing())).await;
}

async fn join_and_leave(start: fn(&Db, Consumer) -> Consuming) {
    let seconds = std::env::var("KEYLATCH_KAFKA_REBALANCE_SECONDS").map_or(REBALANCE_SECONDS, |seconds| {
        seconds.parse().expect("KEYLATCH_KAFKA_REBALANCE_SECONDS is a number of seconds")
    });
    at_once(Db::each_way().await, async |(db, kafka)| {
        let (topic, name) = (topic(6).await, name("c"));
        let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
        let sending = tokio::spawn({
            let topic = topic.clone();
            async move {
                let mut sent = 0;
                while tokio::time::Instant::now() < until {
                    let batch = (sent..sent + 20)
                        .flat_map(|nth| (0..6).map(move |part| say(part, &format!("k{part}"), &nth.to_string())));
                    send(&topic, batch).await;
                    sent += 20;
                    sleep(Duration::from_millis(50)).await;
                }
                sent
            }
        });
        // One stays; up to two others come and go.
        let stays = start(&db, consumer(kafka.clone(), &name, &topic));
        let mut others = Vec::new();
        while tokio::time::Instant::now() < until {
            if others.len() < 2 {
                others.push(start(&db, consumer(kafka.clone(), &name, &topic)));
            } else {
                let one = rand::rng().random_range(0..others.len());
                others.swap_remove(one).stop().await;
            }
            let pause = rand::rng().random_range(300..1_500);
            sleep(Duration::from_millis(pause)).await;
        }
        let count = sending.await.expect("the sender ends") * 6;
        let count = usize::try_from(count).expect("it is positive");
        db.await_effects(count).await;
        for other in others {
            other.stop().await;
        }
        stays.stop().await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), count);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_waits_for_a_slow_handler_and_not_for_a_pause() {
    at_once([Db::postgres().await, Db::postgres().await].into_iter().zip(clients()), async |(db, kafka)| {
        let (topic, name) = (topic(2).await, name("c"));
        // One partition is in a slow handler, the other between the tries of a message.
        send(&topic, [say(0, "slow", "1 slow:1500"), say(1, "waits", "1 fail"), say(1, "waits", "2")]).await;
        let pause = Duration::from_secs(3_600);
        let first = db.start(consumer(kafka.clone(), &name, &topic).with_tries(3, pause, pause));
        first.await_count(Count::Retried, 1).await;
        // It gets one of them, and the other when the first one ends.
        let second = db.start(consumer(kafka, &name, &topic));
        db.await_effects(1).await;
        first.stop().await;
        // Whoever gets the partition goes on with the count.
        db.await_effects(2).await;
        second.await_count(Count::Buried, 1).await;
        assert_eq!(second.stats.of(Count::TakenOver), 0);
        second.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!((effects.len(), letters.len(), letters[0].trouble.attempts), (2, 1, 3));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_member_that_comes_back_goes_on() {
    let db = Db::postgres().await;
    let (topic, name) = (topic(1).await, name("c"));
    let kafka = crate::setup::client().with("group.instance.id", "one");
    for round in 0..2_usize {
        let consuming = db.start(consumer(kafka.clone(), &name, &topic));
        send(&topic, [say(0, "k", &round.to_string())]).await;
        db.await_effects(round + 1).await;
        consuming.stop().await;
    }
    check(&db.effects().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_bounded_and_paused_partitions_go_on() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(2).await, name("c"));
    let big = |part, nth: i32| crate::setup::Say {
        value: Some(format!("{nth} {}", "x".repeat(5_000)).into_bytes()),
        ..say(part, &format!("k{part}"), &nth.to_string())
    };
    send(&topic, (0..300).flat_map(|nth| [big(0, nth), big(1, nth)])).await;
    // Much less than what is there: so both are paused again and again.
    let consuming =
        db.start(consumer(crate::setup::client(), &name, &topic).with_batch_max(10).with_ahead_bytes(60_000));
    db.await_effects(600).await;
    consuming.stop().await;
    let effects = db.effects().await;
    check(&effects, &[]);
    assert_eq!(effects.len(), 600);
}
