//! Lanes: different keys at once, one key in order, and a place that follows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use keylatch::store::Store;
use keylatch::{Engine, Guarantee, Limits, Outcome, Policy, Record, Resolution, Resolver, memory, redis};
use keylatch_core::inbox::{Order, Reason};
use keylatch_kafka::{Count, InvalidConsumer, Message};
use parking_lot::Mutex;
use testing_kafka::{apply_outside, apply_sqlite};
use testing_support::{eventually, redis as servers};
use tokio::sync::{Barrier, Semaphore};

use crate::consuming::{Before, Db, check, consumer, nothing};
use crate::setup::{SOON, Say, client, name, say, send, topic};

const HOUR: Duration = Duration::from_secs(3_600);

/// What a handler sees as the number of its message.
fn sequence(message: &Message) -> i64 {
    let value = message.value().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
    value.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(-1)
}

/// The messages at these offsets wait until the semaphore has permits.
fn gated(offsets: &[i64], gate: &Arc<Semaphore>) -> Before {
    let (offsets, gate) = (offsets.to_vec(), gate.clone());
    Arc::new(move |message| {
        let (waits, gate) = (offsets.contains(&message.offset()), gate.clone());
        Box::pin(async move {
            if waits {
                gate.acquire().await.expect("it stays open").forget();
            }
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_applied_once_and_each_key_in_its_order() {
    for (db, kafka) in Db::each_way().await {
        let topic = topic(3).await;
        let consuming = db.start_lanes(consumer(kafka, &name("c"), &topic), nothing());
        let keys = (0..3).flat_map(|part| (0..5).map(move |key| (part, format!("k{part}-{key}"))));
        let keys: Vec<_> = keys.collect();
        send(&topic, (0..40).flat_map(|nth| keys.iter().map(move |(part, key)| say(*part, key, &nth.to_string()))))
            .await;
        db.await_effects(600).await;
        consuming.await_count(Count::Applied, 600).await;
        consuming.stop().await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), 600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn different_keys_run_at_once_and_one_key_does_not() {
    for db in Db::both().await {
        let topic = topic(1).await;
        let null = |nth| Say { id: Some(format!("null-{nth}")), key: None, ..say(0, "null", "7") };
        let first = ["a", "b", "c"].map(|key| say(0, key, "1"));
        // Two of each key, so that nobody can begin the second before the first has ended.
        let second = ["a", "b", "c"].map(|key| say(0, key, "2"));
        let messages: Vec<_> = first.into_iter().chain([null(1), null(2)]).chain(second).collect();
        // They all have to be there at once.
        let barrier = Arc::new(Barrier::new(5));
        let running = Arc::new(Mutex::new(HashSet::new()));
        let before: Before = {
            let (barrier, running) = (barrier.clone(), running.clone());
            Arc::new(move |message| {
                let (barrier, running) = (barrier.clone(), running.clone());
                Box::pin(async move {
                    if let Some(key) = message.key() {
                        assert!(running.lock().insert(key.clone()), "two of one key at once");
                    }
                    if sequence(&message) != 2 {
                        barrier.wait().await;
                    }
                    if let Some(key) = message.key() {
                        running.lock().remove(key);
                    }
                }) as BoxFuture<'static, ()>
            })
        };
        let consuming = db.start_lanes(consumer(client(), &name("c"), &topic), before);
        send(&topic, messages).await;
        db.await_effects(8).await;
        consuming.await_count(Count::Applied, 8).await;
        assert_eq!((consuming.stats.of(Count::Retried), consuming.stats.of(Count::Buried)), (0, 0));
        consuming.stop().await;
    }
}

/// Without keys, so that nothing keeps them in order.
#[tokio::test(flavor = "multi_thread")]
async fn messages_out_of_the_order_of_their_key_are_found() {
    let db = Db::sqlite().await;
    let topic = topic(1).await;
    let gate = Arc::new(Semaphore::new(0));
    let consuming = db.start_lanes(consumer(client(), &name("c"), &topic), gated(&[0], &gate));
    let plain = |nth: i32| Say { key: None, ..say(0, "k", &nth.to_string()) };
    send(&topic, [plain(1), plain(2)]).await;
    db.await_effects(1).await;
    gate.add_permits(1);
    db.await_effects(2).await;
    consuming.stop().await;
    let effects = db.effects().await;
    let found = std::panic::catch_unwind(|| check(&effects, &[])).expect_err("the oracle finds it");
    assert!(found.downcast_ref::<String>().is_some_and(|found| found.contains("1 after 2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_place_waits_for_a_slow_message_and_then_follows_those_that_are_done() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let gate = Arc::new(Semaphore::new(0));
        let consuming = db.start_lanes(consumer(client(), &name, &topic), gated(&[5], &gate));
        send(&topic, (0..=500).map(|nth| say(0, &format!("k{}", nth % 100), &nth.to_string()))).await;
        // The key of offset 5 waits with it.
        db.await_effects(496).await;
        consuming.await_count(Count::Applied, 496).await;
        db.await_next(&name, &topic, 5).await;
        assert_eq!(db.effects().await.len(), 496);
        gate.add_permits(1);
        db.await_next(&name, &topic, 501).await;
        consuming.stop().await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), 501);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_are_read_past_the_oldest_that_is_not_done() {
    let db = Db::postgres().await;
    let (topic, name) = (topic(1).await, name("c"));
    let gate = Arc::new(Semaphore::new(0));
    let consuming = db.start_lanes(consumer(client(), &name, &topic).with_lanes(4, 20), gated(&[3], &gate));
    send(&topic, (0..100).map(|nth| say(0, &format!("k{nth}"), &nth.to_string()))).await;
    // 0 to 22, without 3.
    db.await_effects(22).await;
    db.await_next(&name, &topic, 3).await;
    assert!(db.effects().await.iter().all(|effect| effect.sequence <= 22));
    gate.add_permits(1);
    db.await_next(&name, &topic, 100).await;
    consuming.stop().await;
    check(&db.effects().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_above_the_place_is_known_to_the_next_owner() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let gate = Arc::new(Semaphore::new(0));
        let short = Duration::from_millis(200);
        let first = consumer(client(), &name, &topic).with_deadlines(short, short);
        let first = db.start_lanes(first, gated(&[5], &gate));
        let value = |nth: i32| format!("{nth}{}", if nth == 7 { " reject" } else { "" });
        send(&topic, (0..60).map(|nth| say(0, &format!("k{nth}"), &value(nth)))).await;
        first.await_count(Count::Applied, 58).await;
        first.await_count(Count::Buried, 1).await;
        db.await_next(&name, &topic, 5).await;
        // It ends while a handler is running, and cannot give its place back.
        first.stop().await;
        let second = db.start_lanes(consumer(client(), &name, &topic), nothing());
        second.await_count(Count::TakenOver, 1).await;
        // The old handler goes on: it or the new one has the message, and not both.
        gate.add_permits(1);
        db.await_next(&name, &topic, 60).await;
        let known = second.stats.of(Count::Known);
        assert!((53..=54).contains(&known), "{known}");
        assert_eq!(second.stats.of(Count::Buried), 0);
        second.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!((effects.len(), letters.len(), letters[0].id.offset), (59, 1, 7));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_holds_up_its_key_and_no_other() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let poison = [say(0, "poison", "1 fail"), say(0, "poison", "2")];
        send(&topic, poison.into_iter().chain((0..50).map(|nth| say(0, &format!("k{}", nth % 7), &nth.to_string()))))
            .await;
        let patient = consumer(client(), &name, &topic).with_tries(3, HOUR, HOUR);
        let first = db.start_lanes(patient, nothing());
        first.await_count(Count::Applied, 50).await;
        first.await_count(Count::Retried, 1).await;
        assert!(db.effects().await.iter().all(|effect| effect.key != "poison"));
        // It does not wait for a pause when it ends, and nothing was half-way.
        first.stop().await;
        assert_eq!(db.next(&name, &topic).await, Some(0));
        let second = db.start_lanes(consumer(client(), &name, &topic), nothing());
        second.await_count(Count::Buried, 1).await;
        db.await_effects(51).await;
        db.await_next(&name, &topic, 52).await;
        assert_eq!((second.stats.of(Count::TakenOver), second.stats.of(Count::Known)), (0, 50));
        second.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        let found = (letters[0].id.offset, letters[0].trouble.reason, letters[0].trouble.attempts);
        assert_eq!(found, (0, Reason::Exhausted, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_is_tried_again_or_given_up_as_its_handler_says() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let also = |nth| match nth {
            7 => " once",
            9 => " reject",
            20 => " fail",
            21 => " panic",
            _ => "",
        };
        send(&topic, (0..40).map(|nth| say(0, &format!("k{}", nth % 4), &format!("{nth}{}", also(nth))))).await;
        let consuming = db.start_lanes(consumer(client(), &name, &topic), nothing());
        db.await_next(&name, &topic, 40).await;
        consuming.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!(effects.len(), 37);
        let letters: Vec<_> =
            letters.iter().map(|letter| (letter.id.offset, letter.trouble.reason, letter.trouble.attempts)).collect();
        let expected = [(9, Reason::Rejected, 1), (20, Reason::Exhausted, 3), (21, Reason::Exhausted, 3)];
        assert_eq!(letters, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_dead_letters_in_a_row_stop_the_partition() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    send(&topic, (0..10).map(|nth| say(0, "k", &format!("{nth} reject")))).await;
    let consuming = db.start_lanes(consumer(client(), &name, &topic).with_dead_in_row(4), nothing());
    let why = consuming.await_stopped().await;
    assert!(why.contains("4 messages in a row") && why.contains("go_on"), "{why}");
    assert_eq!((db.dead_letters().await.len(), db.next(&name, &topic).await), (4, Some(4)));
    db.go_on(&name, &topic, Some(8)).await;
    consuming.await_count(Count::Buried, 6).await;
    send(&topic, [say(0, "k", "10")]).await;
    db.await_effects(1).await;
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_has_one_effect_whatever_brings_it() {
    for db in Db::both().await {
        let (topic, name) = (topic(2).await, name("c"));
        // In batches first: a batch and a lane know the same ids.
        let batches = db.start(consumer(client(), &name, &topic));
        send(&topic, [say(0, "k", "1")]).await;
        batches.await_count(Count::Applied, 1).await;
        batches.stop().await;
        let lanes = db.start_lanes(consumer(client(), &name, &topic), nothing());
        let other = Say { id: Some("k-2".into()), ..say(0, "k", "7") };
        let bare = Say { id: None, ..say(0, "bare", "1") };
        let unreadable = Say { id: Some(String::new()), ..bare.clone() };
        send(&topic, [say(1, "k", "1"), say(0, "k", "2"), say(0, "k", "2")]).await;
        lanes.await_count(Count::Known, 2).await;
        // Without an id, the same message is another one at another offset.
        let twice = Say { value: Some(b"2".to_vec()), ..bare.clone() };
        send(&topic, [say(1, "k", "2"), other, bare, twice, unreadable]).await;
        lanes.await_count(Count::Known, 3).await;
        lanes.await_count(Count::WithoutId, 2).await;
        lanes.await_count(Count::Buried, 2).await;
        lanes.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!(effects.len(), 4);
        let reasons: Vec<_> = letters.iter().map(|letter| letter.trouble.reason).collect();
        assert_eq!(reasons, [Reason::Reused, Reason::Undecodable]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_applied_after_all_in_the_lane_of_its_key() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let tried_once = consumer(client(), &name, &topic).with_tries(1, HOUR, HOUR);
        let consuming = db.start_lanes(tried_once, nothing());
        // A message fails once in this program.
        send(&topic, [say(0, &topic, "1 once"), say(0, "k", "1 reject")]).await;
        consuming.await_count(Count::Buried, 2).await;
        for letter in db.dead_letters().await {
            assert!(db.order(&letter, Order::Replay).await);
        }
        consuming.await_count(Count::Replayed, 1).await;
        // The one that fails again stays, and is no longer wanted.
        eventually(SOON, "the letter that stays", async || {
            let letters = db.dead_letters().await;
            letters.len() == 1 && !letters[0].wanted && letters[0].id.offset == 1
        })
        .await;
        consuming.stop().await;
        check(&db.effects().await, &db.dead_letters().await);
        assert_eq!(db.effects().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_lease_records_may_be_in_redis_and_the_next_owner_knows_them() {
    let server = servers::Server::start(servers::Config::new());
    let store = redis::Store::connect(&server.url()).await.expect("Redis answers");
    let engine = || {
        let policy = Policy { lease: Duration::from_secs(2), ..Policy::default() };
        Engine::fenced(store.clone(), policy, Limits::default()).expect("the policy can be kept")
    };
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    let patient = consumer(client(), &name, &topic).with_tries(3, HOUR, HOUR);
    let first = db.start_on_lease(patient, engine()).await;
    send(&topic, [say(0, "waits", "0 once")]).await;
    send(&topic, (1..30).map(|nth| say(0, &format!("k{}", nth % 4), &nth.to_string()))).await;
    first.await_count(Count::Applied, 29).await;
    first.await_count(Count::Retried, 1).await;
    first.stop().await;
    let second = db.start_on_lease(consumer(client(), &name, &topic), engine()).await;
    db.await_next(&name, &topic, 30).await;
    assert_eq!(second.stats.of(Count::Known), 29);
    second.stop().await;
    check(&db.effects().await, &db.dead_letters().await);
    // The one that failed has run twice, the second time with a higher epoch.
    let mut epochs: HashMap<String, Vec<i64>> = HashMap::new();
    for (id, epoch) in db.outside().await.starts().await {
        epochs.entry(id).or_default().push(epoch);
    }
    assert!(epochs.iter().all(|(id, epochs)| epochs.len() == if id == "waits-0" { 2 } else { 1 }), "{epochs:?}");
    assert!(epochs["waits-0"][0] < epochs["waits-0"][1]);
}

/// Knows that everything took effect.
#[derive(Debug)]
struct TookEffect;

impl Resolver for TookEffect {
    fn resolve<'a>(&'a self, _: &'a Record) -> BoxFuture<'a, Option<Resolution>> {
        Box::pin(async { Some(Resolution::Completed(Outcome::bytes(""))) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_never_starts_a_handler_again_that_has_failed() {
    for db in Db::both().await {
        let (topic, name) = (topic(1).await, name("c"));
        let engine = db.engine(Guarantee::AtMostOnce);
        let consuming = db.start_on_lease(consumer(client(), &name, &topic), engine.clone()).await;
        let values = ["0 fail", "1 panic", "2 reject", "3"];
        send(&topic, values.map(|value| say(0, "k", value))).await;
        db.await_next(&name, &topic, 4).await;
        consuming.stop().await;
        let letters: Vec<_> = db.dead_letters().await.into_iter().map(|letter| letter.trouble).collect();
        let found: Vec<_> = letters.iter().map(|trouble| (trouble.reason, trouble.attempts)).collect();
        assert_eq!(found, [(Reason::OutcomeUnknown, 1), (Reason::OutcomeUnknown, 1), (Reason::Rejected, 1)]);
        assert!(letters[0].error.contains("the test says so") && letters[1].error.contains("panicked"));
        // A resolver finds out what became of it.
        let engine = engine.with_resolver(TookEffect);
        let consuming = db.start_on_lease(consumer(client(), &name, &topic), engine).await;
        send(&topic, [say(0, "resolved", "4 fail")]).await;
        db.await_next(&name, &topic, 5).await;
        assert_eq!((consuming.stats.of(Count::Known), consuming.stats.of(Count::Buried)), (1, 0));
        consuming.stop().await;
        let starts = db.outside().await.starts().await;
        let ids: HashSet<_> = starts.iter().map(|(id, _)| id).collect();
        assert_eq!((ids.len(), starts.len()), (5, 5), "{starts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused() {
    let db = Db::sqlite().await;
    let Db::Sqlite(store, _) = &db else { unreachable!("it is a file") };
    let consumer = || consumer(client(), "c", "t");
    let short = Policy { retention: Duration::from_secs(60), tombstone: Duration::from_secs(30), ..Policy::default() };
    // Three tries, and two pauses of 50 s.
    let slow = consumer().with_tries(3, Duration::from_secs(50), Duration::from_secs(50));
    let refused = slow.clone().with_policy(short).lanes(store.clone(), apply_sqlite).unwrap_err();
    assert!(matches!(refused, InvalidConsumer::Retention { .. }), "{refused}");
    assert!(refused.to_string().contains("100s") && refused.to_string().contains("90s"), "{refused}");
    assert!(slow.clone().lanes(store.clone(), apply_sqlite).is_ok());
    let outside = db.outside().await;
    let on_lease = |consumer: keylatch_kafka::Consumer, engine: Engine| {
        let outside = outside.clone();
        let handler = move |run, message| apply_outside(outside.clone(), run, message);
        consumer.lanes_on_lease(engine, store.clone(), handler)
    };
    let engine = |store: Arc<dyn Store>, policy| Engine::fenced(store, policy, Limits::default()).unwrap();
    let refused = on_lease(slow, engine(Arc::new(store.clone()), short)).unwrap_err();
    assert!(matches!(refused, InvalidConsumer::Retention { .. }), "{refused}");
    let refused = on_lease(consumer(), engine(Arc::new(memory::Store::new()), Policy::default())).unwrap_err();
    assert_eq!(refused, InvalidConsumer::NotDurable);
    let atomic = Engine::atomic(store.clone(), Policy::default(), Limits::default()).unwrap();
    assert_eq!(on_lease(consumer(), atomic).unwrap_err(), InvalidConsumer::Atomic);
    let refused = consumer().with_lanes(0, 1).lanes(store.clone(), apply_sqlite).unwrap_err();
    assert_eq!(refused, InvalidConsumer::Zero("lanes"));
}
