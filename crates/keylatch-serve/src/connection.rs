//! Connections: taken one by one, each on a task of its own.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower_service::Service;

use crate::Limits;
use crate::activity::{Activity, END_MAX, Watched, Word};
use crate::socket::Socket;

/// Who is at the other end of a request's connection: in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted by TLS.
    pub is_tls: bool,
}

/// The certificate, in DER, that the client has shown, and that the configuration of TLS has verified: in the extensions of
/// each request on its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate(pub Arc<[u8]>);

/// A service that can be served: any clone answers a request, and none fails.
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

/// How long to wait for files when there are none left to accept a connection with.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until `stop`, and ends when the last request on each of them has. A connection that a service has
/// upgraded is the service's, and counts as one of [`Limits::connections_max`] as long as it is open.
pub async fn serve<S, B>(listener: TcpListener, limits: Limits, service: S, stop: impl Future<Output = ()>)
where
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    serve_over(listener, Plain, limits, service, stop).await;
}

/// What is spoken below HTTP.
pub(crate) trait Transport: Clone + Send + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    const IS_TLS: bool;

    /// Begins to speak it on a connection that was taken.
    fn begin(self, stream: TcpStream) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// What the client has shown to be who it is.
    fn certificate(_: &Self::Stream) -> Option<ClientCertificate> {
        None
    }

    /// The version of HTTP on which both sides have agreed; otherwise the first bytes tell which it is.
    fn agreed(_: &Self::Stream) -> Option<Version> {
        None
    }
}

/// Nothing.
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
    let http = Arc::new(Protocols::new(&limits));
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
                let (http, transport, stopped) = (http.clone(), transport.clone(), stopped.clone());
                let service = service.clone();
                drop(tokio::spawn(async move {
                    match timeout(limits.head_max, transport.begin(stream)).await {
                        Ok(Ok(stream)) => {
                            let (activity, certificate) = (Activity::new(), T::certificate(&stream));
                            let http = http.builder(T::agreed(&stream));
                            let watched = Watched { service, activity: activity.clone(), peer, certificate };
                            connection(http, Socket::new(stream, place, activity), limits, watched, stopped).await;
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

/// Speaks HTTP. A client that has agreed on a version gets that version, and nothing that it could take for another.
struct Protocols {
    either: Builder<TokioExecutor>,
    #[cfg(feature = "http2")]
    http1: Builder<TokioExecutor>,
    #[cfg(feature = "http2")]
    http2: Builder<TokioExecutor>,
}

impl Protocols {
    fn new(limits: &Limits) -> Self {
        let either = http(limits);
        Self {
            #[cfg(feature = "http2")]
            http1: either.clone().http1_only(),
            #[cfg(feature = "http2")]
            http2: either.clone().http2_only(),
            either,
        }
    }

    fn builder(&self, agreed: Option<Version>) -> &Builder<TokioExecutor> {
        match agreed {
            #[cfg(feature = "http2")]
            Some(Version::HTTP_2) => &self.http2,
            #[cfg(feature = "http2")]
            Some(_) => &self.http1,
            _ => &self.either,
        }
    }
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
        // A peer that is gone without a word is found by this, also while it waits for an answer.
        .keep_alive_interval(limits.head_max)
        .keep_alive_timeout(limits.head_max);
    http
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.expect("it is never closed");
    let (stream, address) = listener.accept().await?;
    // An answer is one small write, which must not wait for another.
    stream.set_nodelay(true)?;
    Ok((stream, address, place))
}

async fn connection<T, S, B>(
    http: &Builder<TokioExecutor>,
    socket: Socket<T>,
    limits: Limits,
    service: Watched<S>,
    mut stopped: watch::Receiver<()>,
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Served<B>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let activity = service.activity.clone();
    let mut connection = pin!(http.serve_connection_with_upgrades(TokioIo::new(socket), service));
    // From when it was told that it has been idle.
    let mut told: Option<Instant> = None;
    let mut stopping = false;
    loop {
        let wake = match (activity.word(&limits), told) {
            (Word::Stuck, _) => return tracing::debug!("a client did not read its answer; its connection is cut"),
            (Word::GoOn(until), _) => until,
            (Word::Idle, Some(told)) if told.elapsed() >= END_MAX => return,
            (Word::Idle, Some(told)) => told + END_MAX,
            (Word::Idle, None) => {
                connection.as_mut().graceful_shutdown();
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
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = sleep_until(wake) => {}
        }
    }
}
