//! Connections to the upstream, and what is known of a request that got no answer.
//!
//! A request is sent once. It goes on another connection only if hyper hands it back, which says that not a byte of it was
//! written. Everything else that goes wrong once it is on a connection counts as sent: the upstream may have it.

mod connect;

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::connect::Connector;
use crate::outgoing::{Outgoing, Progress};
use crate::upstream::Upstream;

/// Connections to the upstream. A clone is the same.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connector: Connector,
    times: Times,
    /// Those without a request, the latest last.
    idle: Mutex<Vec<Idle>>,
    /// Places for requests. There are never more connections than these.
    places: Arc<Semaphore>,
}

struct Idle {
    sender: Sender,
    since: Instant,
}

type Sender = http1::SendRequest<Outgoing>;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// A place and a connection.
    pub(crate) connect_max: Duration,
    /// The upstream's silence, before the head of its answer.
    pub(crate) silence_max: Duration,
    /// A connection without a request.
    pub(crate) idle_max: Duration,
}

/// A request that got no head of an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing of it was sent.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// It was sent, or a part of it.
    #[error("it was sent: {0}")]
    Sent(hyper::Error),
    /// It was sent, or a part of it, and the upstream was silent for too long.
    #[error("it was sent, and the upstream was silent for too long")]
    TimedOut,
}

/// What an answer under way has of the pool. Its connection can be used again once the answer was read to its end; it is
/// closed if this is dropped before.
pub(crate) struct Lent {
    pool: Weak<Inner>,
    sender: Sender,
    place: OwnedSemaphorePermit,
}

/// How often a request is put on another connection, after it was handed back unsent.
const TRIES_MAX: usize = 3;

impl Pool {
    /// A pool for at most `requests_max` requests at once.
    pub(crate) fn new(upstream: Upstream, times: Times, requests_max: usize) -> Self {
        let inner = Arc::new(Inner {
            connector: Connector::new(upstream),
            times,
            idle: Mutex::default(),
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
        let place = timeout(times.connect_max, places.clone().acquire_owned()).await;
        let place = place.map_err(|_| Failure::NotSent("too many requests are with the upstream".to_owned()))?;
        let place = place.expect("it is never closed");
        let mut why = String::new();
        for _ in 0..TRIES_MAX {
            let mut sender = match self.0.take_idle() {
                Some(sender) => sender,
                None => match timeout(times.connect_max, connector.connect()).await {
                    Ok(connected) => connected.map_err(|error| Failure::NotSent(error.to_string()))?,
                    Err(_) => return Err(Failure::NotSent("the upstream took too long to connect".to_owned())),
                },
            };
            let answered = tokio::select! {
                answered = sender.try_send_request(request) => answered,
                never = silence(progress, times.silence_max) => match never? {},
            };
            match answered {
                Ok(response) => {
                    let lent = Lent { pool: Arc::downgrade(&self.0), sender, place };
                    return Ok((response, lent));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => (request, why) = (unsent, error.into_error().to_string()),
                    None => return Err(Failure::Sent(error.into_error())),
                },
            }
        }
        Err(Failure::NotSent(why))
    }
}

/// Ends when the upstream has said nothing, and taken nothing of the request's body, for `silence_max`.
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
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, since }) = idle.pop() {
            if since.elapsed() >= self.times.idle_max {
                // So have all before it.
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }
}

/// Closes connections that have been idle for their time.
async fn close_idle(pool: Weak<Inner>) {
    while let Some(inner) = pool.upgrade() {
        let idle_max = inner.times.idle_max;
        inner.idle.lock().retain(|idle| idle.since.elapsed() < idle_max && !idle.sender.is_closed());
        drop(inner);
        sleep(idle_max.max(Duration::from_millis(10))).await;
    }
}

impl Lent {
    /// The answer was read to its end: its connection can be used again.
    pub(crate) fn give_back(self) {
        let Self { pool, mut sender, place } = self;
        if sender.is_ready() {
            put_back(&pool, sender);
            return;
        }
        // The connection has to notice the end, too.
        drop(tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                put_back(&pool, sender);
            }
            drop(place);
        }));
    }
}

fn put_back(pool: &Weak<Inner>, sender: Sender) {
    if let Some(pool) = pool.upgrade()
        && !pool.times.idle_max.is_zero()
    {
        pool.idle.lock().push(Idle { sender, since: Instant::now() });
    }
}
