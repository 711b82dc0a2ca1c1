//! Several processes on one SQLite file: one of them reads a topic, and others stand by.

use std::time::Duration;

use keylatch_core::inbox::PlaceName;
use keylatch_kafka::Count;
use rustix::process::Signal;
use testing_support::{at_once, eventually};
use tokio::time::sleep;

use crate::consuming::{Db, check, consumer};
use crate::crash::Member;
use crate::setup::{SOON, client, name, say, send, topic};

/// Numbers from a range, to each of two partitions.
fn numbers(range: std::ops::Range<i32>) -> impl Iterator<Item = crate::setup::Say> {
    range.flat_map(|nth| [0, 1].map(|part| say(part, &format!("k{part}"), &nth.to_string())))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_processes_works_and_the_other_takes_over_when_it_is_killed() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(2).await, name("c"));
    let mut first = Member::start(&db, &name, &topic, &[]);
    let mut applied = 0;
    for round in 0..4 {
        send(&topic, numbers(round * 50..round * 50 + 25)).await;
        applied += 50;
        db.await_effects(applied).await;
        let second = Member::start(&db, &name, &topic, &[]);
        // Both are there; the first one goes on alone.
        sleep(Duration::from_millis(1_000)).await;
        send(&topic, numbers(round * 50 + 25..round * 50 + 50)).await;
        applied += 50;
        if round == 3 {
            // The end of a process that stands by changes nothing for the other.
            let said = second.terminate().await;
            assert!(said.contains("Applied=0 Known=0"), "{said}");
            break;
        }
        first.kill().await;
        first = second;
    }
    db.await_effects(applied).await;
    let said = first.terminate().await;
    assert!(said.contains("this process reads the topic") && !said.contains("TakenOver=0"), "{said}");
    let effects = db.effects().await;
    check(&effects, &db.dead_letters().await);
    assert_eq!(effects.len(), applied);
}

/// Stops a process at a moment when it does not hold SQLite's write lock. With the lock, it would keep all others from
/// writing to the file until it goes on.
async fn pause_without_lock(process: &Member, db: &Db) {
    eventually(SOON, "a moment without the write lock", async || {
        process.pause();
        let free = db.can_be_written();
        if !free {
            process.signal(Signal::CONT);
        }
        free
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_paused_past_its_lease_and_comes_back_changes_nothing() {
    at_once(["batches", "lanes"], async |mode| {
        let db = Db::sqlite().await;
        let (topic, name) = (topic(2).await, name("c"));
        let paused = Member::start(&db, &name, &topic, &[("MODE", mode)]);
        send(&topic, numbers(0..50)).await;
        db.await_effects(100).await;
        if mode == "lanes" {
            // A handler is under way, before its transaction: with that open, nobody else could write the file.
            send(&topic, [say(0, "k0", "50 slow:2500")]).await;
            sleep(Duration::from_millis(300)).await;
        }
        pause_without_lock(&paused, &db).await;
        let other = Member::start(&db, &name, &topic, &[("MODE", mode)]);
        send(&topic, numbers(51..100)).await;
        let slow = usize::from(mode == "lanes");
        db.await_effects(198 + slow).await;
        paused.signal(Signal::CONT);
        send(&topic, numbers(100..150)).await;
        db.await_effects(298 + slow).await;
        let said = other.terminate().await;
        assert!(!said.contains("TakenOver=0"), "{said}");
        // The one that came back stands by, and then goes on.
        send(&topic, numbers(150..160)).await;
        db.await_effects(318 + slow).await;
        let said = paused.terminate().await;
        assert!(said.contains("another process reads the topic"), "{said}");
        let effects = db.effects().await;
        check(&effects, &db.dead_letters().await);
        assert_eq!(effects.len(), 318 + slow);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_in_order_lets_the_next_one_begin_at_once() {
    let db = Db::sqlite().await;
    let (topic, name) = (topic(2).await, name("c"));
    // So long that its end is not waited for.
    let consumer = || consumer(client(), &name, &topic).with_lease(Duration::from_secs(20));
    let (first, second) = (db.start(consumer()), db.start(consumer()));
    send(&topic, numbers(0..10)).await;
    db.await_effects(20).await;
    let (working, standing_by) = if first.stats.of(Count::Applied) > 0 { (first, second) } else { (second, first) };
    assert_eq!((working.stats.of(Count::Applied), standing_by.stats.of(Count::Applied)), (20, 0));
    working.stop().await;
    let stopped = tokio::time::Instant::now();
    send(&topic, numbers(10..20)).await;
    db.await_effects(40).await;
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    assert_eq!((standing_by.stats.of(Count::Applied), standing_by.stats.of(Count::TakenOver)), (20, 0));
    standing_by.stop().await;
    check(&db.effects().await, &[]);
}

/// What is in a file is whole, even if there are several: in a group, each would get a part of the messages.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_files_gets_every_message() {
    let (one, other, topic, name) = (Db::sqlite().await, Db::sqlite().await, topic(2).await, name("c"));
    let consuming = [&one, &other].map(|db| db.start(consumer(client(), &name, &topic)));
    for db in [&one, &other] {
        let place = PlaceName::new(&name, &topic, 1).expect("a name");
        let taken = async || db.places().place(place.clone()).await.expect("it answers").value.is_some();
        eventually(SOON, "the place to be taken", taken).await;
    }
    send(&topic, numbers(0..50)).await;
    for db in [&one, &other] {
        db.await_effects(100).await;
        check(&db.effects().await, &[]);
    }
    for consuming in consuming {
        consuming.stop().await;
    }
    assert_eq!((one.effects().await.len(), other.effects().await.len()), (100, 100));
}
