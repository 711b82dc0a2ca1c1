//! Bodies: read within a limit, passed on complete, or passed through as a stream.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_fn;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::LengthLimitError;
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::headers::clean_answer;
use super::rest::Rest;

pin_project! {
    /// A body that is complete in memory, or a stream from elsewhere.
    ///
    /// The body of a guarded request reaches its handler complete; all other bodies pass through unchanged.
    #[project = Project]
    #[expect(missing_docs, reason = "the variants are private to this crate in effect: no constructor is public")]
    #[non_exhaustive]
    pub enum GuardedBody<B> {
        /// The complete body, until it is taken.
        Whole { bytes: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
        /// A body from elsewhere, unchanged.
        Inner { #[pin] body: B },
        /// The part of a body that was read, and then the rest of it.
        Partly { read: Option<Bytes>, rest: Rest<B> },
    }
}

impl<B> GuardedBody<B> {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::ended(bytes, None)
    }

    pub(super) fn ended(bytes: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), trailers }
    }
}

/// An empty body.
impl<B> Default for GuardedBody<B> {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

impl<B: Body<Data = Bytes> + Send + 'static> GuardedBody<B> {
    /// If the body is dropped before its end, the rest is still read.
    pub(super) fn must_end(&mut self) {
        if let Self::Partly { rest, .. } = self {
            rest.must_end();
        }
    }
}

/// Shows the length of the body, never its content.
impl<B> fmt::Debug for GuardedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        match self {
            Self::Whole { bytes: whole, .. } => write!(f, "Whole({} bytes)", bytes(whole)),
            Self::Inner { .. } => f.write_str("Inner"),
            Self::Partly { read, .. } => write!(f, "Partly({} bytes)", bytes(read)),
        }
    }
}

