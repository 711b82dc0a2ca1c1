//! The socket of a connection, with its permit.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::activity::Activity;

pin_project! {
    /// A socket that gives its place back when it is closed, whoever has it by then, and says whether it takes what is
    /// written.
    pub(crate) struct Socket<T>
    where
        T: AsyncWrite,
    {
        #[pin]
        stream: T,
        place: OwnedSemaphorePermit,
        activity: Activity,
    }

    impl<T: AsyncWrite> PinnedDrop for Socket<T> {
        // A connection that is given up may not have been shut down. Without this, its client could not tell by TLS whether
        // it was, or whether somebody has cut it.
        fn drop(this: Pin<&mut Self>) {
            let _ = this.project().stream.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<T: AsyncWrite> Socket<T> {
    pub(crate) fn new(stream: T, place: OwnedSemaphorePermit, activity: Activity) -> Self {
        Self { stream, place, activity }
    }
}

impl<T: AsyncRead + AsyncWrite> AsyncRead for Socket<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_read(context, buffer)
    }
}

impl<T: AsyncWrite> AsyncWrite for Socket<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write(context, bytes);
        this.activity.wrote(written.is_ready());
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().stream.poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let written = this.stream.poll_write_vectored(context, parts);
        this.activity.wrote(written.is_ready());
        written
    }
}
