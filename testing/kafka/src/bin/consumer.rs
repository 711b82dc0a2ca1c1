//! A consumer in a process of its own, which tests kill and pause.

use std::env::{self, VarError};
use std::time::Duration;

use keylatch_core::inbox::Inbox;
use keylatch_kafka::{Consumer, Count, Kafka, Running};
use keylatch_otlp::{Exporter, Options};
use testing_kafka::{apply_postgres, apply_sqlite, open_postgres, open_sqlite};
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
    let database = required("DATABASE");
    match database.strip_prefix("sqlite:") {
        Some(path) => run(consumer.each(open_sqlite(path).await, apply_sqlite).expect("it is valid")).await,
        None => run(consumer.each(open_postgres(&database).await, apply_postgres).expect("it is valid")).await,
    }
    if let Some(exporter) = exporter {
        exporter.shutdown(Duration::from_secs(5)).await;
    }
}

async fn run<S: Inbox>(consumer: Running<S>) {
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
