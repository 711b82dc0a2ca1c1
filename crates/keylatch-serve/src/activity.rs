//! The activity of a connection: whether it is idle, and whether its client reads its answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{ClientCertificate, Limits, Peer};

/// The activity of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    under_way: u64,
    /// When a request was last running.
    idle_since: Instant,
    /// For each answer, when its latest part was handed out, until the next part is requested. This finds an HTTP/2
    /// client that does not read one of its answers.
    unread: HashMap<u64, Instant>,
    /// Since when the socket has accepted no bytes.
    blocked: Option<Instant>,
    next: u64,
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing; look again at this instant.
    GoOn(Instant),
    /// End it: it is idle.
    Idle,
    /// Cut it: its client does not read.
    Stuck,
}

impl Activity {
    pub(crate) fn new() -> Self {
        let state = State { under_way: 0, idle_since: Instant::now(), unread: HashMap::new(), blocked: None, next: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn word(&self, limits: &Limits) -> Word {
        let (state, now) = (self.0.lock(), Instant::now());
        if state.under_way == 0 {
            let end = state.idle_since + limits.head_max;
            // A request may begin before `end`, and that wakes nobody here.
            return if now >= end { Word::Idle } else { Word::GoOn(end.min(now + limits.unread_max)) };
        }
        match state.unread.values().chain(&state.blocked).min() {
            Some(oldest) if now >= *oldest + limits.unread_max => Word::Stuck,
            Some(oldest) => Word::GoOn(*oldest + limits.unread_max),
            None => Word::GoOn(now + limits.unread_max.min(limits.head_max)),
        }
    }

    /// Notes whether the socket accepted the latest write.
    pub(crate) fn wrote(&self, taken: bool) {
        let mut state = self.0.lock();
        if taken {
            state.blocked = None;
        } else {
            state.blocked.get_or_insert_with(Instant::now);
        }
    }

    fn begin(&self) -> UnderWay {
        let mut state = self.0.lock();
        state.under_way += 1;
        state.next += 1;
        UnderWay { activity: self.clone(), number: state.next }
    }
}

/// A running request, until its answer is sent or dropped.
#[derive(Debug)]
struct UnderWay {
    activity: Activity,
    number: u64,
}

impl UnderWay {
    fn asked_for(&self) {
        self.activity.0.lock().unread.remove(&self.number);
    }

    fn handed_out(&self) {
        self.activity.0.lock().unread.insert(self.number, Instant::now());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.activity.0.lock();
        state.unread.remove(&self.number);
        state.under_way -= 1;
        if state.under_way == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// A service that reports its requests to an [`Activity`].
#[derive(Debug, Clone)]
pub(crate) struct Watched<S> {
    pub(crate) service: S,
    pub(crate) activity: Activity,
    pub(crate) peer: Peer,
    pub(crate) certificate: Option<ClientCertificate>,
}

impl<S, B> HyperService<Request<Incoming>> for Watched<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<WatchedBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let under_way = self.activity.begin();
        request.extensions_mut().insert(self.peer);
        if let Some(certificate) = &self.certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let mut service = self.service.clone();
        Box::pin(async move {
            let Ok(()) = std::future::poll_fn(|context| service.poll_ready(context)).await;
            let Ok(response) = service.call(request).await;
            Ok(response.map(|body| WatchedBody { body, under_way }))
        })
    }
}

pin_project! {
    /// The body of an answer that reports its progress to an [`Activity`].
    pub(crate) struct WatchedBody<B> {
        #[pin]
        body: B,
        under_way: UnderWay,
    }
}

impl<B: Body<Data = Bytes>> Body for WatchedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        this.under_way.asked_for();
        let polled = this.body.poll_frame(context);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            this.under_way.handed_out();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a connection may take to close after it was told to, once it is idle.
pub(crate) const END_MAX: Duration = Duration::from_secs(5);
