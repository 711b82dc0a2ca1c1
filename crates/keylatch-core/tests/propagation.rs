//! The caller's trace in requests and events.
#![cfg(feature = "opentelemetry")]

use http::{HeaderMap, HeaderValue};
use keylatch_core::outbox::{EVENT_BYTES_MAX, Event, Events, HEADERS_MAX};
use keylatch_core::propagation::{adopt, pass_on, trace_id};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, info_span};
use tracing_subscriber::prelude::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Runs `test` where spans are OpenTelemetry's.
fn traced(test: impl FnOnce()) {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), test);
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

/// The trace of a new span that adopts the caller's of these headers.
fn adopted(lines: &[(&'static str, &'static str)]) -> Option<String> {
    let span = info_span!("request");
    adopt(&span, &headers(lines));
    trace_id(&span)
}

#[test]
fn a_callers_trace_is_taken_in_only_from_one_well_formed_header() {
    traced(|| {
        assert_eq!(adopted(&[("traceparent", CALLER)]).as_deref(), Some(TRACE));
        for other in [
            &[][..],
            &[("traceparent", "00-1-2-01")],
            &[("traceparent", "")],
            &[("traceparent", CALLER), ("traceparent", CALLER)],
            &[("tracestate", "vendor=1")],
        ] {
            assert!(adopted(other).is_some_and(|trace| trace != TRACE), "{other:?}");
        }
        // A span that is in a trace stays there.
        let outer = info_span!("outer");
        let inner = outer.in_scope(|| adopted(&[("traceparent", CALLER)]));
        assert_eq!(inner, trace_id(&outer));
    });
}

#[test]
fn a_trace_is_passed_on_with_the_vendors_state_and_instead_of_the_one_that_is_there() {
    traced(|| {
        let span = info_span!("request");
        adopt(&span, &headers(&[("traceparent", CALLER), ("tracestate", "vendor=1")]));
        let mut sent = headers(&[("traceparent", "00-1-2-01"), ("traceparent", "again"), ("accept", "*/*")]);
        pass_on(&span, &mut sent);
        let parent = sent["traceparent"].to_str().unwrap();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01") && parent != CALLER, "{parent}");
        assert_eq!(
            (sent.get_all("traceparent").iter().count(), &sent["tracestate"]),
            (1, &"vendor=1".parse().unwrap())
        );
        assert_eq!(sent["accept"], "*/*");

        let fresh = info_span!("fresh");
        let mut sent = headers(&[("tracestate", "of=another")]);
        pass_on(&fresh, &mut sent);
        assert!(sent.contains_key("traceparent") && !sent.contains_key("tracestate"));

        let mut sent = headers(&[("traceparent", CALLER)]);
        pass_on(&Span::none(), &mut sent);
        assert_eq!(sent, headers(&[("traceparent", CALLER)]), "without a trace, nothing is changed");
    });
}

/// The headers of an event that is published in a span of the caller's trace.
fn published(event: Event) -> Vec<String> {
    let span = info_span!("transaction");
    adopt(&span, &headers(&[("traceparent", CALLER), ("tracestate", "vendor=1")]));
    let mut events = Events::default();
    span.in_scope(|| events.publish(event)).expect("it is taken");
    let headers = events.as_slice()[0].event.headers().iter();
    headers.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect()
}

#[test]
fn an_event_gets_the_trace_in_which_it_is_published_if_it_has_room_and_none_of_its_own() {
    traced(|| {
        let written = published(Event::new("t").with_header("a", "1"));
        assert!(written[1].starts_with(&format!("traceparent: 00-{TRACE}-")), "{written:?}");
        assert_eq!((written.len(), &*written[0], &*written[2]), (3, "a: 1", "tracestate: vendor=1"));
        assert_eq!(published(Event::new("t").with_header("traceparent", "mine")), ["traceparent: mine"]);
        let largest = Event::new("t").with_value(vec![0; EVENT_BYTES_MAX - 1]);
        assert!(published(largest).is_empty());
        let most = (0..HEADERS_MAX).fold(Event::new("t"), |event, _| event.with_header("h", ""));
        assert_eq!(published(most).len(), HEADERS_MAX);
    });
    let mut events = Events::default();
    events.publish(Event::new("t")).expect("it is taken");
    assert!(events.as_slice()[0].event.headers().is_empty(), "no trace, no header");
}
