//! Bodies: read within a limit, handed on whole, or passed through as they stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

pin_project! {
    /// A body that is whole in memory, or another's that streams through.
    ///
    /// A request that Keylatch guards reaches its handler whole; all other bodies pass untouched.
    #[project = Project]
    #[derive(Debug)]
    #[expect(missing_docs, reason = "the variants are private to this crate in effect: no constructor is public")]
    #[non_exhaustive]
    pub enum GuardedBody<B> {
        /// All of it, until it is taken.
        Whole { bytes: Option<Bytes> },
        /// Another's, as it is.
        Inner { #[pin] body: B },
        /// What was read of another's, and then the rest of it.
        Partly { part: Part<B> },
    }
}

/// What was read of a body, and the rest.
#[derive(Debug)]
pub struct Part<B> {
    read: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Pin<Box<B>>,
}

impl<B> GuardedBody<B> {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project() {
            Project::Whole { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Project::Inner { body } => body.poll_frame(context),
            Project::Partly { part } => {
                if let Some(bytes) = part.read.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                match part.trailers.take() {
                    Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    None => part.rest.as_mut().poll_frame(context),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes } => bytes.is_none(),
            Self::Inner { body } => body.is_end_stream(),
            Self::Partly { part } => part.read.is_empty() && part.trailers.is_none() && part.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Inner { body } => body.size_hint(),
            Self::Partly { part } => {
                let read: u64 = part.read.iter().map(|bytes| bytes.len() as u64).sum();
                let rest = part.rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

/// How long a body may take to come to its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// As long as it takes.
    Endless,
    /// Until then.
    Until(Instant),
    /// No time at all: only what is there already.
    None,
}

/// What came of reading a body.
pub(super) enum Collected<B> {
    /// All of it.
    Whole(Bytes),
    /// It did not end within the limit or the time, or ended with trailers. Nothing of it is lost. If the end was
    /// seen all the same, its digest is known.
    Unfinished(GuardedBody<B>, Option<[u8; 32]>),
}

/// Reads `body` to its end, up to `bytes_max` bytes, as patiently as `patience` says.
pub(super) async fn collect<B>(body: B, bytes_max: usize, patience: Patience) -> Result<Collected<B>, B::Error>
where
    B: Body<Data = Bytes>,
{
    if body.is_end_stream() {
        return Ok(Collected::Whole(Bytes::new()));
    }
    let mut part = Part { read: VecDeque::new(), trailers: None, rest: Box::pin(body) };
    let mut bytes = 0;
    loop {
        let Some(frame) = next(part.rest.as_mut(), patience).await else { return Ok(part.unfinished()) };
        let Some(frame) = frame.transpose()? else { return Ok(Collected::Whole(part.concat(bytes))) };
        match frame.into_data() {
            Ok(data) => {
                bytes += data.len();
                part.read.push_back(data);
            }
            Err(frame) => {
                part.trailers = frame.into_trailers().ok();
                return Ok(part.unfinished());
            }
        }
        if bytes > bytes_max {
            return Ok(part.unfinished());
        }
        if part.rest.is_end_stream() {
            return Ok(Collected::Whole(part.concat(bytes)));
        }
    }
}

/// The next frame, or `None` if patience ends before it is there.
async fn next<B: Body>(mut body: Pin<&mut B>, patience: Patience) -> Option<Option<Result<Frame<B::Data>, B::Error>>> {
    let mut frame = poll_fn(|context| body.as_mut().poll_frame(context));
    match patience {
        Patience::Endless => Some(frame.await),
        Patience::Until(deadline) => tokio::time::timeout_at(deadline, frame).await.ok(),
        Patience::None => match futures_util::poll!(&mut frame) {
            Poll::Ready(frame) => Some(frame),
            Poll::Pending => None,
        },
    }
}

impl<B: Body<Data = Bytes>> Part<B> {
    fn concat(mut self, bytes: usize) -> Bytes {
        if self.read.len() <= 1 {
            return self.read.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(bytes);
        self.read.iter().for_each(|bytes| whole.extend_from_slice(bytes));
        whole.freeze()
    }

    fn unfinished(self) -> Collected<B> {
        let seen_whole = self.trailers.is_none() && self.rest.is_end_stream();
        let digest = seen_whole.then(|| {
            let mut hash = Sha256::new();
            self.read.iter().for_each(|bytes| hash.update(bytes));
            hash.finalize().into()
        });
        Collected::Unfinished(GuardedBody::Partly { part: self }, digest)
    }
}
