//! The trace of a message, from the transaction that published it to the handler that applies it.

use std::time::Duration;

use keylatch::outbox::{Event, Relay};
use keylatch_kafka::{Kafka, Producer};
use testing_support::eventually;
use testing_support::otlp::{Collector, Seen, Value};

use crate::consuming::Db;
use crate::crash::Member;
use crate::setup::{SOON, name, say, send, servers, topic};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";

#[tokio::test(flavor = "multi_thread")]
async fn a_consumers_span_is_linked_to_the_one_that_published_the_event() {
    let collector = &Collector::start().await;
    for to in Db::both().await {
        let from = Db::sqlite().await;
        let Db::Sqlite(store, _) = &from else { unreachable!("it is SQLite") };
        let topic = topic(1).await;
        let events = topic.clone();
        let traceparent = format!("00-{TRACE}-{PRODUCER}-01");
        let published = store.execute_and_publish(move |_, waiting| {
            let event = |number: &str| Event::new(&*events).with_key("key-sentinel").with_value(number.to_owned());
            waiting.publish(event("0").with_header("traceparent", traceparent)).expect("it is small");
            // It has no trace, or none that can be read.
            waiting.publish(event("1")).expect("it is small");
            waiting.publish(event("2").with_header("traceparent", "00-1-2-01")).expect("it is small");
            Ok(())
        });
        published.await.expect("it commits");
        let producer = Producer::new(&Kafka::new(servers()), "/shop").expect("it is valid");
        let relay = Relay::new(store.clone(), producer).start();
        let more = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
            ("STATISTICS_MS", "100"),
            ("TRIES", "1000000"),
        ];
        let member = Member::start(&to, &name("c"), &topic, &more);
        to.await_effects(3).await;
        let of_topic = || -> Vec<Seen> {
            let spans = collector.named("keylatch.message");
            spans.into_iter().filter(|span| span.attributes["topic"] == topic).collect()
        };
        let at = |offset: &str| of_topic().into_iter().find(|span| span.attributes["offset"] == offset);
        eventually(SOON, "three spans", async || ["0", "1", "2"].iter().all(|offset| at(offset).is_some())).await;
        let linked = at("0").expect("it is there");
        assert_eq!(linked.links, [(TRACE.to_owned(), PRODUCER.to_owned())]);
        assert!(linked.trace != TRACE && linked.kind == 5, "a consumer's, in a trace of its own: {linked:?}");
        for offset in ["1", "2"] {
            assert_eq!(at(offset).expect("it is there").links, []);
        }
        let series = |name: String, value: f64| async move {
            eventually(SOON, &format!("{name} {value}"), async || {
                collector.metrics().get(&name) == Some(&Value::Number(value))
            })
            .await;
        };
        let lag = format!("keylatch_consumer_lag{{topic=\"{topic}\"}}");
        series("keylatch_messages_total{result=\"applied\"}".to_owned(), 3.0).await;
        series(lag.clone(), 0.0).await;
        // It is tried again and again, and one more waits behind it.
        send(&topic, [say(0, "key-sentinel", "3 fail"), say(0, "key-sentinel", "4")]).await;
        series(lag, 2.0).await;
        eventually(SOON, "a try that failed", async || {
            let retried = collector.metrics().get("keylatch_messages_total{result=\"retried\"}").cloned();
            matches!(retried, Some(Value::Number(times)) if times > 0.0)
        })
        .await;
        member.terminate().await;
        assert!(relay.stop(Duration::from_secs(20)).await);
    }
    assert!(!collector.has("sentinel"), "{:#?}", collector.spans());
}
