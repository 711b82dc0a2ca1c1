//! A new connection to the upstream.

use std::io;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Http1, Http2, SIGN_OF_LIFE_MAX};
use crate::tls::chose_http2;
use crate::upstream::{Protocol, Upstream};

/// Makes connections to one upstream.
pub(crate) struct Connector {
    upstream: Upstream,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A new connection.
pub(super) enum Connected {
    Http1(Http1),
    Http2(Http2),
}

/// The connection failed. Nothing of a request was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the upstream cannot be reached: {0}")]
    Connect(io::Error),
    #[error("the connection to the upstream cannot be secured: {0}")]
    Secure(io::Error),
    #[error("the upstream does not speak HTTP: {0}")]
    Handshake(#[from] hyper::Error),
}

impl Connector {
    /// Connects to `upstream`, over TLS if `tls` is given.
    ///
    /// # Errors
    ///
    /// If no certificate can be valid for its host.
    pub(crate) fn new(upstream: Upstream, tls: Option<TlsConnector>) -> Result<Self, String> {
        let host = upstream.host().to_owned();
        let name = tls.map(|tls| match ServerName::try_from(host) {
            Ok(name) => Ok((tls, name)),
            Err(_) => Err("no certificate can be for this host".to_owned()),
        });
        Ok(Self { tls: name.transpose()?, upstream })
    }

    /// Whether connections may turn out to use HTTP/2.
    pub(super) fn may_be_http2(&self) -> bool {
        self.upstream.protocol != Protocol::Http1
    }

    /// The scheme of requests.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    pub(super) async fn connect(&self) -> Result<Connected, Error> {
        let stream = TcpStream::connect((self.upstream.host(), self.upstream.port())).await.map_err(Error::Connect)?;
        stream.set_nodelay(true).map_err(Error::Connect)?;
        let Some((tls, name)) = &self.tls else {
            return match self.upstream.protocol {
                Protocol::Http2 => by_http2(stream).await,
                Protocol::Http1 | Protocol::Tls => by_http1(stream).await,
            };
        };
        let stream = tls.connect(name.clone(), stream).await.map_err(Error::Secure)?;
        if chose_http2(stream.get_ref().1.alpn_protocol()) { by_http2(stream).await } else { by_http1(stream).await }
    }
}

async fn by_http1<T>(stream: T) -> Result<Connected, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    drop(tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the upstream broke off");
        }
    }));
    Ok(Connected::Http1(sender))
}

async fn by_http2<T>(stream: T) -> Result<Connected, Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    // This finds an upstream that has disappeared without closing the connection.
    http2.timer(TokioTimer::new()).keep_alive_interval(SIGN_OF_LIFE_MAX).keep_alive_timeout(SIGN_OF_LIFE_MAX);
    let (sender, connection) = http2.handshake(TokioIo::new(stream)).await?;
    drop(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the upstream broke off");
        }
    }));
    Ok(Connected::Http2(sender))
}
