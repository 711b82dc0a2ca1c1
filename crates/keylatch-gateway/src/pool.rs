//! Connections to the upstream, and what is known of a request without an answer.
//!
//! A request is sent once. It goes to another connection only if hyper returns it, which means that none of its bytes
//! were written. Any other failure on a connection counts as sent: the upstream may have the request. The only
//! exception is in HTTP/2, where an upstream can say that it has not processed a request.

mod connect;
mod shared;

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{HOST, TE, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::connect::Connected;
pub(crate) use self::connect::Connector;
use self::shared::{Shared, Stream};
use crate::front::TakesTrailers;
use crate::outgoing::{Outgoing, Progress};

/// Connections to the upstream. Clones share them.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connector: Connector,
    times: Times,
    /// Unused HTTP/1.1 connections, the latest last.
    idle: Mutex<Vec<Idle>>,
    /// HTTP/2 connections.
    shared: Shared,
    /// Held while making a connection that others may share.
    connecting: tokio::sync::Mutex<()>,
    /// Whether the upstream has chosen HTTP/1.1 in TLS.
    chose_http1: AtomicBool,
    /// Permits for requests. There are never more connections than permits.
    places: Arc<Semaphore>,
}

struct Idle {
    sender: Http1,
    since: Instant,
}

type Http1 = http1::SendRequest<Outgoing>;
type Http2 = http2::SendRequest<Outgoing>;

enum Sender {
    Http1(Http1),
    Http2 {
        sender: Http2,
        /// Its place among the streams of the connection.
        _stream: Stream,
    },
}

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For a permit, and for a connection.
    pub(crate) connect_max: Duration,
    /// For the upstream's silence before the head of its answer.
    pub(crate) silence_max: Duration,
    /// For a connection without a request.
    pub(crate) idle_max: Duration,
}

/// How long an HTTP/2 connection may be silent before it is pinged, and how long the reply may take.
const SIGN_OF_LIFE_MAX: Duration = Duration::from_secs(10);

/// Why a request got no head of an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// None of it was sent, or the upstream says that it has not processed it.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// All or a part of it was sent.
    #[error("it was sent: {0}")]
    Sent(hyper::Error),
    /// All or a part of it was sent, and the upstream was silent for too long.
    #[error("it was sent, and the upstream was silent for too long")]
    TimedOut,
}

/// What an answer holds of the pool until its end. After that its connection can be used again. If this is dropped
/// earlier, an HTTP/1.1 connection is closed.
pub(crate) struct Lent {
    pool: Weak<Inner>,
    sender: Sender,
    place: OwnedSemaphorePermit,
}

/// How many connections are tried for a request that is returned unsent.
const TRIES_MAX: usize = 3;

impl Pool {
    /// A pool for at most `requests_max` requests at once.
    pub(crate) fn new(connector: Connector, times: Times, requests_max: usize) -> Self {
        let inner = Arc::new(Inner {
            connector,
            times,
            idle: Mutex::default(),
            shared: Shared::default(),
            connecting: tokio::sync::Mutex::default(),
            chose_http1: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS))),
        });
        drop(tokio::spawn(close_idle(Arc::downgrade(&inner))));
        Self(inner)
    }

    /// Sends `request`, and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        mut request: Request<Outgoing>,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Lent), Failure> {
        let Inner { connector, times, places, .. } = &*self.0;
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => self.0.wait_for_place().await?,
        };
        let mut why = String::new();
        for _ in 0..TRIES_MAX {
            let mut sender = match self.0.take_idle() {
                Some(idle) => Sender::Http1(idle),
                // Boxed, because it is rare in HTTP/1.1 and large.
                None => Box::pin(self.0.wait_for_sender()).await?,
            };
            sender.write_target(&mut request, connector.scheme());
            let answered = tokio::select! {
                answered = sender.try_send(request) => answered,
                never = silence(progress, times.silence_max) => match never? {},
            };
            match answered {
                Ok(response) => {
                    let lent = Lent { pool: Arc::downgrade(&self.0), sender, place };
                    return Ok((response, lent));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => (request, why) = (unsent, error.into_error().to_string()),
                    None => return Err(failure(error.into_error())),
                },
            }
        }
        Err(Failure::NotSent(why))
    }
}

/// What is known of a request that hyper has not returned.
fn failure(error: hyper::Error) -> Failure {
    let http2 = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    match http2 {
        // In both cases the upstream says that it has not processed the request (RFC 9113, section 8.7). h2 reports a
        // GOAWAY of the upstream only on streams above the last one that it names, and on streams that were not opened.
        Some(error) if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            Failure::NotSent("the upstream refused the stream".to_owned())
        }
        Some(error) if error.is_remote() && error.is_go_away() => {
            Failure::NotSent("the upstream is going away".to_owned())
        }
        _ => Failure::Sent(error),
    }
}

