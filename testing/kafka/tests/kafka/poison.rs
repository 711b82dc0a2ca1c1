//! Events that the broker never takes, at the head of the outbox.

use keylatch::outbox::{Event, Events, Relay, Why};
use keylatch_kafka::{Kafka, Producer};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use testing_support::eventually;

use crate::consuming::Db;
use crate::produce::logged;
use crate::setup::{SOON, admin, name, servers};

/// A topic that takes small messages.
async fn small_topic() -> String {
    let small = name("small");
    let new = NewTopic::new(&small, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "1000");
    let made = admin().create_topics(&[new], &AdminOptions::new()).await.expect("it answers");
    assert!(made.iter().all(Result::is_ok));
    small
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_at_the_head_of_the_outbox_holds_back_its_key_alone() {
    for db in Db::both().await {
        let topic = small_topic().await;
        let event = |key: &str, value: String| Event::new(&*topic).with_key(key.to_owned()).with_value(value);
        let mut events = vec![event("a", "x".repeat(5_000)), event("a", "a1".into()), event("a", "a2".into())];
        events.extend((0..20).map(|nth| event("b", format!("b{nth:02}"))));
        db.publish(events).await;
        let producer = Producer::new(&Kafka::new(servers()), "/shop").expect("it is valid");
        let relay = match &db {
            Db::Sqlite(store, _) => Relay::new(store.clone(), producer),
            Db::Postgres(store, _) => Relay::new(store.clone(), producer),
        }
        .start();
        let values = async |count| {
            let logged = logged(&topic, count).await;
            logged
                .into_iter()
                .map(|message| String::from_utf8(message.value.expect("one")).expect("text"))
                .collect::<Vec<_>>()
        };
        assert_eq!(values(20).await, (0..20).map(|nth| format!("b{nth:02}")).collect::<Vec<_>>());
        eventually(SOON, "the key to be held back", async || stuck(&db).await.len() == 3).await;
        let stuck = stuck(&db).await;
        assert!(matches!(&stuck[0].why, Why::Refused(why) if why.contains("larger")), "{stuck:?}");
        assert!(stuck[1..].iter().all(|stuck| stuck.why == Why::Held));
        assert!(db.outbox().discard(stuck[0].place()).await.expect("it answers"));
        assert_eq!(values(22).await[20..], ["a1", "a2"]);
        assert!(relay.stop(SOON).await);
    }
}

async fn stuck(db: &Db) -> Vec<keylatch::outbox::Stuck> {
    db.outbox().stuck(None, 100).await.expect("the outbox can be read")
}

impl Db {
    /// Publishes events in one transaction.
    async fn publish(&self, all: Vec<Event>) {
        match self {
            Self::Sqlite(store, _) => {
                let publish = move |_: &rusqlite::Connection, events: &mut Events| {
                    for event in all {
                        events.publish(event).expect("it is valid");
                    }
                    Ok(())
                };
                store.execute_and_publish(publish).await.expect("it commits");
            }
            Self::Postgres(store, _) => {
                let mut events = Events::default();
                for event in all {
                    events.publish(event).expect("it is valid");
                }
                let mut tx = store.pool().begin().await.expect("it begins");
                store.publish_in(&mut tx, events).await.expect("they are written");
                tx.commit().await.expect("it commits");
                self.outbox().wake();
            }
        }
    }
}
