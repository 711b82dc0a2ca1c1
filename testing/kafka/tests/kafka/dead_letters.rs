//! Dead letters that go to a topic as well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use keylatch::outbox::{Published, Publisher, Relay, RunningRelay, Sent};
use keylatch_core::outbox::Skip;
use keylatch_kafka::{Count, Kafka, Producer};
use parking_lot::Mutex;
use testing_support::eventually;

use crate::consuming::{Db, consumer};
use crate::produce::logged;
use crate::setup::{SOON, client, make_topic, name, say, send, servers, topic};

/// A producer, and what it said last.
#[derive(Debug)]
struct Overheard {
    producer: Producer,
    said: Arc<Mutex<Vec<Sent>>>,
}

impl Publisher for Overheard {
    fn publish<'p>(&'p self, events: &'p [Published], until: Instant) -> BoxFuture<'p, Vec<Sent>> {
        Box::pin(async move {
            let sent = self.producer.publish(events, until).await;
            self.said.lock().clone_from(&sent);
            sent
        })
    }
}

fn relay(db: &Db) -> (RunningRelay, Arc<Mutex<Vec<Sent>>>) {
    let said = Arc::default();
    let producer = Producer::new(&Kafka::new(servers()), "/shop").expect("it is valid");
    let publisher = Overheard { producer, said: Arc::clone(&said) };
    let relay = match db {
        Db::Sqlite(store, _) => Relay::new(store.clone(), publisher),
        Db::Postgres(store, _) => Relay::new(store.clone(), publisher),
    };
    (relay.start(), said)
}

async fn waiting(db: &Db) -> usize {
    let pending = db.outbox().pending(100, usize::MAX, Skip::default()).await;
    pending.expect("the outbox can be read").len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_goes_to_a_topic_as_well() {
    for db in Db::both().await {
        let (topic, dead, name) = (topic(1).await, topic(3).await, name("c"));
        let (relay, _) = relay(&db);
        let consuming = db.start(consumer(client(), &name, &topic).with_dead_letter_topic(&*dead));
        send(&topic, [say(0, "k", "0"), say(0, "k", "1 reject"), say(0, "k", "2"), say(0, "l", "3 fail")]).await;
        db.await_effects(2).await;
        consuming.await_count(Count::Buried, 2).await;
        let mut logged = logged(&dead, 2).await;
        logged.sort_by(|one, other| one.key.cmp(&other.key));
        let expected = [("k", "1", "1 reject", "rejected", "1"), ("l", "3", "3 fail", "exhausted", "3")];
        for (message, (key, offset, value, reason, attempts)) in logged.iter().zip(expected) {
            assert_eq!(
                (message.key.as_deref(), message.value.as_deref()),
                (Some(key.as_bytes()), Some(value.as_bytes()))
            );
            let headers = [
                ("message-id", &*format!("{key}-{offset}")),
                ("dead-letter-consumer", &name),
                ("dead-letter-topic", &topic),
                ("dead-letter-partition", "0"),
                ("dead-letter-offset", offset),
                ("dead-letter-reason", reason),
                ("dead-letter-error", "the test says so"),
                ("dead-letter-attempts", attempts),
            ];
            for (header, value) in headers {
                assert!(message.headers.contains(&(header.to_owned(), value.to_owned())), "{header}: {message:?}");
            }
        }
        assert_eq!(db.dead_letters().await.len(), 2, "the rows stay");
        consuming.stop().await;
        assert!(relay.stop(SOON).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_is_absent_loses_nothing_and_is_named() {
    for db in Db::both().await {
        let (topic, dead) = (topic(1).await, name("absent"));
        let (relay, said) = relay(&db);
        let consuming = db.start(consumer(client(), &name("c"), &topic).with_dead_letter_topic(&*dead));
        send(&topic, [say(0, "k", "0 reject"), say(0, "k", "1")]).await;
        // Nothing else waits for it.
        db.await_effects(1).await;
        let what = format!("the topic {dead} is not there; create it");
        let named = async || said.lock().contains(&Sent::Later(what.clone()));
        eventually(SOON, "the relay to name the topic", named).await;
        assert_eq!((db.dead_letters().await.len(), waiting(&db).await), (1, 1));
        make_topic(&dead, 1).await;
        assert_eq!(logged(&dead, 1).await[0].value.as_deref(), Some(&b"0 reject"[..]));
        eventually(Duration::from_secs(60), "the outbox to be empty", async || waiting(&db).await == 0).await;
        consuming.stop().await;
        assert!(relay.stop(SOON).await);
    }
}
