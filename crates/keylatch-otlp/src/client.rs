//! HTTP to the collector, on the program's runtime: the threads that export have none.

use std::env;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT};
use tokio::runtime::Handle;

use crate::{Endpoint, Error};

/// A client on a runtime. A clone is the same.
#[derive(Clone)]
pub(crate) struct Client {
    client: Arc<dyn HttpClient>,
    runtime: Handle,
}

impl Client {
    /// # Errors
    ///
    /// If the connection is to be encrypted, and no authority is known.
    pub(crate) fn new(endpoint: &Endpoint, runtime: Handle) -> Result<Self, Error> {
        // A connection that is not encrypted needs no authority.
        let builder = if endpoint.is_encrypted() {
            let provider = rustls::crypto::ring::default_provider();
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(Error::Tls)?.https_only()
        } else {
            return Ok(Self { client: Arc::new(HyperClient::with_default_connector(timeout(), None)), runtime });
        };
        Ok(Self { client: Arc::new(HyperClient::new(builder.enable_http1().build(), timeout(), None)), runtime })
    }
}

fn timeout() -> Duration {
    let millis = env::var(OTEL_EXPORTER_OTLP_TIMEOUT).ok().and_then(|millis| millis.parse().ok());
    millis.map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis)
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
