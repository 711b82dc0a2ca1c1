//! Where logs, spans and metrics go: the options, and the same in the file.

use std::str::FromStr;

use clap::Args;
use keylatch_otlp::{Endpoint, Share};

/// Where logs, spans and metrics go. An option counts more than the same key of `[telemetry]` in the file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Observability")]
pub(crate) struct Telemetry {
    /// Export spans and metrics by OTLP to this collector, such as http://127.0.0.1:4318 (HTTP, protobuf). The other
    /// variables of OpenTelemetry apply too, such as OTEL_EXPORTER_OTLP_HEADERS for a token.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = endpoint)]
    pub(crate) otlp_endpoint: Option<Endpoint>,
    /// The share of traces to export, from 0 to 1. A trace that a caller has begun is exported if its caller exports it.
    /// Without this, OTEL_TRACES_SAMPLER decides; its default is all.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) otlp_share: Option<Share>,
    /// The form of the log on standard error: text (the default), or json, one object a line.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("it is text or json".to_owned()),
        }
    }
}

pub(crate) fn endpoint(text: &str) -> Result<Endpoint, String> {
    text.parse().map_err(|wrong: keylatch_otlp::InvalidEndpoint| wrong.to_string())
}

pub(crate) fn share(text: &str) -> Result<Share, String> {
    text.parse().map_err(|wrong: keylatch_otlp::InvalidShare| wrong.to_string())
}

impl Telemetry {
    /// With what `file` says where these say nothing.
    pub(crate) fn or(self, file: Self) -> Self {
        Self {
            otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint),
            otlp_share: self.otlp_share.or(file.otlp_share),
            log_format: self.log_format.or(file.log_format),
        }
    }
}
