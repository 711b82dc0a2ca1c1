//! A consumer in a process of its own, which tests kill and pause.

use std::env::{self, VarError};
use std::time::Duration;

use keylatch::{Engine, Guarantee, Limits, Policy};
use keylatch_core::inbox::Inbox;
use keylatch_kafka::{Consumer, Count, InvalidConsumer, Kafka, Running};
use keylatch_otlp::{Exporter, Options};
use testing_kafka::{Outside, apply_outside, apply_postgres, apply_sqlite, open_outside, open_postgres, open_sqlite};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;

#[tokio::main]
async fn main() {
    let exporter = optional("OTEL_EXPORTER_OTLP_ENDPOINT").map(|endpoint| {
        let options = Options::new("consumer", endpoint.parse().expect("the URL of a collector"));
        Exporter::start(options).expect("the exporter starts")
    });
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(LevelFilter::INFO);
    if let Some(exporter) = &exporter {
        metrics::set_global_recorder(exporter.recorder()).expect("it is the first");
    }
    tracing_subscriber::registry().with(log).with(exporter.as_ref().map(Exporter::layer)).init();
    let mut kafka = Kafka::new(required("KAFKA_BROKERS")).with("session.timeout.ms", "1500");
    kafka = kafka.with("heartbeat.interval.ms", "300");
    if let Some(protocol) = optional("GROUP_PROTOCOL") {
        kafka = Kafka::new(required("KAFKA_BROKERS")).with("group.protocol", protocol);
    }
    if let Some(interval) = optional("STATISTICS_MS") {
        kafka = kafka.with("statistics.interval.ms", interval);
    }
    let tries = optional("TRIES").map_or(3, |tries| tries.parse().expect("a number"));
    let consumer = Consumer::new(kafka, &required("CONSUMER"), [required("TOPIC")])
        .with_tries(tries, Duration::from_millis(20), Duration::from_millis(100))
        .with_batch_max(optional("BATCH").map_or(500, |max| max.parse().expect("a number")));
    let window = optional("WINDOW").map_or(100, |window| window.parse().expect("a number"));
    // On SQLite, the next one takes over after this time.
    let consumer = consumer.with_lanes(8, window).with_lease(Duration::from_secs(2));
    let database = required("DATABASE");
    match database.strip_prefix("sqlite:") {
        Some(path) => {
            let store = open_sqlite(path).await;
            let outside = open_outside(Outside::Sqlite(store.clone())).await;
            match mode() {
                Mode::Batches => run(consumer.each(store, apply_sqlite)).await,
                Mode::Lanes => run(consumer.lanes(store, apply_sqlite)).await,
                Mode::Lease(guarantee) => run(on_lease(consumer, guarantee, store, outside)).await,
            }
        }
        None => {
            let store = open_postgres(&database).await;
            let outside = open_outside(Outside::Postgres(store.pool().clone())).await;
            match mode() {
                Mode::Batches => run(consumer.each(store, apply_postgres)).await,
                Mode::Lanes => run(consumer.lanes(store, apply_postgres)).await,
                Mode::Lease(guarantee) => run(on_lease(consumer, guarantee, store, outside)).await,
            }
        }
    }
    if let Some(exporter) = exporter {
        exporter.shutdown(Duration::from_secs(5)).await;
    }
}

enum Mode {
    Batches,
    Lanes,
    Lease(Guarantee),
}

fn mode() -> Mode {
    match optional("MODE").as_deref() {
        None | Some("batches") => Mode::Batches,
        Some("lanes") => Mode::Lanes,
        Some("fenced") => Mode::Lease(Guarantee::Fenced),
        Some("at-most-once") => Mode::Lease(Guarantee::AtMostOnce),
        Some(other) => panic!("MODE={other}"),
    }
}

fn on_lease<S: Inbox + Clone>(
    consumer: Consumer,
    guarantee: Guarantee,
    store: S,
    outside: Outside,
) -> Result<Running<S>, InvalidConsumer> {
    let policy = Policy { lease: Duration::from_secs(2), ..Policy::default() };
    let engine = match guarantee {
        Guarantee::AtMostOnce => Engine::at_most_once(store.clone(), policy, Limits::default()),
        _ => Engine::fenced(store.clone(), policy, Limits::default()),
    };
    let engine = engine.expect("the policy can be kept");
    consumer.lanes_on_lease(engine, store, move |run, message| apply_outside(outside.clone(), run, message))
}

async fn run<S: Inbox>(consumer: Result<Running<S>, InvalidConsumer>) {
    let consumer = consumer.expect("it is valid");
    let stats = consumer.stats();
    let mut terminated = signal(SignalKind::terminate()).expect("signals can be heard");
    consumer
        .run_until(async {
            _ = terminated.recv().await;
        })
        .await;
    let counts = [Count::Applied, Count::Known, Count::Buried, Count::Fenced, Count::TakenOver, Count::SameLog];
    let counts: Vec<_> = counts.into_iter().map(|count| format!("{count:?}={}", stats.of(count))).collect();
    eprintln!("ended: {}", counts.join(" "));
}

fn required(name: &str) -> String {
    optional(name).unwrap_or_else(|| panic!("{name} is not set"))
}

fn optional(name: &str) -> Option<String> {
    match env::var(name) {
        Ok(value) => Some(value),
        Err(VarError::NotPresent) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}
