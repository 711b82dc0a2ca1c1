//! A service in a process of its own, which tests kill and pause. It takes the number of an order from each line, writes the
//! order and an event in one transaction, says that it is done, and relays the events to Kafka.
#![expect(clippy::print_stdout, reason = "whoever starts it reads what is done")]

use std::time::Duration;

use keylatch::entry_point::{Answer, Request, RunOrTx};
use keylatch::outbox::{Event, Relay};
use keylatch::postgres::Postgres;
use keylatch::sqlite::Sqlite;
use keylatch::tx::Verdict;
use keylatch::{Engine, Fingerprint, Key, Limits, Outcome, Policy, Scope};
use keylatch_kafka::{Kafka, Producer};
use testing_kafka::{open_postgres, open_sqlite, required};
use tokio::sync::mpsc;

/// A relay that was killed is followed by another after this time.
const LEASE: Duration = Duration::from_secs(2);
/// Orders of one key are published in order.
const KEYS: i64 = 7;

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failed> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let (database, topic) = (required("DATABASE"), required("TOPIC"));
    let producer = Producer::new(&Kafka::new(required("KAFKA_BROKERS")), "/shop")?;
    let (policy, limits) = (Policy::default(), Limits::default());
    let (engine, relay) = match database.strip_prefix("sqlite:") {
        Some(path) => {
            let store = open_sqlite(path).await;
            (Engine::atomic(store.clone(), policy, limits)?, Relay::new(store, producer))
        }
        None => {
            let store = open_postgres(&database).await;
            (Engine::atomic(store.clone(), policy, limits)?, Relay::new(store, producer))
        }
    };
    let relay = relay.with_lease(LEASE)?.start();
    let (send, mut numbers) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            let number: i64 = line.expect("it is a text").parse().expect("it is a number");
            if send.blocking_send(number).is_err() {
                return;
            }
        }
    });
    while let Some(number) = numbers.recv().await {
        while !order(&engine, &topic, number).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("done {number}");
    }
    relay.stop(Duration::from_secs(20)).await;
    Ok(())
}

/// Whether the order is written now, or was before.
async fn order(engine: &Engine, topic: &str, number: i64) -> Result<bool, Failed> {
    let request = Request {
        scope: Scope::new("client")?.for_operation("order")?,
        key: Key::new(&number.to_string())?,
        fingerprint: Fingerprint::of([number.to_string().as_bytes()]),
        wait: Duration::ZERO,
    };
    let event = Event::new(topic).with_key(format!("k{}", number % KEYS)).with_value(number.to_string());
    let work = move |handed: RunOrTx| async move {
        let kept = Verdict::Keep(Outcome::bytes("done"));
        (if write(handed, number, event).await.is_ok() { kept } else { Verdict::Retry }, ())
    };
    match engine.answer(request, work).await {
        Ok(Answer::Ran(ran)) => Ok(ran.expires_at.is_some()),
        Ok(Answer::Replayed(_)) => Ok(true),
        Ok(Answer::Refused(_)) | Err(_) => Ok(false),
    }
}

async fn write(handed: RunOrTx, number: i64, event: Event) -> Result<(), Failed> {
    const INSERT: &str = "INSERT INTO effects (id, key, sequence) VALUES ($1, 'order', $2)";
    let id = number.to_string();
    if let Some(mut tx) = handed.tx::<Sqlite>() {
        tx.publish(event)?;
        tx.run(move |db| db.execute(INSERT, (id, number))).await?;
        return Ok(());
    }
    let mut tx = handed.tx::<Postgres>().ok_or("it is a transaction of one of both")?;
    tx.publish(event)?;
    sqlx::query(INSERT).bind(id).bind(number).execute(&mut *tx).await?;
    Ok(())
}
