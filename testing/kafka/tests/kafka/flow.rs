//! The whole flow: transactions publish, relays send, and a consumer applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keylatch::outbox::{Event, Relay};
use keylatch_kafka::{Kafka, Producer};
use rand::Rng as _;
use tokio::time::sleep;

use crate::consuming::{Db, check, consumer};
use crate::setup::{client, name, servers, topic};

const TRANSACTIONS: i64 = 400;
const KEYS: i64 = 7;

#[tokio::test(flavor = "multi_thread")]
async fn what_transactions_publish_is_applied_once_and_in_order_although_relays_die() {
    let (from, to) = (Db::sqlite().await, Db::postgres().await);
    let Db::Sqlite(store, _) = &from else { unreachable!("it is SQLite") };
    let topic = topic(3).await;
    let consuming = to.start(consumer(client(), &name("c"), &topic));
    let done = Arc::new(AtomicBool::new(false));
    let relays = tokio::spawn({
        let (store, done) = (store.clone(), done.clone());
        async move {
            let start = || {
                let producer = Producer::new(&Kafka::new(servers()), "/shop").expect("it is valid");
                Relay::new(store.clone(), producer).with_lease(Duration::from_secs(2)).expect("it is long").start()
            };
            while !done.load(Ordering::SeqCst) {
                // Dropped, it stops where it is, and keeps its lease.
                let relay = start();
                let pause = rand::rng().random_range(500..3_000);
                sleep(Duration::from_millis(pause)).await;
                drop(relay);
            }
            start()
        }
    });
    for number in 0..TRANSACTIONS {
        let topic = topic.clone();
        let transaction = store.execute_and_publish(move |db, events| {
            db.execute(
                "INSERT INTO effects (id, key, sequence) VALUES (?1, 'order', ?2)",
                (number.to_string(), number),
            )?;
            let event = Event::new(topic).with_key(format!("k{}", number % KEYS)).with_value(number.to_string());
            events.publish(event).expect("it is small");
            if number % 10 == 3 { Err(rusqlite::Error::InvalidQuery) } else { Ok(()) }
        });
        assert_eq!(transaction.await.is_err(), number % 10 == 3);
        sleep(Duration::from_millis(15)).await;
    }
    done.store(true, Ordering::SeqCst);
    let relay = relays.await.expect("the last relay starts");
    let orders = from.effects().await.len();
    to.await_effects(orders).await;
    assert!(relay.stop(Duration::from_secs(20)).await);
    consuming.stop().await;
    let effects = to.effects().await;
    check(&effects, &to.dead_letters().await);
    let mut numbers: Vec<_> = effects.iter().map(|effect| effect.sequence).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..TRANSACTIONS).filter(|number| number % 10 != 3).collect::<Vec<_>>());
}
