//! Connections, and what each may take: a client that sends nothing, slowly, or too much of a head costs little.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How long a client may take for the head of a request, and how long a connection may be idle.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How large a head may be; a larger one gets a 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long to wait for files when there are none left to accept a connection with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until `stop`, and ends when the last request on each of them has.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).max_header_size(HEAD_BYTES_MAX);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok(stream) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
                drop(tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection broke off");
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // An answer is one small write, which must not wait for another.
    stream.set_nodelay(true)?;
    Ok(stream)
}
