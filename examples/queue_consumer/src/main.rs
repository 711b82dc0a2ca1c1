//! A consumer behind Kafka: each order is taken once, although all are sent twice.
//!
//! It needs a broker at `KAFKA_BROKERS` (127.0.0.1:9092). It makes a topic of its own, sends ten orders to it, each of them
//! twice, and counts what is in the inventory.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::error::Error;
use std::time::Duration;

use keylatch::Tx;
use keylatch::sqlite::{Sqlite, Store, TxError};
use keylatch_kafka::{Consumer, Failed, Kafka, Message};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::sleep;

const ORDERS: i64 = 10;

/// What it writes in `tx` commits together with the place in the topic, or not at all. `?` means: try again later.
async fn take(mut tx: Tx<Sqlite>, message: Message) -> Result<(), Failed> {
    let Some(value) = message.value() else { return Err(Failed::reject("an order has a value")) };
    let pieces: i64 = String::from_utf8(value.to_vec()).map_err(Failed::reject)?.parse().map_err(Failed::reject)?;
    tx.run(move |db| db.execute("UPDATE inventory SET pieces = pieces - ?1", [pieces])).await?;
    Ok(())
}

async fn pieces(store: &Store) -> Result<i64, TxError> {
    store.query(|db| db.query_row("SELECT pieces FROM inventory", [], |row| row.get(0))).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let brokers = std::env::var("KAFKA_BROKERS").unwrap_or_else(|_| "127.0.0.1:9092".to_owned());
    let topic = format!("orders-{}", uuid::Uuid::new_v4());
    send(&brokers, &topic).await.map_err(|error| format!("no broker at {brokers} ({error}); see KAFKA_BROKERS"))?;

    let directory = tempfile::tempdir()?;
    let store = Store::open(directory.path().join("inventory.db")).await?;
    store
        .execute(|db| db.execute_batch("CREATE TABLE inventory (pieces); INSERT INTO inventory VALUES (1000)"))
        .await?;

    let expected = 1_000 - (1..=ORDERS).sum::<i64>();
    let inventory = store.clone();
    let all_are_taken = async move {
        while pieces(&inventory).await.is_ok_and(|pieces| pieces > expected) {
            sleep(Duration::from_millis(50)).await;
        }
        // Time for the ones that were sent again.
        sleep(Duration::from_millis(500)).await;
    };
    let consumer = Consumer::new(Kafka::new(&brokers), &topic, [&topic]).each(store.clone(), take)?;
    consumer.run_until(all_are_taken).await;

    let left = pieces(&store).await?;
    println!("{} messages, {ORDERS} orders, {left} pieces left", 2 * ORDERS);
    if left == expected { Ok(()) } else { Err(format!("there should be {expected}").into()) }
}

/// Sends the orders 1 to 10, of as many pieces, twice. What tells that two messages are one order is their id.
async fn send(brokers: &str, topic: &str) -> Result<(), Box<dyn Error>> {
    let config = ClientConfig::from_iter([("bootstrap.servers".to_owned(), brokers.to_owned())]);
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let new = NewTopic::new(topic, 3, TopicReplication::Fixed(1));
    admin.create_topics(&[new], &AdminOptions::new().request_timeout(Some(Duration::from_secs(10)))).await?;
    let producer: FutureProducer = config.create()?;
    for order in (1..=ORDERS).chain(1..=ORDERS) {
        let (id, pieces) = (format!("order-{order}"), order.to_string());
        let headers = OwnedHeaders::new().insert(Header { key: "message-id", value: Some(&id) });
        let record = FutureRecord::to(topic).key(&id).payload(&pieces).headers(headers);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}