/// Ends once the upstream has sent nothing, and taken nothing of the request's body, for `silence_max`.
async fn silence(progress: &Progress, silence_max: Duration) -> Result<Infallible, Failure> {
    loop {
        let Some(end) = progress.moved().checked_add(silence_max) else { return pending().await };
        if Instant::now() >= end {
            return Err(Failure::TimedOut);
        }
        sleep_until(end).await;
    }
}

impl Inner {
    async fn wait_for_place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let place = timeout(self.times.connect_max, self.places.clone().acquire_owned()).await;
        let place = place.map_err(|_| Failure::NotSent("too many requests are with the upstream".to_owned()))?;
        Ok(place.expect("it is never closed"))
    }

    async fn wait_for_sender(&self) -> Result<Sender, Failure> {
        match timeout(self.times.connect_max, self.sender()).await {
            Ok(sender) => sender.map_err(|error| Failure::NotSent(error.to_string())),
            Err(_) => Err(Failure::NotSent("the upstream took too long to connect".to_owned())),
        }
    }

    /// A connection for one request, if no HTTP/1.1 connection is idle: an HTTP/2 connection, or a new one.
    async fn sender(&self) -> Result<Sender, connect::Error> {
        if !self.connector.may_be_http2() || self.chose_http1.load(Ordering::Relaxed) {
            return self.connect().await;
        }
        let shared = || self.shared.take(self.times.idle_max).map(Sender::http2);
        if let Some(sender) = shared() {
            return Ok(sender);
        }
        // One task connects, and the others use its connection.
        let _connecting = self.connecting.lock().await;
        match shared() {
            Some(sender) => Ok(sender),
            None => self.connect().await,
        }
    }

    async fn connect(&self) -> Result<Sender, connect::Error> {
        let connected = self.connector.connect().await?;
        self.chose_http1.store(matches!(connected, Connected::Http1(_)), Ordering::Relaxed);
        Ok(match connected {
            Connected::Http1(sender) => Sender::Http1(sender),
            Connected::Http2(sender) => Sender::http2(self.shared.add(sender)),
        })
    }

    fn take_idle(&self) -> Option<Http1> {
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, since }) = idle.pop() {
            if since.elapsed() >= self.times.idle_max {
                // All connections before it have been idle for longer.
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn put_back(&self, sender: Http1) {
        if !self.times.idle_max.is_zero() {
            self.idle.lock().push(Idle { sender, since: Instant::now() });
        }
    }
}

/// Closes connections that have been idle for too long.
async fn close_idle(pool: Weak<Inner>) {
    while let Some(inner) = pool.upgrade() {
        let idle_max = inner.times.idle_max;
        inner.idle.lock().retain(|idle| idle.since.elapsed() < idle_max && !idle.sender.is_closed());
        inner.shared.drop_idle(idle_max);
        drop(inner);
        sleep(idle_max.max(Duration::from_millis(10))).await;
    }
}

impl Sender {
    fn http2((sender, stream): (Http2, Stream)) -> Self {
        Self::Http2 { sender, _stream: stream }
    }

    /// Writes the target in the form that the connection's protocol needs.
    fn write_target(&self, request: &mut Request<Outgoing>, scheme: &str) {
        let path = request.uri().path_and_query().cloned();
        let takes_trailers = request.extensions().get::<TakesTrailers>().is_some();
        let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
        match (self, host) {
            (Self::Http2 { .. }, Some(host)) => {
                let mut uri = Uri::builder().scheme(scheme).authority(host);
                if let Some(path) = path {
                    uri = uri.path_and_query(path);
                }
                *request.uri_mut() = uri.build().expect("all its parts were parsed before");
                request.headers_mut().remove(TRANSFER_ENCODING);
                if takes_trailers {
                    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
                }
            }
            _ => {
                *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
                request.headers_mut().remove(TE);
                if !request.body().is_end_stream() && request.body().size_hint().exact().is_none() {
                    // Otherwise hyper takes a GET for one without a body.
                    request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
            }
        }
    }

    async fn try_send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2 { sender, .. } => sender.try_send_request(request).await,
        }
    }
}

impl Lent {
    /// To be called when the answer has been read to its end: the connection can be used again.
    pub(crate) fn give_back(self) {
        let Self { pool, sender, place } = self;
        let Sender::Http1(mut sender) = sender else { return };
        if sender.is_ready() {
            if let Some(pool) = pool.upgrade() {
                pool.put_back(sender);
            }
            return;
        }
        // The connection itself has to reach the end, too.
        drop(tokio::spawn(async move {
            if sender.ready().await.is_ok()
                && let Some(pool) = pool.upgrade()
            {
                pool.put_back(sender);
            }
            drop(place);
        }));
    }
}
