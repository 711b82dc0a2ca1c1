//! The trace of an order, from its client to the inventory.

use std::time::Duration;

use reqwest::StatusCode;
use testing_support::eventually;
use testing_support::otlp::Collector;

use crate::setup::Setup;
use crate::shop::Shop;

/// How long something may take that goes on by itself. The machine may be busy.
const SOON: Duration = Duration::from_secs(60);

tests_on!(sqlite: Sqlite, postgres: Postgres => [an_order_is_in_its_clients_trace_and_its_event_is_linked_to_it]);

async fn an_order_is_in_its_clients_trace_and_its_event_is_linked_to_it(setup: Setup) {
    let collector = Collector::start().await;
    let stores = setup.stores();
    let program = stores.program().env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    let program = program.env("OTEL_BSP_SCHEDULE_DELAY", "100").env("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let shop = Shop::start(&program, stores).await.expect("the server starts");
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let order = r#"{"user_id":"u-sentinel","cart_id":"c","items":[{"product_id":"prod1","quantity":1,"price":1.00}]}"#;
    let placing = shop.placing("key-sentinel", order).header("traceparent", format!("00-{trace}-{parent}-01"));
    assert_eq!(placing.send().await.unwrap().status(), StatusCode::CREATED);

    eventually(SOON, "the span of the event", async || !collector.named("keylatch.event").is_empty()).await;
    let of_order =
        |name: &str| collector.named(name).into_iter().find(|span| span.trace == trace).expect("it is exported");
    eventually(SOON, "the span of the order", async || {
        collector.named("keylatch.request").iter().any(|span| span.trace == trace)
    })
    .await;
    let (request, transaction) = (of_order("keylatch.request"), of_order("keylatch.transaction"));
    assert_eq!((&*request.parent, &transaction.parent, &*request.service), (parent, &request.id, "orders"));
    let event = collector.named("keylatch.event").remove(0);
    assert_eq!(event.links, [(trace.to_owned(), transaction.id.clone())]);
    assert!(event.parent.is_empty() && event.trace != trace, "it is linked, and no child: {event:?}");
    // The inventory's transaction is a child of the event's span.
    let counted = |span: &testing_support::otlp::Seen| span.parent == event.id && span.trace == event.trace;
    eventually(SOON, "the inventory's span", async || collector.named("keylatch.transaction").iter().any(counted))
        .await;
    eventually(SOON, "the metrics", async || {
        collector.metrics().contains_key("keylatch_answers_total{answer=\"run\"}")
    })
    .await;
    assert!(shop.server.terminate().await.0.success());
    assert!(!collector.has("sentinel"), "{:#?}", collector.spans());
}
