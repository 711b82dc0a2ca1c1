//! HTTP/2 connections, each shared by many requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Http2;

/// How many requests share a connection: as many as every server should allow ([RFC 9113, section
/// 6.5.2](https://www.rfc-editor.org/rfc/rfc9113#section-6.5.2)). If a server allows fewer, the others wait.
const STREAMS_MAX: usize = 100;

/// The open HTTP/2 connections.
#[derive(Default)]
pub(super) struct Shared(Mutex<Vec<One>>);

struct One {
    sender: Http2,
    usage: Arc<Usage>,
}

/// The use of a connection.
struct Usage {
    streams: AtomicUsize,
    ended: Mutex<Instant>,
}

/// A request on a connection, until its answer has been read or dropped.
pub(super) struct Stream(Arc<Usage>);

impl Shared {
    /// A connection that can take another request. Drops connections that have not been used for `idle_max`.
    pub(super) fn take(&self, idle_max: Duration) -> Option<(Http2, Stream)> {
        let mut all = self.0.lock();
        all.retain(|one| !one.sender.is_closed() && !one.usage.is_idle_for(idle_max));
        let free =
            all.iter().find(|one| one.sender.is_ready() && one.usage.streams.load(Ordering::Relaxed) < STREAMS_MAX)?;
        Some((free.sender.clone(), Stream::new(&free.usage)))
    }

    /// Adds a new connection, with one request on it.
    pub(super) fn add(&self, sender: Http2) -> (Http2, Stream) {
        let usage = Arc::new(Usage { streams: AtomicUsize::new(0), ended: Mutex::new(Instant::now()) });
        let stream = Stream::new(&usage);
        self.0.lock().push(One { sender: sender.clone(), usage });
        (sender, stream)
    }

    /// Drops connections that have not been used for `idle_max`.
    pub(super) fn drop_idle(&self, idle_max: Duration) {
        self.0.lock().retain(|one| !one.sender.is_closed() && !one.usage.is_idle_for(idle_max));
    }
}

impl Usage {
    fn is_idle_for(&self, idle_max: Duration) -> bool {
        self.streams.load(Ordering::Relaxed) == 0 && self.ended.lock().elapsed() >= idle_max
    }
}

impl Stream {
    fn new(usage: &Arc<Usage>) -> Self {
        usage.streams.fetch_add(1, Ordering::Relaxed);
        Self(usage.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *self.0.ended.lock() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
