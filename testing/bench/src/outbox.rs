//! The outbox: a relay with its producer, beside the producer alone and beside reading and deleting alone; and how long an
//! event takes from its commit to the broker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use keylatch::outbox::{BATCH_EVENTS, Event, EventId, Events, Outbox as _, Published, Publisher, Relay, Sent};
use keylatch::postgres::{Store, sqlx};
use keylatch_kafka::{Kafka, Producer};
use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use testing_support::kafka;
use testing_support::postgres::Cluster;
use tokio::time::sleep;

use crate::Result;
use crate::cores::{Cores, started_on};
use crate::report::{Table, median};

const DATABASE: &str = "bench";
const TOPIC: &str = "events";
const ROUNDS: usize = 3;
/// Events of one transaction when the outbox is filled.
const FILLED_AT_ONCE: usize = 500;
const RATIO: f64 = 0.6;
const LATENCY_MS: f64 = 20.0;
/// How long anything may take.
const LONGEST: Duration = Duration::from_secs(300);
const CONFIG: &str = "shared_buffers = 1GB\nmax_wal_size = 16GB\ncheckpoint_timeout = 30min\nwal_compression = off";

/// A producer, and when its events were acknowledged.
#[derive(Debug)]
struct Timed {
    producer: Producer,
    acknowledged: Arc<Acknowledged>,
}

#[derive(Debug, Default)]
struct Acknowledged {
    began: Mutex<Option<Instant>>,
    at: Mutex<HashMap<EventId, Instant>>,
}

impl Publisher for Timed {
    fn publish<'p>(&'p self, events: &'p [Published], until: Instant) -> BoxFuture<'p, Vec<Sent>> {
        Box::pin(async move {
            self.acknowledged.began.lock().get_or_insert_with(Instant::now);
            let sent = self.producer.publish(events, until).await;
            let now = Instant::now();
            let went = events.iter().zip(&sent).filter(|(_, sent)| **sent == Sent::Acknowledged);
            self.acknowledged.at.lock().extend(went.map(|(event, _)| (event.id, now)));
            sent
        })
    }
}

struct Arena {
    store: Store,
    servers: String,
}

/// Measures the relay, and prints two tables.
pub(crate) async fn measure(cores: Cores, quick: bool) -> Result<[Table; 2]> {
    let brokers = started_on(cores.server, || kafka::Cluster::start(1))?;
    let cluster = started_on(cores.server, || Cluster::start(CONFIG))?;
    cluster.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
    let arena = Arena { store: Store::connect(&cluster.url(DATABASE)).await?, servers: brokers.servers() };
    arena.make_topic().await?;
    let (rounds, events, slow) = if quick { (1, 2_000, 20) } else { (ROUNDS, 50_000, 300) };
    let mut made = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}: the relay");
        made.push((arena.relay(events).await?, arena.producer(events).await?, arena.select_then_delete(events).await?));
    }
    let latencies = arena.latencies(slow).await?;
    Ok([throughput(&made, rounds, events), latency(latencies)])
}

fn throughput(made: &[(f64, f64, f64)], rounds: usize, events: usize) -> Table {
    let title = format!("The relay, events of 200 bytes in an outbox of {events}; {rounds} rounds, medians");
    let columns = ["", "ratio", "reach", "events/s", "its producer alone/s", "select, then delete/s"];
    let mut table = Table::new(title, &columns);
    let of = |figure: fn(&(f64, f64, f64)) -> f64| median(made.iter().map(figure).collect());
    table.line([
        "relay".to_owned(),
        format!("{:.2}", of(|(relay, producer, select)| relay / producer.min(*select))),
        format!("{RATIO:.2}"),
        format!("{:.0}", of(|(relay, _, _)| *relay)),
        format!("{:.0}", of(|(_, producer, _)| *producer)),
        format!("{:.0}", of(|(_, _, select)| *select)),
    ]);
    table
}

fn latency(mut latencies: Vec<f64>) -> Table {
    let title = format!("From commit to broker, {} events, one at a time", latencies.len());
    let mut table = Table::new(title, &["", "median ms", "reach", "95% ms"]);
    latencies.sort_unstable_by(f64::total_cmp);
    let most = latencies.get(latencies.len() * 95 / 100).copied().unwrap_or(f64::NAN);
    let cells = [format!("{:.1}", median(latencies)), format!("{LATENCY_MS:.1}"), format!("{most:.1}")];
    table.line(["commit to broker".to_owned()].into_iter().chain(cells));
    table
}

fn event(number: usize) -> Event {
    Event::new(TOPIC).with_key(format!("k{}", number % 100)).with_value(format!("{number:>200}"))
}

