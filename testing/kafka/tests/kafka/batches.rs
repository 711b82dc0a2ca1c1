//! Batches: each message once, in order; failures; ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keylatch_core::inbox::{Order, Reason};
use keylatch_kafka::{Count, Failed};
use parking_lot::Mutex;
use testing_kafka::apply_sqlite;
use testing_support::eventually;

use crate::consuming::{Db, check, consumer};
use crate::setup::{SOON, Say, client, name, say, send, topic};

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_applied_once_in_its_order() {
    for (db, kafka) in Db::each_way().await {
        let topic = topic(4).await;
        let consuming = db.start(consumer(kafka, &name("c"), &topic));
        let messages =
            (0..500).flat_map(|nth| (0..4).map(move |part| say(part, &format!("k{part}"), &nth.to_string())));
        send(&topic, messages).await;
        db.await_effects(2_000).await;
        let effects = db.effects().await;
        check(&effects, &[]);
        assert_eq!(effects.len(), 2_000);
        consuming.await_count(Count::Applied, 2_000).await;
        assert_eq!((consuming.stats.of(Count::WithoutId), consuming.stats.of(Count::Fenced)), (0, 0));
        consuming.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fails_stops_no_other_and_has_no_effect() {
    for db in Db::both().await {
        let topic = topic(1).await;
        send(
            &topic,
            (0..40).map(|nth| {
                let also = match nth {
                    7 => " once",
                    9 => " reject",
                    20 => " fail",
                    21 => " panic",
                    _ => "",
                };
                say(0, "k", &format!("{nth}{also}"))
            }),
        )
        .await;
        let consuming = db.start(consumer(client(), &name("c"), &topic));
        db.await_effects(37).await;
        consuming.await_count(Count::Buried, 3).await;
        consuming.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        let expected: Vec<_> = (0..40).filter(|nth| ![9, 20, 21].contains(nth)).collect();
        assert_eq!(effects.iter().map(|effect| effect.sequence).collect::<Vec<_>>(), expected);
        let letters: Vec<_> =
            letters.iter().map(|letter| (letter.id.offset, letter.trouble.reason, letter.trouble.attempts)).collect();
        let expected = [(9, Reason::Rejected, 1), (20, Reason::Exhausted, 3), (21, Reason::Exhausted, 3)];
        assert_eq!(letters, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_commit_is_refused_is_found_among_the_others() {
    let (db, topic) = (Db::postgres().await, topic(1).await);
    let also = |nth| if [11, 30].contains(&nth) { " defer" } else { "" };
    send(&topic, (0..40).map(|nth| say(0, "k", &format!("{nth}{}", also(nth))))).await;
    let consuming = db.start(consumer(client(), &name("c"), &topic));
    db.await_effects(38).await;
    consuming.await_count(Count::Buried, 2).await;
    consuming.stop().await;
    let (effects, letters) = (db.effects().await, db.dead_letters().await);
    check(&effects, &letters);
    assert_eq!(effects.len(), 38);
    let letters: Vec<_> = letters.iter().map(|letter| (letter.id.offset, letter.trouble.attempts)).collect();
    assert_eq!(letters, [(11, 3), (30, 3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_again_has_no_second_effect_and_another_message_under_it_is_a_dead_letter() {
    for db in Db::both().await {
        let topic = topic(2).await;
        let consuming = db.start(consumer(client(), &name("c"), &topic));
        send(&topic, [say(0, "k", "1"), say(0, "k", "1"), say(0, "k", "2")]).await;
        db.await_effects(2).await;
        // On another partition, and after the first is committed.
        let other = Say { id: Some("k-2".into()), ..say(0, "k", "7") };
        send(&topic, [say(1, "k", "1"), other, say(0, "k", "8")]).await;
        db.await_effects(3).await;
        consuming.await_count(Count::Known, 2).await;
        consuming.await_count(Count::Buried, 1).await;
        consuming.stop().await;
        let (effects, letters) = (db.effects().await, db.dead_letters().await);
        check(&effects, &letters);
        assert_eq!(effects.iter().map(|effect| effect.sequence).collect::<Vec<_>>(), [1, 2, 8]);
        assert_eq!(letters[0].trouble.reason, Reason::Reused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_and_what_is_no_text_arrive_as_they_are() {
    for db in Db::both().await {
        let topic = topic(1).await;
        let bare = Say { partition: 0, id: None, key: None, value: None };
        let empty = Say { key: Some(Vec::new()), value: Some(Vec::new()), ..bare.clone() };
        let bytes = Say { key: Some(vec![0xff]), value: Some(vec![0xfe]), ..bare.clone() };
        let unreadable = Say { id: Some(String::new()), ..bare.clone() };
        let consuming = db.start(consumer(client(), &name("c"), &topic));
        send(&topic, [bare.clone(), empty, unreadable, bytes, bare]).await;
        db.await_effects(4).await;
        consuming.await_count(Count::WithoutId, 4).await;
        consuming.stop().await;
        let keys: Vec<_> = db.effects().await.into_iter().map(|effect| effect.key).collect();
        assert_eq!(keys, ["null", "", "\u{fffd}", "null"]);
        let letters = db.dead_letters().await;
        assert_eq!((letters.len(), letters[0].trouble.reason), (1, Reason::Undecodable));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_all_fail_the_partition_stands_still_until_an_operator_acts() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(1).await, name("c"));
    send(&topic, (0..10).map(|nth| say(0, "k", &format!("{nth} reject")))).await;
    let consuming = db.start(consumer(client(), &name, &topic).with_dead_in_row(4));
    let why = consuming.await_stopped().await;
    assert!(why.contains("4 messages in a row") && why.contains("go_on"), "{why}");
    assert_eq!(db.dead_letters().await.len(), 4);
    db.go_on(&name, &topic, Some(8)).await;
    consuming.await_count(Count::Buried, 6).await;
    send(&topic, [say(0, "k", "10")]).await;
    db.await_effects(1).await;
    assert!(consuming.stats.stopped().is_empty());
    consuming.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_applied_after_all_if_an_operator_wants_it() {
    let db = Db::sqlite().await;
    let Db::Sqlite(store, _) = &db else { unreachable!("it is SQLite") };
    let (topic, mended) = (topic(1).await, Arc::new(AtomicBool::new(false)));
    send(&topic, [say(0, "a", "1"), say(0, "b", "1"), say(0, "a", "2")]).await;
    let looked = mended.clone();
    let handler = move |tx, message: keylatch_kafka::Message| {
        let works = looked.load(Ordering::SeqCst) || message.key().is_none_or(|key| &**key != b"b");
        async move { if works { apply_sqlite(tx, message).await } else { Err(Failed::reject("not yet")) } }
    };
    let running = consumer(client(), &name("c"), &topic).each(store.clone(), handler).unwrap();
    let (stats, (stop, stopped)) = (running.stats(), tokio::sync::oneshot::channel::<()>());
    let task = tokio::spawn(running.run_until(async { _ = stopped.await }));
    db.await_effects(2).await;
    let letters = db.dead_letters().await;
    assert_eq!((letters.len(), letters[0].trouble.reason, letters[0].id.offset), (1, Reason::Rejected, 1));
    // It is rejected again, and stays.
    assert!(db.order(&letters[0], Order::Replay).await);
    eventually(SOON, "the letter to be kept", async || !db.dead_letters().await[0].wanted).await;
    mended.store(true, Ordering::SeqCst);
    assert!(db.order(&letters[0], Order::Replay).await);
    db.await_effects(3).await;
    eventually(SOON, "the letter to go", async || db.dead_letters().await.is_empty()).await;
    eventually(SOON, "the count", async || stats.of(Count::Replayed) == 1).await;
    drop(stop);
    task.await.unwrap();
    check(&db.effects().await, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_for_all_gets_whole_batches_and_each_message_alone_if_it_fails() {
    let db = Db::postgres().await;
    let Db::Postgres(store, _) = &db else { unreachable!("it is PostgreSQL") };
    let topic = topic(1).await;
    send(&topic, (0..100).map(|nth| say(0, "k", &nth.to_string()))).await;
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = sizes.clone();
    let handler = move |mut tx: keylatch::Tx<keylatch::postgres::Postgres>, messages: Vec<keylatch_kafka::Message>| {
        seen.lock().push(messages.len());
        async move {
            for message in messages {
                if message.offset() == 120 {
                    return Err(Failed::reject("this one never"));
                }
                let (id, sequence) = (format!("k-{}", message.offset()), message.offset());
                let insert = sqlx::query("INSERT INTO effects (id, key, sequence) VALUES ($1, 'k', $2)");
                insert.bind(id).bind(sequence).execute(&mut *tx).await?;
            }
            Ok(())
        }
    };
    let running = consumer(client(), &name("c"), &topic).all(store.clone(), handler).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(running.run_until(async { _ = stopped.await }));
    db.await_effects(100).await;
    send(&topic, (100..140).map(|nth| say(0, "k", &nth.to_string()))).await;
    db.await_effects(139).await;
    drop(stop);
    task.await.unwrap();
    let (effects, letters) = (db.effects().await, db.dead_letters().await);
    check(&effects, &letters);
    assert_eq!((effects.len(), letters.len(), letters[0].id.offset), (139, 1, 120));
    let sizes = sizes.lock();
    assert!(sizes.iter().any(|size| *size > 1) && sizes.contains(&1), "{sizes:?}");
}
