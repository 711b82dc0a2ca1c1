//! The upstream's answer, and how much of it is read before it is passed on.
//!
//! The answer to a guarded request is read to its end first, if it is small enough to be kept. So an answer that breaks
//! off becomes a 502 or a 504, and not a 200 with half a body.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::pool::Lent;

pin_project! {
    /// The body of an answer: what was read ahead, then the rest.
    pub(crate) struct Answer {
        read: Bytes,
        #[pin]
        rest: Option<FromUpstream>,
        trailers: Option<HeaderMap>,
    }
}

pin_project! {
    /// A body as it arrives from the upstream.
    pub(crate) struct FromUpstream {
        #[pin]
        body: Incoming,
        lent: Option<Lent>,
        silence_max: Option<Duration>,
        silence: Option<Pin<Box<Sleep>>>,
    }
}

/// The body of an answer ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokeOff {
    /// The upstream was silent for too long.
    #[error("the upstream fell silent within its answer")]
    Silent,
    /// The connection broke.
    #[error("the upstream's answer broke off: {0}")]
    Off(#[from] hyper::Error),
}

/// How much of an answer is read ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) bytes_max: usize,
    /// How long to wait for the end of an answer of unknown length.
    pub(crate) end_max: Duration,
}

impl FromUpstream {
    /// Passes on `body`. It holds `lent` until its end, and may be silent for `silence_max` at a time.
    pub(crate) fn new(body: Incoming, lent: Lent, silence_max: Option<Duration>) -> Self {
        let mut lent = Some(lent);
        if body.is_end_stream()
            && let Some(lent) = lent.take()
        {
            lent.give_back();
        }
        Self { body, lent, silence_max, silence: None }
    }
}

impl Body for FromUpstream {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.body.as_mut().poll_frame(context) {
            *this.silence = None;
            let ended = frame.is_none() || this.body.is_end_stream();
            if !matches!(frame, Some(Err(_)))
                && ended
                && let Some(lent) = this.lent.take()
            {
                lent.give_back();
            }
            return Poll::Ready(frame.map(|frame| Ok(frame?)));
        }
        let Some(silence_max) = *this.silence_max else { return Poll::Pending };
        let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(silence_max)));
        silence.as_mut().poll(context).map(|()| Some(Err(BrokeOff::Silent)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Answer {
    /// A complete answer.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { read: bytes, rest: None, trailers: None }
    }

    /// An answer that is passed on as it arrives.
    pub(crate) fn streamed(body: FromUpstream) -> Self {
        Self { read: Bytes::new(), rest: Some(body), trailers: None }
    }

    /// Reads ahead as far as `ahead` allows.
    ///
    /// # Errors
    ///
    /// If the body breaks off before that.
    pub(crate) async fn read_ahead(mut body: FromUpstream, ahead: Ahead) -> Result<Self, BrokeOff> {
        let hint = body.size_hint();
        if hint.lower() > ahead.bytes_max as u64 {
            return Ok(Self::streamed(body));
        }
        // A body of known length is not a stream: the gateway waits for its end as long as the upstream keeps sending.
        let deadline = if hint.exact().is_some() { None } else { Instant::now().checked_add(ahead.end_max) };
        let (mut read, mut trailers) = (Vec::<Bytes>::new(), None);
        let mut bytes = 0;
        while bytes <= ahead.bytes_max {
            let frame = match deadline {
                None => body.frame().await,
                Some(deadline) => match timeout_at(deadline, body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => break,
                },
            };
            let Some(frame) = frame.transpose()? else {
                return Ok(Self { read: joined(read), rest: None, trailers });
            };
            match frame.into_data() {
                Ok(data) => {
                    bytes += data.len();
                    read.push(data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Self { read: joined(read), rest: Some(body), trailers })
    }
}

/// All parts in memory of their own: each is a part of a larger buffer, and the whole may be kept for long. One that is large
/// itself is not worth a copy.
fn joined(mut parts: Vec<Bytes>) -> Bytes {
    const LARGE_BYTES: usize = 64 << 10;
    if let [part] = &parts[..]
        && part.len() >= LARGE_BYTES
    {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all.freeze()
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        if this.read.has_remaining() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(this.read)))));
        }
        if let Some(rest) = this.rest.as_mut().as_pin_mut()
            && let Some(frame) = ready!(rest.poll_frame(context))
        {
            return Poll::Ready(Some(Ok(frame?)));
        }
        this.rest.set(None);
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.trailers.is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        if self.trailers.is_some() {
            // In HTTP/1.1 a body with a known length cannot have trailers.
            let mut hint = SizeHint::new();
            hint.set_lower(read);
            return hint;
        }
        let Some(rest) = &self.rest else { return SizeHint::with_exact(read) };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}