impl Arena {
    async fn make_topic(&self) -> Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        let admin: AdminClient<DefaultClientContext> = config.create()?;
        let new = NewTopic::new(TOPIC, 3, TopicReplication::Fixed(1));
        for made in admin.create_topics(&[new], &AdminOptions::new()).await? {
            made.map_err(|(name, code)| format!("the topic {name} was not made: {code}"))?;
        }
        Ok(())
    }

    fn new_producer(&self) -> Result<Producer> {
        Ok(Producer::new(&Kafka::new(&*self.servers), "/bench")?)
    }

    fn new_relay(&self) -> Result<(Relay, Arc<Acknowledged>)> {
        let acknowledged = Arc::<Acknowledged>::default();
        let publisher = Timed { producer: self.new_producer()?, acknowledged: acknowledged.clone() };
        Ok((Relay::new(self.store.clone(), publisher), acknowledged))
    }

    async fn fill(&self, events: usize) -> Result<()> {
        for first in (0..events).step_by(FILLED_AT_ONCE) {
            let mut waiting = Events::default();
            for number in first..events.min(first + FILLED_AT_ONCE) {
                waiting.publish(event(number))?;
            }
            self.commit(waiting).await?;
        }
        Ok(())
    }

    async fn commit(&self, events: Events) -> Result<()> {
        let mut tx = self.store.pool().begin().await?;
        self.store.publish_in(&mut tx, events).await?;
        Ok(tx.commit().await?)
    }

    /// How many events a second leave a full outbox.
    async fn relay(&self, events: usize) -> Result<f64> {
        self.fill(events).await?;
        let (relay, acknowledged) = self.new_relay()?;
        let relay = relay.start();
        let until = Instant::now() + LONGEST;
        // The database is asked only at the end: each question takes time from the relay.
        while acknowledged.at.lock().len() < events || self.store.backlog(1).await?.value.waiting.at_least() > 0 {
            if Instant::now() > until {
                return Err("the outbox does not get empty".into());
            }
            sleep(Duration::from_millis(2)).await;
        }
        let began = acknowledged.began.lock().ok_or("nothing was published")?;
        let rate = events as f64 / began.elapsed().as_secs_f64();
        relay.stop(LONGEST).await;
        Ok(rate)
    }

    /// The same producer, fed from memory in batches of the same size.
    async fn producer(&self, events: usize) -> Result<f64> {
        let producer = self.new_producer()?;
        let all: Vec<_> = (0..events)
            .map(|number| Published { id: EventId::from_bytes((number as u128).to_be_bytes()), event: event(number) })
            .collect();
        let began = Instant::now();
        for batch in all.chunks(BATCH_EVENTS) {
            let sent = producer.publish(batch, Instant::now() + LONGEST).await;
            if sent.iter().any(|sent| *sent != Sent::Acknowledged) {
                return Err("an event was not acknowledged".into());
            }
        }
        Ok(events as f64 / began.elapsed().as_secs_f64())
    }

    /// Reads what a relay reads, and deletes it.
    async fn select_then_delete(&self, events: usize) -> Result<f64> {
        self.fill(events).await?;
        let limit = i64::try_from(BATCH_EVENTS)?;
        let began = Instant::now();
        loop {
            let select = "SELECT seq, id, topic, key, value, headers FROM keylatch.event ORDER BY seq LIMIT $1";
            type Row = (i64, Vec<u8>, String, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);
            let rows: Vec<Row> = sqlx::query_as(select).bind(limit).fetch_all(self.store.pool()).await?;
            if rows.is_empty() {
                return Ok(events as f64 / began.elapsed().as_secs_f64());
            }
            let seqs: Vec<i64> = rows.iter().map(|row| row.0).collect();
            let delete = "DELETE FROM keylatch.event WHERE seq = ANY ($1)";
            sqlx::query(delete).bind(seqs).execute(self.store.pool()).await?;
        }
    }

    /// The milliseconds from each commit to the broker's acknowledgement.
    async fn latencies(&self, events: usize) -> Result<Vec<f64>> {
        let (relay, acknowledged) = self.new_relay()?;
        let relay = relay.start();
        let mut latencies = Vec::new();
        // The first makes the connections.
        for number in 0..=events {
            let mut waiting = Events::default();
            let id = waiting.publish(event(number))?;
            self.commit(waiting).await?;
            let committed = Instant::now();
            self.store.wake();
            let at = loop {
                if let Some(at) = acknowledged.at.lock().remove(&id) {
                    break at;
                }
                if committed.elapsed() > LONGEST {
                    return Err("an event was not acknowledged".into());
                }
                sleep(Duration::from_millis(1)).await;
            };
            if number > 0 {
                latencies.push(at.saturating_duration_since(committed).as_secs_f64() * 1e3);
            }
            sleep(Duration::from_millis(25)).await;
        }
        relay.stop(LONGEST).await;
        Ok(latencies)
    }
}