impl<B: Body<Data = Bytes>> Body for GuardedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = match self.project() {
            Project::Whole { bytes, trailers } => {
                let data = bytes.take().map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(|trailers| Frame::trailers(*trailers))).map(Ok))
            }
            Project::Inner { body } => body.poll_frame(context),
            Project::Partly { read, rest } => match read.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => rest.poll_frame(context),
            },
        };
        frame.map_ok(clean)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            Self::Inner { body } => body.is_end_stream(),
            Self::Partly { read, rest } => read.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let known = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        match self {
            Self::Whole { bytes, trailers: None } => SizeHint::with_exact(known(bytes)),
            Self::Whole { bytes, trailers: Some(_) } => {
                // HTTP/1.1 cannot send trailers after a body with a known length.
                let mut hint = SizeHint::new();
                hint.set_lower(known(bytes));
                hint
            }
            Self::Inner { body } => body.size_hint(),
            Self::Partly { read, rest } => {
                let (read, rest) = (known(read), rest.size_hint());
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

/// Internal headers are removed from trailers, as from heads.
fn clean(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_answer(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// How long a body may take to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// This long, from the first wait for it.
    For(Duration),
    /// Until this instant; `None` for no limit.
    Until(Option<Instant>),
    /// As long as it keeps this pace, counted from the instant, or from the first wait if there is none.
    AtPace(Pace, Option<Instant>),
    /// No time: only what has already arrived.
    None,
}

/// How fast a body must arrive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The longest pause without data.
    pub(super) stall_max: Duration,
    /// How many bytes must arrive in a second, on average, once [`stall_max`](Self::stall_max) is over.
    pub(super) bytes_per_second_min: u32,
}

impl Pace {
    /// Until when more data must arrive, if `read` bytes have arrived since then.
    fn deadline(self, since: Instant, read: usize) -> Option<Instant> {
        let longest = Duration::try_from_secs_f64(read as f64 / f64::from(self.bytes_per_second_min));
        let paced = longest.ok().and_then(|longest| since.checked_add(self.stall_max)?.checked_add(longest));
        [paced, Instant::now().checked_add(self.stall_max)].into_iter().flatten().min()
    }
}

/// The result of reading a body.
pub(super) enum Collected<B> {
    /// The complete body, and its trailers.
    Whole(Bytes, Option<Box<HeaderMap>>),
    /// It is longer than the limit. Nothing of it is lost. If its end was seen anyway, its digest is known.
    TooLong(GuardedBody<B>, Option<[u8; 32]>),
    /// It did not end in time. Nothing of it is lost.
    TooSlow(GuardedBody<B>),
}

/// Reads `body` to its end, up to `bytes_max` bytes, for as long as `wait` says.
pub(super) async fn collect<B>(body: B, bytes_max: usize, mut wait: Wait) -> Result<Collected<B>, B::Error>
where
    B: Body<Data = Bytes>,
{
    if body.is_end_stream() {
        return Ok(Collected::Whole(Bytes::new(), None));
    }
    let mut rest = Box::pin(body);
    let mut read = Read::default();
    loop {
        let Some(frame) = next(rest.as_mut(), &mut wait, read.len()).await else {
            return Ok(Collected::TooSlow(read.then(rest)));
        };
        let Some(frame) = frame.transpose()? else { return Ok(Collected::Whole(read.bytes(), None)) };
        match frame.into_data() {
            Ok(data) => read.push(data),
            Err(frame) => {
                let trailers = frame.into_trailers().ok().map(Box::new);
                return Ok(Collected::Whole(read.bytes(), trailers));
            }
        }
        if read.len() > bytes_max {
            let digest = rest.is_end_stream().then(|| read.digest());
            return Ok(Collected::TooLong(read.then(rest), digest));
        }
        if rest.is_end_stream() {
            return Ok(Collected::Whole(read.bytes(), None));
        }
    }
}

/// Whether a body was cut off by a limit on its length, such as the limit of an outer layer.
pub(super) fn is_over_a_limit(error: &dyn Any) -> bool {
    type Boxed = Box<dyn Error + Send + Sync>;
    let mut cause: Option<&(dyn Error + 'static)> = None;
    if let Some(error) = error.downcast_ref::<LengthLimitError>() {
        cause = Some(error);
    } else if let Some(error) = error.downcast_ref::<Boxed>() {
        cause = Some(&**error);
    }
    #[cfg(feature = "axum")]
    if let Some(error) = error.downcast_ref::<axum_core::Error>() {
        cause = Some(error);
    }
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The next frame after `read` bytes, or `None` if the wait ends before it arrives.
async fn next<B: Body>(
    mut body: Pin<&mut B>,
    wait: &mut Wait,
    read: usize,
) -> Option<Option<Result<Frame<B::Data>, B::Error>>> {
    let mut frame = poll_fn(|context| body.as_mut().poll_frame(context));
    if let Poll::Ready(frame) = futures_util::poll!(&mut frame) {
        return Some(frame);
    }
    if let Wait::For(time) = *wait {
        *wait = Wait::Until(Instant::now().checked_add(time));
    }
    let deadline = match wait {
        Wait::AtPace(pace, since) => pace.deadline(*since.get_or_insert_with(Instant::now), read),
        Wait::Until(deadline) => *deadline,
        Wait::For(_) | Wait::None => return None,
    };
    match deadline {
        None => Some(frame.await),
        // Boxed, because it is large and most frames are ready at once.
        Some(deadline) => Box::pin(tokio::time::timeout_at(deadline, frame)).await.ok(),
    }
}

/// The part of a body that was read. A single frame is kept as it is; several are copied together, because small frames
/// hold far more memory than they have bytes.
#[derive(Default)]
struct Read {
    first: Bytes,
    all: BytesMut,
}

impl Read {
    fn push(&mut self, data: Bytes) {
        if self.len() == 0 {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(self.first.len() + data.len());
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    fn bytes(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.first).chain_update(&self.all).finalize().into()
    }

    /// What was read, and then `rest`.
    fn then<B>(self, rest: Pin<Box<B>>) -> GuardedBody<B> {
        GuardedBody::Partly { read: Some(self.bytes()).filter(|read| !read.is_empty()), rest: Rest::new(rest) }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, Limited};

    use super::*;

    #[tokio::test]
    async fn a_limit_on_the_length_is_told_from_other_errors() {
        let limited = || async { Limited::new(Full::new(Bytes::from_static(b"ab")), 1).collect().await.unwrap_err() };
        let boxed: Box<dyn Error + Send + Sync> = limited().await;
        assert!(is_over_a_limit(&boxed));
        assert!(is_over_a_limit(boxed.downcast_ref::<LengthLimitError>().expect("it is one")));
        let other: Box<dyn Error + Send + Sync> = "the connection broke".into();
        assert!(!is_over_a_limit(&other) && !is_over_a_limit(&std::io::Error::other("it broke")));
        #[cfg(feature = "axum")]
        {
            assert!(is_over_a_limit(&axum_core::Error::new(axum_core::Error::new(limited().await))));
            assert!(!is_over_a_limit(&axum_core::Error::new(other)));
        }
    }
}
