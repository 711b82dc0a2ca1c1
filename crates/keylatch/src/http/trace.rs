//! The span of a guarded request, in its caller's trace.

use http::HeaderMap;
use keylatch_core::traceparent;
use tracing::Span;
use tracing::field::Empty;

use crate::{Guarantee, engine};

/// A span with the identities of the caller's trace and span, from the `traceparent` header
/// ([W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header)). The header itself reaches the
/// handler unchanged. With the feature `opentelemetry`, the span is a child of that one, or of the current span.
pub(super) fn span(headers: &HeaderMap, guarantee: Guarantee) -> Span {
    let span = engine::span(|| {
        tracing::info_span!(
            "keylatch.request",
            ?guarantee,
            record = Empty,
            trace_id = Empty,
            parent_id = Empty,
            status = Empty
        )
    });
    #[cfg(feature = "opentelemetry")]
    if !span.is_disabled() {
        keylatch_core::propagation::adopt(&span, headers);
    }
    if !span.is_disabled()
        && let Some((trace, parent)) =
            headers.get("traceparent").and_then(|value| traceparent::parse(value.to_str().ok()?))
    {
        span.record("trace_id", trace).record("parent_id", parent);
    }
    span
}
