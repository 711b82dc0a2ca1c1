//! Room for the bodies of guarded requests, which are in memory from when they come until they are answered.
//!
//! The size of one body is limited by its route. Without a limit for all of them together, as many clients as may connect
//! could fill the memory.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

/// Room for so many bytes. A clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Bytewise>);

#[derive(Debug)]
struct Bytewise {
    bytes_max: usize,
    taken: AtomicUsize,
}

/// What one request has of the room, until whoever holds its body drops this. In the extensions of the request.
#[derive(Debug, Clone)]
pub(crate) struct Share(Arc<Held>);

#[derive(Debug)]
struct Held {
    room: Room,
    bytes: AtomicUsize,
    /// Its body is not in memory: it passes.
    passes: AtomicBool,
    refused: AtomicBool,
}

pin_project! {
    /// The body of a request as it comes from its client, as far as there is room for it.
    pub(crate) struct Arriving {
        #[pin]
        body: Incoming,
        share: Share,
        // How much was read without being held.
        discarded: usize,
    }
}

/// So much of a body for which there is no room is read all the same: a client that sends everything before it reads would
/// otherwise find its connection broken, and no answer.
const DISCARDED_MAX: usize = 1 << 20;

/// There is no room for more of a body.
#[derive(Debug, thiserror::Error)]
#[error("too many bodies of guarded requests are in memory")]
pub(crate) struct NoRoom;

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Bytewise { bytes_max, taken: AtomicUsize::new(0) }))
    }

    /// A share of it for one request, with nothing in it yet.
    pub(crate) fn share(&self) -> Share {
        let (passes, refused) = (AtomicBool::new(false), AtomicBool::new(false));
        Share(Arc::new(Held { room: self.clone(), bytes: AtomicUsize::new(0), passes, refused }))
    }
}

impl Share {
    /// Takes room for so many bytes more.
    fn take(&self, bytes: usize) -> Result<(), NoRoom> {
        let Held { room, bytes: own, passes, refused } = &*self.0;
        if passes.load(Ordering::Relaxed) {
            return Ok(());
        }
        if room.0.taken.fetch_add(bytes, Ordering::Relaxed) + bytes > room.0.bytes_max {
            room.0.taken.fetch_sub(bytes, Ordering::Relaxed);
            refused.store(true, Ordering::Relaxed);
            return Err(NoRoom);
        }
        own.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// From now on the body passes, or nobody holds it: gives back what was taken.
    pub(crate) fn pass(&self) {
        self.0.passes.store(true, Ordering::Relaxed);
        self.0.give_back();
    }

    /// Whether there was no room for all of the body.
    pub(crate) fn was_refused(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl Held {
    fn give_back(&self) {
        self.room.0.taken.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Arriving {
    pub(crate) fn new(body: Incoming, share: Share) -> Self {
        Self { body, share, discarded: 0 }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        loop {
            let Some(frame) = ready!(this.body.as_mut().poll_frame(context)).transpose()? else {
                let ended = if this.share.was_refused() { Some(Err(NoRoom.into())) } else { None };
                return Poll::Ready(ended);
            };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if !this.share.was_refused() && this.share.take(bytes).is_ok() {
                return Poll::Ready(Some(Ok(frame)));
            }
            *this.discarded += bytes;
            if *this.discarded > DISCARDED_MAX {
                return Poll::Ready(Some(Err(NoRoom.into())));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_much_and_it_comes_back() {
        let room = Room::new(10);
        let (one, other) = (room.share(), room.share());
        assert!(one.take(6).is_ok() && other.take(4).is_ok());
        assert!(one.take(1).is_err() && one.was_refused() && !other.was_refused());
        let held_elsewhere = other.clone();
        drop(other);
        assert!(one.take(1).is_err(), "whoever holds the body still holds it");
        drop(held_elsewhere);
        assert!(one.take(4).is_ok());
        one.pass();
        assert!(one.take(1_000).is_ok(), "what passes takes no room");
        let next = room.share();
        assert!(next.take(10).is_ok() && next.take(1).is_err());
    }
}
