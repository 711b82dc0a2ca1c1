//! The rest of an answer whose client has gone.
//!
//! An answer that streams is recorded as having taken effect before its first byte is sent. What it does while it
//! streams is part of that effect. So when the client hangs up, the rest is read to its end and discarded, just as a
//! handler runs to its end without its client.
//!
//! Not every stream has an end. So this is limited: [`AT_ONCE_MAX`] such answers at a time in the process, each for
//! [`TIME_MAX`]. A process that dies cuts a stream off, like everything else that comes after a record is written.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long an answer may take to end once its client has gone.
const TIME_MAX: Duration = Duration::from_secs(60);
/// How many are read at once in this process.
const AT_ONCE_MAX: usize = 1_000;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_MAX);

/// The part of a body that was not read when the body was passed on.
pub struct Rest<B> {
    body: Option<Pin<Box<B>>>,
    /// Reads it to its end when nobody else does; `None` if it may be dropped.
    finish: Option<fn(Pin<Box<B>>)>,
}

impl<B> Rest<B> {
    pub(super) fn new(body: Pin<Box<B>>) -> Self {
        Self { body: Some(body), finish: None }
    }
}

impl<B: Body<Data = Bytes>> Rest<B> {
    /// Reads it to its end if it is dropped before.
    pub(super) fn must_end(&mut self)
    where
        B: Send + 'static,
    {
        self.finish = Some(finish);
    }

    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        // Taken out while it is polled, so that a body that panics is not polled again.
        let finish = self.finish.take();
        let polled = body.as_mut().poll_frame(context);
        if !matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.finish = finish;
        }
        polled
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint())
    }
}

impl<B> Drop for Rest<B> {
    fn drop(&mut self) {
        if let (Some(finish), Some(body)) = (self.finish.take(), self.body.take()) {
            finish(body);
        }
    }
}

impl<B> fmt::Debug for Rest<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rest")
    }
}

/// Reads what is left of `body`, in a task of its own.
fn finish<B>(mut body: Pin<Box<B>>)
where
    B: Body<Data = Bytes> + Send + 'static,
{
    if body.is_end_stream() {
        return;
    }
    let (Ok(place), Ok(runtime)) = (PLACES.try_acquire(), Handle::try_current()) else {
        tracing::warn!(
            "an answer was cut off although its request is recorded as having taken effect: the clients of too many \
             answers have hung up"
        );
        return;
    };
    drop(runtime.spawn(async move {
        let ended = async { while let Some(Ok(_)) = poll_fn(|context| body.as_mut().poll_frame(context)).await {} };
        if timeout(TIME_MAX, ended).await.is_err() {
            tracing::warn!(
                "an answer was cut off although its request is recorded as having taken effect: it did \
                 not end in time"
            );
        }
        drop(place);
    }));
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;
    use http_body_util::StreamBody;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A body that has no end, and counts its frames: one a second.
    fn endless() -> (Rest<impl Body<Data = Bytes> + Send + 'static>, Arc<AtomicUsize>) {
        let frames = Arc::new(AtomicUsize::new(0));
        let body = stream::unfold(frames.clone(), |frames| async {
            sleep(Duration::from_secs(1)).await;
            frames.fetch_add(1, Ordering::Relaxed);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"."))), frames))
        });
        (Rest::new(Box::pin(StreamBody::new(Box::pin(body)))), frames)
    }

    /// One test for all, because the number of places in a process is limited. The clock jumps whenever nothing else is
    /// to do.
    #[tokio::test(start_paused = true)]
    async fn what_is_read_for_those_who_have_gone_is_bounded() {
        let (rest, frames) = endless();
        drop(rest);
        assert_eq!(Arc::strong_count(&frames), 1, "nobody reads what may be dropped");

        let started = Instant::now();
        let all: Vec<_> = (0..AT_ONCE_MAX + 10)
            .map(|_| {
                let (mut rest, frames) = endless();
                rest.must_end();
                frames
            })
            .collect();
        assert_eq!(all.iter().filter(|frames| Arc::strong_count(frames) > 1).count(), AT_ONCE_MAX);
        while all.iter().any(|frames| Arc::strong_count(frames) > 1) {
            sleep(Duration::from_millis(100)).await;
        }
        assert!(started.elapsed() >= TIME_MAX && started.elapsed() < TIME_MAX + Duration::from_secs(1));
        assert!(all[0].load(Ordering::Relaxed) >= 59);
        let (mut rest, frames) = endless();
        rest.must_end();
        drop(rest);
        assert!(Arc::strong_count(&frames) > 1, "there is room again");
    }
}
