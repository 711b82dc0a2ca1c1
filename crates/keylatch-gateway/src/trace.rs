//! The spans of a request, when they are exported: around the whole of it, and around what is sent to the upstream.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Method, Response};
use keylatch::entry_point::propagation;
use tracing::Span;
use tracing::field::Empty;

/// A span around a request, in its caller's trace.
pub(crate) fn request(parts: &Parts, route: &Arc<str>) -> Span {
    let span = tracing::info_span!(
        "gateway.request",
        "otel.kind" = "server",
        "otel.status_code" = Empty,
        "http.request.method" = method(&parts.method),
        "http.response.status_code" = Empty,
        route = &**route,
        outcome = Empty,
    );
    propagation::adopt(&span, &parts.headers);
    span
}

/// A span around one try to send a request to the upstream, which is told of it in `headers`.
pub(crate) fn upstream(method_sent: &Method, headers: &mut HeaderMap) -> Span {
    let span = tracing::info_span!(
        "gateway.upstream",
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "http.request.method" = method(method_sent),
        "http.response.status_code" = Empty,
    );
    propagation::pass_on(&span, headers);
    span
}

/// Records how the request of this span ended.
pub(crate) fn answered<B>(span: &Span, response: &Response<B>) {
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// The method. One that a client has invented may contain anything.
pub(crate) fn method(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    if KNOWN.contains(method) { method.as_str() } else { "other" }
}
