//! Logs, spans and metrics of the process. None contains a key, a path, a body, a header or a token.

use std::error::Error;
use std::io::IsTerminal;
use std::time::Duration;

use keylatch_otlp::{Exporter, Options};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::layers::FanoutBuilder;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

use crate::args::{Gateway, LogFormat, Telemetry};
use crate::config::Config;

/// Upper bounds of histograms of seconds: from a replay from memory to a wait for a slow upstream.
const SECONDS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];
/// Upper bounds of histograms of records in a batch.
const RECORDS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1024.0];
/// How long the last spans and metrics may take when the process ends.
const END_MAX: Duration = Duration::from_secs(1);

/// What was installed in this process.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) metrics: PrometheusHandle,
    exporter: Option<Exporter>,
}

impl Installed {
    /// Installs the log, the recorder of metrics, and the export of spans and metrics, if there is to be one. Before any
    /// engine is built, because an engine registers its gauges once.
    ///
    /// # Errors
    ///
    /// If nothing can be exported.
    pub(crate) fn new(args: &Gateway) -> Result<Self, Box<dyn Error>> {
        let Telemetry { otlp_endpoint, otlp_share, log_format } = wanted(args);
        let exporter = match otlp_endpoint {
            Some(endpoint) => {
                let options = Options::new("keylatch-gateway", endpoint)
                    .with_buckets("_seconds", &SECONDS)
                    .with_buckets("_records", &RECORDS);
                let options = match otlp_share {
                    Some(share) => options.with_share(share),
                    None => options,
                };
                Some(Exporter::start(options)?)
            }
            None => None,
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = fmt::layer().with_writer(std::io::stderr);
        let log = match log_format.unwrap_or(LogFormat::Text) {
            LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).boxed(),
            LogFormat::Json => log.json().boxed(),
        };
        let spans = exporter.as_ref().map(Exporter::layer);
        tracing_subscriber::registry().with(log.with_filter(filter)).with(spans).init();
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_records".to_owned()), &RECORDS)?
            .build_recorder();
        let metrics = prometheus.handle();
        match &exporter {
            Some(exporter) => {
                let both = FanoutBuilder::default().add_recorder(prometheus).add_recorder(exporter.recorder());
                metrics::set_global_recorder(both.build()).map_err(|error| error.to_string())?;
            }
            None => metrics::set_global_recorder(prometheus).map_err(|error| error.to_string())?,
        }
        describe();
        Ok(Self { metrics, exporter })
    }

    /// Whether spans are exported.
    pub(crate) const fn traces(&self) -> bool {
        self.exporter.is_some()
    }

    /// Exports what is left.
    pub(crate) async fn end(self) {
        if let Some(exporter) = self.exporter {
            exporter.shutdown(END_MAX).await;
        }
    }
}

/// What the command line and the file say together. A mistake in the file is reported when the gateway starts.
fn wanted(args: &Gateway) -> Telemetry {
    let of_file = args.config.as_deref().and_then(|file| Config::read(file, args.policy()).ok());
    args.telemetry.clone().or(of_file.map(|config| config.telemetry).unwrap_or_default())
}

/// A metric of the gateway's own, beside those of the library. docs/GATEWAY.md has the same table.
struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const METRICS: [Metric; 6] = [
    Metric {
        name: "keylatch_gateway_requests_total",
        kind: Kind::Counter,
        help: "Requests answered, by route, outcome and class of the status.",
    },
    Metric {
        name: "keylatch_gateway_request_seconds",
        kind: Kind::Histogram,
        help: "Time from the head of a request to that of its answer, in seconds, by outcome.",
    },
    Metric {
        name: "keylatch_gateway_upstream_failures_total",
        kind: Kind::Counter,
        help: "Requests to which the upstream gave no whole answer, by the code of the problem.",
    },
    Metric {
        name: "keylatch_gateway_reloads_total",
        kind: Kind::Counter,
        help: "Times that the files were read again, by whether they were taken or refused.",
    },
    Metric {
        name: "keylatch_gateway_log_lines_lost_total",
        kind: Kind::Counter,
        help: "Lines of the log of requests that nobody read.",
    },
    Metric {
        name: "keylatch_gateway_region_decides",
        kind: Kind::Gauge,
        help: "1 while a majority of the regions lets this one decide, otherwise 0; absent without a lease.",
    },
];

fn describe() {
    for Metric { name, kind, help } in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, metrics::Unit::Seconds, help),
        }
    }
    // In a series that begins with its first event, Prometheus sees no increase.
    for result in ["taken", "refused"] {
        metrics::counter!("keylatch_gateway_reloads_total", "result" => result).increment(0);
    }
    metrics::counter!("keylatch_gateway_log_lines_lost_total").increment(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_metric_and_its_meaning() {
        let page = include_str!("../../../docs/GATEWAY.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `keylatch_gateway_"))
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(rows.len(), METRICS.len());
        for (row, Metric { name, kind, help }) in rows.iter().zip(&METRICS) {
            let kind = format!("{kind:?}").to_lowercase();
            assert_eq!((row[1], row[2], row[4]), (format!("`{name}`").as_str(), kind.as_str(), *help));
        }
    }
}
