//! The caller's trace, in the headers of W3C Trace Context: taken in, passed on, and written into events (feature
//! `opentelemetry`).
//!
//! The headers are read and written by the propagator that the program has installed
//! (`opentelemetry::global::set_text_map_propagator`), and spans are those of a `tracing_opentelemetry` layer. Without
//! both, nothing here has an effect.

use std::str;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry::{Context, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::outbox::{EVENT_BYTES_MAX, Event, HEADERS_MAX};
use crate::traceparent;

/// The headers that name a trace, in the order in which they are written.
pub const HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// Makes `span` a child of the caller's span that the headers of its request name, unless it is already in a trace.
///
/// Call it before the span is entered.
pub fn adopt(span: &Span, headers: &HeaderMap) {
    if span_context(&Span::current()).is_valid() {
        return;
    }
    let caller = extract(&OfRequest(headers));
    if caller.is_valid() {
        // It fails only if the span is not recorded.
        let _ = span.set_parent(Context::new().with_remote_span_context(caller));
    }
}

/// Writes the trace of `span` into the headers of a request, instead of the one that is there. Without a trace, the
/// headers stay as they are.
pub fn pass_on(span: &Span, headers: &mut HeaderMap) {
    for (name, value) in context_of(span) {
        let value = value.and_then(|value| HeaderValue::from_str(&value).ok());
        match value {
            Some(value) => drop(headers.insert(HeaderName::from_static(name), value)),
            None => drop(headers.remove(name)),
        }
    }
}

/// Links `span` to the span that produced a message, as `header` says of its headers.
pub fn link<'h>(span: &Span, header: impl Fn(&str) -> Option<&'h [u8]>) {
    let of_message = OfMessage(HEADERS.map(|name| header(name).and_then(|value| str::from_utf8(value).ok())));
    let producer = extract(&of_message);
    if producer.is_valid() {
        span.add_link(producer);
    }
}

/// The identity of the trace of `span`, in 32 hexadecimal digits, if it has one.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span_context(span);
    context.is_valid().then(|| context.trace_id().to_string())
}

/// The event with the trace of the current span in its headers, unless it names one itself or has no room.
pub(crate) fn traced(event: Event) -> Event {
    if event.headers().iter().any(|(name, _)| name == HEADERS[0]) {
        return event;
    }
    let written = context_of(&Span::current()).into_iter().filter_map(|(name, value)| Some((name, value?)));
    written.fold(event, |event, (name, value)| {
        let bytes = event.bytes() + name.len() + value.len();
        let fits = event.headers().len() < HEADERS_MAX && bytes <= EVENT_BYTES_MAX;
        if fits { event.with_header(name, value) } else { event }
    })
}

fn span_context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

fn extract(headers: &dyn Extractor) -> SpanContext {
    // The propagator takes some that are not well-formed.
    if headers.get(HEADERS[0]).and_then(traceparent::parse).is_none() {
        return SpanContext::NONE;
    }
    let caller =
        global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), headers));
    caller.span().span_context().clone()
}

/// The headers for the trace of `span`: none without a trace, and a header without a value is to be absent.
fn context_of(span: &Span) -> Vec<(&'static str, Option<String>)> {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return Vec::new();
    }
    let mut written = Written::default();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut written));
    let Written([Some(parent), state]) = written else { return Vec::new() };
    vec![(HEADERS[0], Some(parent)), (HEADERS[1], state.filter(|state| !state.is_empty()))]
}

#[derive(Default)]
struct Written([Option<String>; 2]);

impl Injector for Written {
    fn set(&mut self, key: &str, value: String) {
        if let Some(at) = HEADERS.iter().position(|name| *name == key) {
            self.0[at] = Some(value);
        }
    }
}

struct OfRequest<'h>(&'h HeaderMap);

impl Extractor for OfRequest<'_> {
    /// A request with two of them names no trace
    /// ([W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header)).
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        HEADERS.to_vec()
    }
}

struct OfMessage<'h>([Option<&'h str>; 2]);

impl Extractor for OfMessage<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0[HEADERS.iter().position(|name| *name == key)?]
    }

    fn keys(&self) -> Vec<&str> {
        HEADERS.to_vec()
    }
}
