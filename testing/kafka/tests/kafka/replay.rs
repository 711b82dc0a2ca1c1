//! Dead letters: those that an operator has applied after all, and those that go by age.

use std::time::Duration;

use keylatch_core::inbox::{DeadLetter, DeadLettersRequest};
use keylatch_core::store::PAGE_RECORDS_MAX;
use keylatch_kafka::{Count, Replay, replay};
use testing_kafka::mend;
use testing_support::eventually;
use tokio::time::sleep;

use crate::consuming::{Db, check, consumer, nothing};
use crate::setup::{SOON, client, name, say, send, topic};

fn all_of(consumer: &str) -> DeadLettersRequest {
    DeadLettersRequest { consumer: Some(consumer.to_owned()), limit: PAGE_RECORDS_MAX, ..DeadLettersRequest::default() }
}

/// The dead letters that would be replayed, or are, by their offsets.
async fn replayed(db: &Db, request: &DeadLettersRequest, really: Replay) -> Vec<i64> {
    let letters = replay(db.places(), request.clone(), really).await.expect("the store answers");
    letters.into_iter().map(|letter| letter.offset).collect()
}

fn offsets(letters: &[DeadLetter]) -> Vec<i64> {
    letters.iter().map(|letter| letter.id.offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_by_id_error_time_and_key_after_a_dry_run() {
    for (in_lanes, db) in [false, true].into_iter().zip(Db::both().await) {
        let (topic, name) = (topic(1).await, name("c"));
        let start = |consumer| if in_lanes { db.start_lanes(consumer, nothing()) } else { db.start(consumer) };
        let key = |of: &str| format!("{of}-{topic}");
        let consumer = || consumer(client(), &name, &topic).with_tries(1, Duration::ZERO, Duration::ZERO);
        let consuming = start(consumer());
        let first = [("a", "1 broken"), ("b", "1 unwanted"), ("c", "1 broken"), ("d", "1 broken"), ("e", "1 unwanted")];
        send(&topic, first.map(|(of, value)| say(0, &key(of), value))).await;
        consuming.await_count(Count::Buried, 5).await;
        sleep(Duration::from_millis(20)).await;
        send(&topic, [("a", "2 broken"), ("f", "1 broken"), ("g", "1")].map(|(of, value)| say(0, &key(of), value)))
            .await;
        consuming.await_count(Count::Buried, 7).await;
        db.await_effects(1).await;
        consuming.stop().await;

        let letters = db.dead_letters().await;
        assert_eq!(offsets(&letters), [0, 1, 2, 3, 4, 5, 6]);
        let all = || all_of(&name);
        let later = letters.iter().skip(5).map(|letter| letter.buried_at).min();
        let requests = [
            (DeadLettersRequest { key: Some(key("a").into()), ..all() }, vec![0, 5]),
            (DeadLettersRequest { record: letters[2].trouble.record, ..all() }, vec![2]),
            (DeadLettersRequest { error: Some("nobody wants".to_owned()), ..all() }, vec![1, 4]),
            (DeadLettersRequest { from: later, ..all() }, vec![5, 6]),
        ];
        for (request, expected) in &requests {
            assert_eq!(&replayed(&db, request, Replay::DryRun).await, expected, "{request:?}");
        }
        let until = DeadLettersRequest { until: later, ..all() };
        assert_eq!(replayed(&db, &until, Replay::DryRun).await, [0, 1, 2, 3, 4]);
        assert!(replayed(&db, &all_of("another"), Replay::ForReal).await.is_empty());
        assert_eq!(db.dead_letters().await, letters, "nothing was ordered yet");

        // Nobody has the place: then nothing is applied. All but 3 are wanted, and 4 fails again.
        for (request, expected) in &requests {
            assert_eq!(&replayed(&db, request, Replay::ForReal).await, expected, "{request:?}");
        }
        for of in ["a", "b", "c", "d", "f"] {
            mend(&key(of));
        }
        assert_eq!((db.effects().await.len(), db.dead_letters().await.len()), (1, 7));
        let consuming = start(consumer());
        consuming.await_count(Count::Replayed, 5).await;
        let stays = async || {
            let letters = db.dead_letters().await;
            offsets(&letters) == [3, 4] && letters.iter().all(|letter| !letter.wanted)
        };
        eventually(SOON, "the others to stay", stays).await;
        consuming.stop().await;
        let effects = db.effects().await;
        check(&effects, &db.dead_letters().await);
        let applied: Vec<_> = effects.iter().skip(1).map(|effect| (effect.key.clone(), effect.sequence)).collect();
        let expected = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("f", 1)].map(|(of, nth)| (key(of), nth));
        if !in_lanes {
            assert_eq!(applied, expected, "in the order of their offsets");
        }
        assert_eq!(applied.len(), 5);
    }
}

/// Each member of a group applies the dead letters of its partitions.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_by_the_owners_of_their_places() {
    let db = Db::postgres().await;
    let (topic, name) = (topic(2).await, name("c"));
    let consumer = || consumer(client(), &name, &topic).with_tries(1, Duration::ZERO, Duration::ZERO);
    let members = [db.start(consumer()), db.start(consumer())];
    let mut sent = 0;
    eventually(SOON, "each to have a partition", async || {
        sent += 1;
        send(&topic, [0, 1].map(|part| say(part, &format!("k{part}"), &sent.to_string()))).await;
        members.iter().all(|member| member.stats.of(Count::Applied) > 0)
    })
    .await;
    let key = format!("broken-{topic}");
    send(&topic, [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)].map(|(part, nth)| say(part, &key, &format!("{nth} broken"))))
        .await;
    eventually(SOON, "the dead letters", async || db.dead_letters().await.len() == 5).await;
    mend(&key);
    assert_eq!(replayed(&db, &all_of(&name), Replay::DryRun).await.len(), 5);
    assert_eq!(replayed(&db, &all_of(&name), Replay::ForReal).await.len(), 5);
    eventually(SOON, "them to be applied", async || db.dead_letters().await.is_empty()).await;
    let mut replayed = members.each_ref().map(|member| member.stats.of(Count::Replayed));
    replayed.sort_unstable();
    assert_eq!(replayed, [2, 3]);
    for member in members {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_by_age_if_a_consumer_says_so() {
    for db in Db::both().await {
        let (topic, forgets, keeps) = (topic(1).await, name("forgets"), name("keeps"));
        let retention = Duration::from_secs(2);
        let consuming = [
            db.start(consumer(client(), &forgets, &topic).with_dead_letter_retention(retention)),
            db.start(consumer(client(), &keeps, &topic)),
        ];
        send(&topic, [say(0, "k", "1 reject"), say(0, "k", "2 reject")]).await;
        consuming[0].await_count(Count::Buried, 2).await;
        consuming[1].await_count(Count::Buried, 2).await;
        let buried = tokio::time::Instant::now();
        eventually(SOON, "them to go", async || db.dead_letters().await.len() == 2).await;
        assert!(buried.elapsed() >= retention / 2, "they went too early: {:?}", buried.elapsed());
        assert!(db.dead_letters().await.iter().all(|letter| letter.id.place.consumer() == keeps));
        for consuming in consuming {
            consuming.stop().await;
        }
    }
}
