//! Where the collector is.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// The URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

/// Why a URL is none of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEndpoint {
    /// It has another form.
    #[error("write the URL of a collector's receiver for OTLP over HTTP, such as http://127.0.0.1:4318")]
    Form,
    /// It has a user or a password in it, which would be seen in logs and lists of processes.
    #[error("leave the password out of the URL, and put it into OTEL_EXPORTER_OTLP_HEADERS, such as authorization=…")]
    Password,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let uri: Uri = text.parse().map_err(|_| InvalidEndpoint::Form)?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().filter(|_| known && uri.query().is_none()).ok_or(InvalidEndpoint::Form)?;
        if authority.as_str().contains('@') {
            return Err(InvalidEndpoint::Password);
        }
        Ok(Self(uri))
    }
}

impl Endpoint {
    /// The URL of one signal.
    pub(crate) fn with(&self, path: &str) -> String {
        format!("{}{path}", self.to_string().trim_end_matches('/'))
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_that_of_a_collector_or_its_fault_is_told() {
        for (text, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otlp.example/tenant/", "https://otlp.example/tenant/v1/traces"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().with("/v1/traces"), traces);
        }
        for text in ["", "collector:4318", "/v1/traces", "grpc://collector:4317", "http://", "http://h?a=b"] {
            assert_eq!(text.parse::<Endpoint>(), Err(InvalidEndpoint::Form), "{text}");
        }
        assert_eq!("https://user:secret@h".parse::<Endpoint>(), Err(InvalidEndpoint::Password));
    }
}
