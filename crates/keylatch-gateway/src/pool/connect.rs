//! A new connection to the upstream.

use std::io;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Sender;
use crate::upstream::Upstream;

/// Makes connections to one upstream.
pub(super) struct Connector {
    upstream: Upstream,
}

/// A connection that could not be made. Nothing of a request was sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the upstream cannot be reached: {0}")]
    Connect(#[from] io::Error),
    #[error("the upstream does not speak HTTP: {0}")]
    Handshake(#[from] hyper::Error),
}

impl Connector {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self { upstream }
    }

    pub(super) async fn connect(&self) -> Result<Sender, Error> {
        let stream = TcpStream::connect((self.upstream.host(), self.upstream.port())).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        drop(tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the upstream broke off");
            }
        }));
        Ok(sender)
    }
}
