//! OpenTelemetry for a program with Keylatch: its spans and metrics go to a collector by OTLP (HTTP, protobuf).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use keylatch_otlp::{Endpoint, Exporter, Options};
//! use tracing_subscriber::prelude::*;
//!
//! # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
//! let exporter = Exporter::start(Options::new("orders", "http://127.0.0.1:4318".parse()?))?;
//! tracing_subscriber::registry().with(exporter.layer()).with(tracing_subscriber::fmt::layer()).init();
//! // Or beside another recorder, in a `metrics_util::layers::FanoutBuilder`.
//! metrics::set_global_recorder(exporter.recorder())?;
//! // … the program …
//! exporter.shutdown(Duration::from_secs(2)).await;
//! # Ok(()) }
//! ```
//!
//! # What is promised
//!
//! - **No request waits for the collector.** Spans wait in a queue of `OTEL_BSP_MAX_QUEUE_SIZE` (2048), and a thread sends
//!   them. If the queue is full, further spans are lost, and the log says so.
//! - **A collector that cannot be reached loses spans and nothing else.** An export is given up after
//!   `OTEL_EXPORTER_OTLP_TIMEOUT` (10 seconds).
//! - **The end is bounded**: [`Exporter::shutdown`] sends what is left, for as long as it is told to.
//! - No span and no metric of Keylatch has a key, a scope, a body or a header.
//!
//! | module | what is in it |
//! |---|---|
//! | `endpoint` | where the collector is |
//! | `client` | HTTP to the collector |
//! | `recorder` | the metrics of the `metrics` crate, as OpenTelemetry's |

mod client;
mod endpoint;
mod recorder;

use std::env;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanLimits};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::client::Client;
pub use crate::endpoint::{Endpoint, InvalidEndpoint};
pub use crate::recorder::Recorder;

/// The share of traces that are exported, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

/// A number that is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the share of traces is a number from 0 to 1, such as 0.05")]
pub struct InvalidShare;

impl Share {
    /// A share from 0 (none) to 1 (all).
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn new(share: f64) -> Result<Self, InvalidShare> {
        if (0.0..=1.0).contains(&share) { Ok(Self(share)) } else { Err(InvalidShare) }
    }
}

impl std::str::FromStr for Share {
    type Err = InvalidShare;

    fn from_str(text: &str) -> Result<Self, InvalidShare> {
        Self::new(text.parse().map_err(|_| InvalidShare)?)
    }
}

/// What is exported, and where to.
///
/// The variables of OpenTelemetry apply beside these: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
/// `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and the like,
/// `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`, `OTEL_METRIC_EXPORT_INTERVAL`.
#[derive(Debug, Clone)]
pub struct Options {
    service: &'static str,
    endpoint: Endpoint,
    share: Option<Share>,
    buckets: Vec<(&'static str, Vec<f64>)>,
}

impl Options {
    /// For a program of this name, unless `OTEL_SERVICE_NAME` says another. The collector is at `endpoint`, to which
    /// `/v1/traces` and `/v1/metrics` are added.
    pub const fn new(service: &'static str, endpoint: Endpoint) -> Self {
        Self { service, endpoint, share: None, buckets: Vec::new() }
    }

    /// With this share of the traces that begin here. A trace that a caller has begun is exported if its caller exports
    /// it. Without this, `OTEL_TRACES_SAMPLER` decides; its default is all.
    #[must_use]
    pub fn with_share(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }

    /// With these upper bounds for the histograms whose names end in `suffix`. The first suffix that fits counts.
    #[must_use]
    pub fn with_buckets(mut self, suffix: &'static str, bounds: &[f64]) -> Self {
        self.buckets.push((suffix, bounds.to_vec()));
        self
    }
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The exporter cannot be built: mostly a variable `OTEL_…` that cannot be used.
    #[error("spans and metrics cannot be exported: {0}; look at the variables OTEL_…")]
    Exporter(#[from] ExporterBuildError),
    /// There is no way to encrypt the connection to the collector.
    #[error(
        "no authority is known that the collector could be believed by: install the system's (ca-certificates): {0}"
    )]
    Tls(std::io::Error),
}

/// Exports the spans and metrics of this program.
#[derive(Debug)]
pub struct Exporter {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    buckets: Vec<(&'static str, Vec<f64>)>,
}

impl Exporter {
    /// Starts the threads that export. From now on, [`propagation`] of W3C Trace Context is installed.
    ///
    /// [`propagation`]: opentelemetry::global::set_text_map_propagator
    ///
    /// # Errors
    ///
    /// If a variable cannot be used. It does not connect yet.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime, which does the network's work.
    pub fn start(options: Options) -> Result<Self, Error> {
        let Options { service, endpoint, share, buckets } = options;
        let client = Client::new(&endpoint, Handle::current())?;
        let resource = resource(service);
        // A variable for one signal names its whole URL.
        let url = |variable: &str, path| (env::var_os(variable).is_none()).then(|| endpoint.with(path));
        let mut spans = SpanExporter::builder().with_http().with_http_client(client.clone());
        if let Some(url) = url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces") {
            spans = spans.with_endpoint(url);
        }
        let mut traces = SdkTracerProvider::builder()
            .with_batch_exporter(spans.build()?)
            .with_span_limits(SpanLimits::default())
            .with_resource(resource.clone());
        if let Some(Share(share)) = share {
            traces = traces.with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))));
        }
        let mut metrics = MetricExporter::builder().with_http().with_http_client(client);
        if let Some(url) = url("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "/v1/metrics") {
            metrics = metrics.with_endpoint(url);
        }
        let metrics =
            SdkMeterProvider::builder().with_periodic_exporter(metrics.build()?).with_resource(resource).build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Self { traces: traces.build(), metrics, buckets })
    }

    /// Turns spans of `tracing` at level `INFO` and above into OpenTelemetry's, and events into theirs.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync + 'static,
    {
        // What the exporter itself logs would be exported in turn.
        let targets = Targets::new().with_default(LevelFilter::INFO).with_target("opentelemetry", LevelFilter::OFF);
        tracing_opentelemetry::layer()
            .with_tracer(self.traces.tracer("keylatch"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(targets)
    }

    /// A recorder whose metrics are exported, under the names and labels that Prometheus sees.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.metrics.meter("keylatch"), self.buckets.clone())
    }

    /// Exports what is left, for at most `within`. What remains then is lost.
    pub async fn shutdown(self, within: Duration) {
        let Self { traces, metrics, .. } = self;
        // The threads that export need this runtime for the network.
        let ending = tokio::task::spawn_blocking(move || {
            let spans = std::thread::spawn(move || traces.shutdown_with_timeout(within));
            let metrics = metrics.shutdown_with_timeout(within);
            (spans.join(), metrics)
        });
        match timeout(within, ending).await {
            Ok(Ok((Ok(Ok(())), Ok(())))) => {}
            _ => tracing::warn!("the last spans and metrics could not be exported in time, and are lost"),
        }
    }
}

/// What names the program to the collector. The variables of OpenTelemetry count more than `service`.
fn resource(service: &'static str) -> Resource {
    let of_environment = Resource::builder().build();
    let named =
        of_environment.get(&"service.name".into()).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let resource = Resource::builder();
    if named { resource.build() } else { resource.with_service_name(service).build() }
}
