//! TLS below HTTP, with rustls.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http_body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connection::{Transport, serve_over};
use crate::{ClientCertificate, Limits, Served};

/// As [`serve`](crate::serve), over TLS. The client chooses a protocol that the acceptor's configuration offers in
/// ALPN: `h2` or `http/1.1`.
///
/// Each new connection uses the latest of `acceptors`. So a certificate can be replaced, and open connections keep
/// theirs.
pub async fn serve<S, B>(
    listener: TcpListener,
    acceptors: watch::Receiver<TlsAcceptor>,
    limits: Limits,
    service: S,
    stop: impl Future<Output = ()>,
) where
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    serve_over(listener, Tls(acceptors), limits, service, stop).await;
}

#[derive(Clone)]
struct Tls(watch::Receiver<TlsAcceptor>);

impl Transport for Tls {
    type Stream = TlsStream<TcpStream>;
    const IS_TLS: bool = true;

    async fn begin(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.0.borrow().clone();
        acceptor.accept(stream).await
    }

    fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
        stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    fn certificate(stream: &TlsStream<TcpStream>) -> Option<ClientCertificate> {
        let certificates = stream.get_ref().1.peer_certificates()?;
        certificates.first().map(|certificate| ClientCertificate(certificate.as_ref().into()))
    }
}
