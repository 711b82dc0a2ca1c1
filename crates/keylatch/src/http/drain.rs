//! The rest of a refused request's body is read and discarded, so that its client sees the refusal.
//!
//! A client that reads only after it has sent everything loses an answer that arrives earlier: the server closes the
//! connection with unread data, TCP resets it, and the client's next write fails. So the answer is sent at once, for
//! clients that read while they send, and the rest of the body is read after it.
//!
//! A layer cannot tell the server how to close a connection, and need not: the connection stays open while the body is
//! being read, and serves the next request when the body has ended. The work that a client can cause is limited:
//! [`AT_ONCE_MAX`] such bodies at a time in the process, each for at most [`TIME_MAX`] and [`BYTES_MAX`], without a
//! pause over [`STALL_MAX`]. Nothing is kept, so the only cost is reading from a socket. If one of these limits is
//! reached, the connection is closed as it would have been without this.
//!
//! HTTP/2 does not need this: the server resets only the one stream, after its answer.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use http::Version;
use http::header::EXPECT;
use http::request::Parts;
use http_body::Body;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::GuardedBody;

/// How long a body is read: nginx's default.
const TIME_MAX: Duration = Duration::from_secs(30);
/// The longest pause meanwhile: nginx's default.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How much of it is read: more than anyone sends by mistake.
const BYTES_MAX: usize = 128 << 20;
/// How many are read at once in this process.
const AT_ONCE_MAX: usize = 100;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE_MAX);

/// Reads and discards the rest of the `body` of a refused request.
pub(super) fn drain<B>(parts: &Parts, body: GuardedBody<B>)
where
    B: Body<Data = Bytes> + Send + 'static,
{
    // The body is not read if the client waits for `100 Continue`: reading would make the server send it.
    let held_back = matches!(body, GuardedBody::Inner { .. }) && parts.headers.contains_key(EXPECT);
    if body.is_end_stream() || held_back || parts.version > Version::HTTP_11 {
        return;
    }
    let (Ok(place), Ok(runtime)) = (PLACES.try_acquire(), Handle::try_current()) else { return };
    drop(runtime.spawn(async move {
        let _ = timeout(TIME_MAX, take_in(body)).await;
        drop(place);
    }));
}

async fn take_in<B: Body<Data = Bytes>>(body: GuardedBody<B>) {
    let (mut rest, mut taken) = (Box::pin(body), 0);
    while let Ok(Some(Ok(frame))) = timeout(STALL_MAX, poll_fn(|context| rest.as_mut().poll_frame(context))).await {
        taken += frame.data_ref().map_or(0, Bytes::len);
        if taken > BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use futures_util::stream;
    use http::{HeaderValue, Request};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::time::{Instant, sleep};

    use super::*;

    const MEBIBYTE: usize = 1 << 20;

    /// For how long, and how many times, a body without an end is read that brings this many bytes after such pauses.
    /// The clock jumps whenever nothing else is to do.
    async fn taken(parts: &Parts, pause: Duration, bytes: usize) -> (Duration, usize) {
        let (started, read) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
        let frames = stream::unfold(read.clone(), move |read| async move {
            sleep(pause).await;
            read.fetch_add(1, Ordering::Relaxed);
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; bytes]))), read))
        });
        drain(parts, GuardedBody::Inner { body: StreamBody::new(Box::pin(frames)) });
        // It is dropped when nobody reads it any more.
        while Arc::strong_count(&read) > 1 {
            sleep(Duration::from_millis(1)).await;
        }
        (started.elapsed(), read.load(Ordering::Relaxed))
    }

    /// One test for all, because the number of places in the process is limited.
    #[tokio::test(start_paused = true)]
    async fn what_a_refused_client_can_make_of_it_is_bounded() {
        let (mut parts, ()) = Request::new(()).into_parts();
        let soon = |took: Duration, end: Duration| took >= end && took < end + Duration::from_millis(10);
        let (took, read) = taken(&parts, STALL_MAX * 2, 1).await;
        assert!(soon(took, STALL_MAX) && read == 0, "silent: {took:?}");
        let (took, read) = taken(&parts, Duration::from_secs(1), 1).await;
        assert!(soon(took, TIME_MAX) && read >= 29, "slow: {took:?}, {read}");
        let (_, read) = taken(&parts, Duration::ZERO, MEBIBYTE).await;
        assert_eq!(read, BYTES_MAX / MEBIBYTE + 1, "long");
        let all = join_all((0..AT_ONCE_MAX + 10).map(|_| taken(&parts, Duration::from_secs(1), 1))).await;
        assert_eq!(all.iter().filter(|(_, read)| *read > 0).count(), AT_ONCE_MAX);
        assert!(taken(&parts, Duration::from_secs(1), 1).await.1 > 0, "there is room again");
        parts.headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
        assert_eq!(taken(&parts, Duration::ZERO, 1).await.1, 0, "it waits to be told");
        parts.headers.clear();
        parts.version = Version::HTTP_2;
        assert_eq!(taken(&parts, Duration::ZERO, 1).await.1, 0, "HTTP/2");
    }
}
