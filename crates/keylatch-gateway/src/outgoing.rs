//! The body of a request on its way to the upstream.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use keylatch::http::GuardedBody;
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::room::Arriving;

pin_project! {
    /// A request's body on its way to the upstream.
    pub(crate) struct Outgoing {
        #[pin]
        body: GuardedBody<Arriving>,
        silence_max: Option<Duration>,
        silence: Option<Pin<Box<Sleep>>>,
        progress: Progress,
    }
}

/// How far a request's body has been sent.
#[derive(Debug, Clone)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    moved: Instant,
    broke: Option<Broke>,
}

/// Why a request's body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broke {
    /// The client sent nothing for too long.
    Silent,
    /// The client's connection broke.
    Off,
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State { moved: Instant::now(), broke: None })))
    }

    /// When a part of it was last taken.
    pub(crate) fn moved(&self) -> Instant {
        self.0.lock().moved
    }

    /// Why it ended early, if it did.
    pub(crate) fn broke(&self) -> Option<Broke> {
        self.0.lock().broke
    }
}

impl Outgoing {
    /// `body`, of which something must come every `silence_max`.
    pub(crate) fn new(body: GuardedBody<Arriving>, silence_max: Option<Duration>) -> (Self, Progress) {
        let progress = Progress::new();
        (Self { body, silence_max, silence: None, progress: progress.clone() }, progress)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            *this.silence = None;
            let mut state = this.progress.0.lock();
            state.moved = Instant::now();
            return Poll::Ready(frame.map(|frame| frame.inspect_err(|_| state.broke = Some(Broke::Off))));
        }
        let Some(silence_max) = *this.silence_max else { return Poll::Pending };
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(silence_max)));
        silence.as_mut().poll(context).map(|()| {
            this.progress.0.lock().broke = Some(Broke::Silent);
            Some(Err("the client sent nothing for too long".into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
