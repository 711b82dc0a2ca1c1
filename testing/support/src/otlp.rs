//! A collector: it takes spans and metrics by OTLP over HTTP, as protobuf, and keeps them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A span as it arrived. Identities are in hexadecimal digits.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The service, as its resource names it.
    pub service: String,
    /// The name of the span.
    pub name: String,
    /// Its trace.
    pub trace: String,
    /// The span itself.
    pub id: String,
    /// Its parent; empty for none.
    pub parent: String,
    /// The trace and the span of each link.
    pub links: Vec<(String, String)>,
    /// Its attributes.
    pub attributes: HashMap<String, String>,
    /// 1 is internal, 2 a server, 3 a client, 4 a producer, 5 a consumer.
    pub kind: i32,
    /// Whether its status is an error.
    pub failed: bool,
}

/// A series of a metric as it arrived last.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The value of a counter or of a gauge.
    Number(f64),
    /// A histogram: its upper bounds, the count in each bucket, and the sum.
    Histogram(Vec<f64>, Vec<u64>, f64),
}

/// A collector on a free port. It ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub url: String,
    kept: Arc<Kept>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Seen>>,
    metrics: Mutex<BTreeMap<String, Value>>,
    /// Everything that came, byte by byte.
    bytes: Mutex<Vec<u8>>,
    /// The header `authorization` of the last request.
    authorization: Mutex<Option<String>>,
}

impl Collector {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let kept = Arc::new(Kept::default());
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .with_state(kept.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, kept, serving }
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Seen> {
        self.kept.spans.lock().clone()
    }

    /// The spans of this name so far.
    pub fn named(&self, name: &str) -> Vec<Seen> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// Each series as it was exported last, by its name and labels as Prometheus writes them.
    pub fn metrics(&self) -> BTreeMap<String, Value> {
        self.kept.metrics.lock().clone()
    }

    /// Whether this text is anywhere in what came.
    pub fn has(&self, text: &str) -> bool {
        self.kept.bytes.lock().windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// The header `authorization` of the last request.
    pub fn authorization(&self) -> Option<String> {
        self.kept.authorization.lock().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Kept {
    fn keep(&self, headers: &HeaderMap, body: &[u8]) {
        self.bytes.lock().extend_from_slice(body);
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        *self.authorization.lock() = authorization.map(str::to_owned);
    }
}

async fn traces(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    kept.keep(&headers, &body);
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for of_resource in request.resource_spans {
        let attributes = of_resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = texts(&attributes).remove("service.name").unwrap_or_default();
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        kept.spans.lock().extend(spans.map(|span| seen(service.clone(), span)));
    }
    StatusCode::OK
}

fn seen(service: String, span: Span) -> Seen {
    const ERROR: i32 = 2;
    Seen {
        service,
        trace: hexadecimal(&span.trace_id),
        id: hexadecimal(&span.span_id),
        parent: hexadecimal(&span.parent_span_id),
        links: span.links.iter().map(|link| (hexadecimal(&link.trace_id), hexadecimal(&link.span_id))).collect(),
        attributes: texts(&span.attributes),
        kind: span.kind,
        failed: span.status.is_some_and(|status| status.code == ERROR),
        name: span.name,
    }
}

async fn metrics(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    kept.keep(&headers, &body);
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    let scopes = request.resource_metrics.into_iter().flat_map(|of_resource| of_resource.scope_metrics);
    for metric in scopes.flat_map(|of_scope| of_scope.metrics) {
        kept.metrics.lock().extend(series(metric));
    }
    StatusCode::OK
}

fn series(metric: Metric) -> Vec<(String, Value)> {
    let name = metric.name;
    let number = |point: NumberDataPoint| {
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let value = match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            Some(number_data_point::Value::AsInt(value)) => value as f64,
            None => f64::NAN,
        };
        (named(&name, &point.attributes), Value::Number(value))
    };
    match metric.data {
        Some(Data::Sum(sum)) => sum.data_points.into_iter().map(number).collect(),
        Some(Data::Gauge(gauge)) => gauge.data_points.into_iter().map(number).collect(),
        Some(Data::Histogram(histogram)) => {
            let points = histogram.data_points.into_iter();
            let value = |sum: Option<f64>| sum.unwrap_or_default();
            points
                .map(|point| {
                    let name = named(&name, &point.attributes);
                    (name, Value::Histogram(point.explicit_bounds, point.bucket_counts, value(point.sum)))
                })
                .collect()
        }
        other => panic!("{name} is of a kind that nothing here makes: {other:?}"),
    }
}

fn named(name: &str, labels: &[KeyValue]) -> String {
    let labels: Vec<_> =
        labels.iter().map(|label| format!("{}=\"{}\"", label.key, text(label.value.as_ref()))).collect();
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
