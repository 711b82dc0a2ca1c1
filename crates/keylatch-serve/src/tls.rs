//! TLS below HTTP, by rustls.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http_body::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::connection::{Transport, serve_over};
use crate::{Limits, Served};

/// As [`serve`](crate::serve), by TLS. The client chooses among the protocols that `acceptor`'s configuration offers by
/// ALPN: `h2` and `http/1.1`.
pub async fn serve<S, B>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: Limits,
    service: S,
    stop: impl Future<Output = ()>,
) where
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    serve_over(listener, Tls(acceptor), limits, service, stop).await;
}

#[derive(Clone)]
struct Tls(TlsAcceptor);

impl Transport for Tls {
    type Stream = TlsStream<TcpStream>;
    const IS_TLS: bool = true;

    async fn begin(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}
