//! Logs, metrics and, by choice, spans: with the feature `otlp`, spans and metrics go to the collector of OpenTelemetry that
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names.

use std::error::Error;
use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// From a write that joined a waiting batch to a disk that hangs.
const SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

/// The variable that names the collector.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What was installed in this process.
pub(crate) struct Telemetry {
    pub(crate) metrics: PrometheusHandle,
    #[cfg(feature = "otlp")]
    exporter: Option<keylatch_otlp::Exporter>,
}

impl Telemetry {
    /// Installs it. Before the engine is built, which creates its counters once.
    ///
    /// # Errors
    ///
    /// If the variable names no collector.
    pub(crate) fn install() -> Result<Self, Box<dyn Error>> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        let registry = tracing_subscriber::registry().with(log.with_filter(filter));
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .build_recorder();
        let metrics = prometheus.handle();
        #[cfg(feature = "otlp")]
        {
            let exporter = exporter()?;
            registry.with(exporter.as_ref().map(keylatch_otlp::Exporter::layer)).init();
            let mut both = metrics_util::layers::FanoutBuilder::default().add_recorder(prometheus);
            if let Some(exporter) = &exporter {
                both = both.add_recorder(exporter.recorder());
            }
            metrics::set_global_recorder(both.build()).map_err(|error| error.to_string())?;
            Ok(Self { metrics, exporter })
        }
        #[cfg(not(feature = "otlp"))]
        {
            registry.init();
            metrics::set_global_recorder(prometheus).map_err(|error| error.to_string())?;
            if std::env::var_os(ENDPOINT).is_some() {
                tracing::warn!("{ENDPOINT} has no effect: to export spans, run: cargo run --features otlp");
            }
            Ok(Self { metrics })
        }
    }

    /// Exports what is left.
    pub(crate) async fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.shutdown(std::time::Duration::from_secs(1)).await;
        }
    }
}

#[cfg(feature = "otlp")]
fn exporter() -> Result<Option<keylatch_otlp::Exporter>, Box<dyn Error>> {
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty()) else { return Ok(None) };
    let endpoint = endpoint.parse().map_err(|wrong: keylatch_otlp::InvalidEndpoint| format!("{ENDPOINT}: {wrong}"))?;
    let options = keylatch_otlp::Options::new("orders", endpoint).with_buckets("_seconds", &SECONDS);
    Ok(Some(keylatch_otlp::Exporter::start(options)?))
}
