//! Accepts connections, and serves each of them on its own task.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, Connection, UpgradeableConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_service::Service;

use crate::Limits;
use crate::activity::{Activity, END_MAX, Watched, Word};
use crate::socket::Socket;

/// The other end of a request's connection: in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted by TLS.
    pub is_tls: bool,
}

/// The client's certificate, in DER, as TLS has verified it: in the extensions of each request on its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate(pub Arc<[u8]>);

/// A service that can be served: every clone can answer a request, and none fails.
pub trait Served<B>:
    Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static> + Clone + Send + 'static
{
}

impl<S, B> Served<B> for S where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}

/// How long to pause if no file handle is left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop`, and returns when the last request on each of them has ended. A connection that was
/// upgraded belongs to the service, and counts towards [`Limits::connections_max`] while it is open.
pub async fn serve<S, B>(listener: TcpListener, limits: Limits, service: S, stop: impl Future<Output = ()>)
where
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    serve_over(listener, Plain, limits, service, stop).await;
}

/// The layer below HTTP.
pub(crate) trait Transport: Clone + Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    const IS_TLS: bool;

    /// Starts it on an accepted connection.
    fn begin(self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The certificate that the client has presented.
    fn certificate(_: &Self::Stream) -> Option<ClientCertificate> {
        None
    }

    /// Whether both sides have agreed on HTTP/2. Otherwise the first bytes tell which version it is.
    fn is_http2(_: &Self::Stream) -> bool {
        false
    }
}

/// Plain TCP.
#[derive(Clone)]
struct Plain;

impl Transport for Plain {
    type Stream = TcpStream;
    const IS_TLS: bool = false;

    async fn begin(self, stream: TcpStream) -> io::Result<TcpStream> {
        Ok(stream)
    }
}

pub(crate) async fn serve_over<T, S, B>(
    listener: TcpListener,
    transport: T,
    limits: Limits,
    service: S,
    stop: impl Future<Output = ()>,
) where
    T: Transport,
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (stopping, stopped) = watch::channel(());
    let (http, http2) = (Arc::new(http(&limits)), Arc::new(http2(&limits)));
    let places = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, address, place)) => {
                let peer = Peer { address, is_tls: T::IS_TLS };
                let (http, http2) = (http.clone(), http2.clone());
                let (transport, stopped) = (transport.clone(), stopped.clone());
                let service = service.clone();
                drop(tokio::spawn(async move {
                    match timeout(limits.head_max, transport.begin(stream)).await {
                        Ok(Ok(stream)) => {
                            let (activity, certificate) = (Activity::new(), T::certificate(&stream));
                            let is_http2 = T::is_http2(&stream);
                            let watched = Watched { service, activity: activity.clone(), peer, certificate };
                            let socket = Socket::new(stream, place, activity.clone());
                            let attended = Attended { activity, limits, stopped };
                            if is_http2 {
                                let connection = http2.serve_connection(TokioIo::new(socket), watched);
                                attended.attend(connection, Connection::graceful_shutdown).await;
                            } else {
                                let connection = http.serve_connection_with_upgrades(TokioIo::new(socket), watched);
                                attended.attend(connection, UpgradeableConnection::graceful_shutdown).await;
                            }
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a connection could not be secured"),
                        Err(_) => tracing::debug!("a client took too long to secure its connection"),
                    }
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, stopped));
    let _ = stopping.send(());
    stopping.closed().await;
}

fn http(limits: &Limits) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_max)
        .max_buf_size(limits.head_bytes_max.max(8 << 10));
    #[cfg(feature = "http2")]
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(u32::try_from(limits.head_bytes_max).unwrap_or(u32::MAX))
        // This finds a peer that has disappeared without closing the connection, even while it waits for an answer.
        .keep_alive_interval(limits.head_max)
        .keep_alive_timeout(limits.head_max);
    http
}

/// For clients that have agreed on HTTP/2: whatever else they send is not answered as HTTP/1.1.
fn http2(limits: &Limits) -> Builder<TokioExecutor> {
    let http = http(limits);
    #[cfg(feature = "http2")]
    let http = http.http2_only();
    http
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.expect("it is never closed");
    let (stream, address) = listener.accept().await?;
    // An answer is one small write, which must not wait for more.
    stream.set_nodelay(true)?;
    Ok((stream, address, place))
}

/// A connection, as long as there is one.
struct Attended {
    activity: Activity,
    limits: Limits,
    stopped: watch::Receiver<()>,
}

impl Attended {
    /// Drives `connection` until it ends or is cut. `finish` tells it to end with the requests that are under way.
    async fn attend<C>(mut self, connection: C, finish: fn(Pin<&mut C>))
    where
        C: Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
    {
        let mut connection = pin!(connection);
        // From when it was told that it has been idle.
        let mut told: Option<Instant> = None;
        let mut stopping = false;
        loop {
            let wake = match (self.activity.word(&self.limits), told) {
                (Word::Stuck, _) => return tracing::debug!("a client did not read its answer; its connection is cut"),
                (Word::GoOn(until), _) => until,
                (Word::Idle, Some(told)) if told.elapsed() >= END_MAX => return,
                (Word::Idle, Some(told)) => told + END_MAX,
                (Word::Idle, None) => {
                    finish(connection.as_mut());
                    *told.insert(Instant::now()) + END_MAX
                }
            };
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = &*error, "a connection broke off");
                    }
                    return;
                }
                _ = self.stopped.changed(), if !stopping => {
                    stopping = true;
                    finish(connection.as_mut());
                }
                () = sleep_until(wake) => {}
            }
        }
    }
}
