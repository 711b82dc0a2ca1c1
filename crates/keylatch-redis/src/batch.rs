//! Batches of calls to one server.
//!
//! A call that goes alone costs a system call to write it, one to read its reply, and two more in the server: as much as
//! the rest. So each call is packed behind those that wait, and all of them go in one write, once all ready tasks have
//! had their turn. There is no timer: if no other task is ready, the call goes at once.
//!
//! If writes wait for replicas, one `WAIT` follows all calls of a batch, because `WAIT` blocks the connection: one for
//! each call would make the last call wait for all of them. The next batch goes when this one has its replies.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use redis::{Cmd, RedisError, Value, cmd};
use tokio::io::AsyncWrite as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::keys::Keys;
use super::marks::{Beside, Ended, Marks, Said};
use super::options::Wait;
use super::reply;
use super::socket::Socket;
use keylatch_core::Timestamp;

/// The bucket with the indexes for all records of a single server. In a Cluster they are in the bucket of each record.
pub(super) const ONE_BUCKET: usize = 0;
/// How many bytes are read at once.
const READ_BYTES: usize = 64 << 10;

/// The sender to a connection, which ends with it. A clone is the same one.
#[derive(Clone)]
pub(super) struct Batches(Arc<Handle>);

struct Handle(Arc<Queue>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.waiting.lock().ended = true;
        self.0.driver.wake();
    }
}

/// The calls that wait to be sent.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    driver: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    /// Their commands, as they are sent.
    packed: Vec<u8>,
    calls: Vec<Call>,
    /// Whether nobody sends, or nothing can be sent any longer.
    ended: bool,
}

impl Queue {
    /// Adds a call, or drops it if nothing can be sent any longer.
    fn push(&self, command: &Cmd, call: Call) {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return;
        }
        command.write_packed_command(&mut waiting.packed);
        waiting.calls.push(call);
        let is_first = waiting.calls.len() == 1;
        drop(waiting);
        if is_first {
            self.driver.wake();
        }
    }
}

struct Call {
    marks: Marks,
    /// Whether it gets its reply only when replicas have its write.
    waits: bool,
    reply: oneshot::Sender<Result<Reply, RedisError>>,
}

/// The reply to a call.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    /// How many replicas have the write; `None` if nobody waited.
    pub(super) replicas: Option<i64>,
    /// The server's time just before, if it was requested.
    pub(super) now: Option<Timestamp>,
    /// Whether its run was noted, if it may begin one.
    pub(super) marked: Result<(), RedisError>,
}

impl Batches {
    /// Batches for the server at the other end of `socket`, until the last clone of this is gone or a reply takes longer
    /// than `reply_max`.
    pub(super) fn new(socket: Socket, keys: Keys, ended: Arc<Ended>, wait: Option<Wait>, reply_max: Duration) -> Self {
        let queue = Arc::<Queue>::default();
        let driver = Driver {
            queue: queue.clone(),
            batcher: Batcher { keys, ended: ended.clone(), wait },
            idle: idle(ended),
            outgoing: BytesMut::new(),
            unflushed: false,
            incoming: BytesMut::with_capacity(READ_BYTES),
            sent: VecDeque::new(),
            reply_max,
            overdue: Box::pin(sleep_until(Instant::now())),
            socket,
        };
        drop(tokio::spawn(driver.drive()));
        Self(Arc::new(Handle(queue)))
    }

    /// Sends a call. The future waits for its reply as long as the connection does.
    pub(super) fn send(
        &self,
        command: &Cmd,
        marks: Marks,
        waits: bool,
    ) -> impl Future<Output = Result<Reply, RedisError>> + use<> {
        let (reply, replied) = oneshot::channel();
        self.0.0.push(command, Call { marks, waits, reply });
        async move { replied.await.unwrap_or_else(|_| Err(lost())) }
    }
}

/// Passes on the calls that wait, and their replies.
struct Driver {
    socket: Socket,
    queue: Arc<Queue>,
    batcher: Batcher,
    /// Done when ended runs have waited for other calls for long enough.
    idle: BoxFuture<'static, ()>,
    outgoing: BytesMut,
    /// Whether TLS may still have bytes that the socket did not take.
    unflushed: bool,
    incoming: BytesMut,
    /// The batches without all of their replies.
    sent: VecDeque<Batch>,
    reply_max: Duration,
    /// Fires no earlier than the first of them is overdue.
    overdue: Pin<Box<Sleep>>,
}

fn idle(ended: Arc<Ended>) -> BoxFuture<'static, ()> {
    async move { ended.have_waited(ONE_BUCKET).await }.boxed()
}

impl Driver {
    async fn drive(mut self) {
        let error = loop {
            match poll_fn(|context| self.poll(context)).await {
                // All tasks that are ready add their calls.
                Ok(Next::Calls) => tokio::task::yield_now().await,
                Ok(Next::Idle) => self.idle = idle(self.batcher.ended.clone()),
                Ok(Next::End) => return,
                Err(error) => break error,
            }
            self.send_waiting();
        };
        let mut waiting = self.queue.waiting.lock();
        waiting.ended = true;
        let unsent = std::mem::take(&mut waiting.calls);
        drop(waiting);
        let unanswered = self.sent.into_iter().flat_map(Batch::into_calls).chain(unsent);
        unanswered.for_each(|call| drop(call.reply.send(Err(error.clone()))));
    }

    /// Reads and writes until there is something to send.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Next, RedisError>> {
        self.queue.driver.register(context.waker());
        self.poll_read(context)?;
        self.poll_write(context)?;
        self.poll_overdue(context)?;
        // With `WAIT`, the next batch goes when this one has its replies.
        if self.batcher.wait.is_some() && !self.sent.is_empty() {
            return Poll::Pending;
        }
        let waiting = self.queue.waiting.lock();
        if !waiting.calls.is_empty() {
            return Poll::Ready(Ok(Next::Calls));
        }
        if waiting.ended && self.sent.is_empty() {
            return Poll::Ready(Ok(Next::End));
        }
        drop(waiting);
        self.idle.poll_unpin(context).map(|()| Ok(Next::Idle))
    }

    /// Reads what has arrived, and answers it.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<(), RedisError> {
        loop {
            self.incoming.reserve(READ_BYTES);
            match poll_read_buf(Pin::new(&mut self.socket), context, &mut self.incoming)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Poll::Ready(_) => self.answer()?,
            }
        }
    }

    /// Passes on all replies that are complete.
    fn answer(&mut self) -> Result<(), RedisError> {
        let mut at = 0;
        while let Some((value, bytes)) = reply::decode(&self.incoming[at..])? {
            at += bytes;
            let batch = self.sent.front_mut().ok_or_else(|| reply::invalid("a reply to no command"))?;
            if batch.answer(value) {
                self.sent.pop_front();
            }
        }
        self.incoming.advance(at);
        Ok(())
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), RedisError> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.socket).poll_write(context, &self.outgoing)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(written) => self.outgoing.advance(written),
            }
            self.unflushed = true;
        }
        if self.unflushed && Pin::new(&mut self.socket).poll_flush(context)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    /// Fails when the first batch has waited for too long.
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Result<(), RedisError> {
        while let Some(first) = self.sent.front()
            && self.overdue.as_mut().poll(context).is_ready()
        {
            let until = first.sent + self.reply_max;
            if until <= Instant::now() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.overdue.as_mut().reset(until);
        }
        Ok(())
    }

    /// Makes a batch of the calls that wait.
    fn send_waiting(&mut self) {
        let mut waiting = self.queue.waiting.lock();
        let (packed, calls) = (std::mem::take(&mut waiting.packed), std::mem::take(&mut waiting.calls));
        drop(waiting);
        if let Some(batch) = self.batcher.batch(calls, &packed, &mut self.outgoing) {
            self.sent.push_back(batch);
        }
    }
}

/// What a driver is to do.
enum Next {
    /// Send the calls that wait.
    Calls,
    /// Remove ended runs.
    Idle,
    /// Nobody can send anything any longer, and all is answered.
    End,
}

/// Adds to calls what goes with them.
struct Batcher {
    keys: Keys,
    ended: Arc<Ended>,
    wait: Option<Wait>,
}

impl Batcher {
    /// Writes these calls, and the commands beside them; `None` if there is nothing to write.
    fn batch(&self, calls: Vec<Call>, packed: &[u8], outgoing: &mut BytesMut) -> Option<Batch> {
        let marks: Vec<_> = calls.iter().map(|call| call.marks).collect();
        let beside = Beside::of(&marks, ONE_BUCKET, &self.keys, &self.ended.take(ONE_BUCKET));
        let wait = self.wait.filter(|_| calls.iter().any(|call| call.waits));
        if calls.is_empty() && beside.len() == 0 {
            return None;
        }
        let wait_behind =
            wait.map(|Wait { replicas, timeout }| cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
        pack(&beside.before, outgoing);
        outgoing.extend_from_slice(packed);
        pack(beside.behind.iter().chain(&wait_behind), outgoing);
        Some(Batch {
            sent: Instant::now(),
            said: Said::of(&beside),
            calls: calls.into_iter(),
            behind: beside.behind.len(),
            waits: wait.is_some(),
            held: Vec::new(),
        })
    }
}

fn pack<'c>(commands: impl IntoIterator<Item = &'c Cmd>, outgoing: &mut BytesMut) {
    for command in commands {
        outgoing.extend_from_slice(&command.get_packed_command());
    }
}

/// A batch that was sent, and the replies so far.
struct Batch {
    sent: Instant,
    /// The replies that come before those to the calls.
    said: Said,
    /// The calls without a reply.
    calls: std::vec::IntoIter<Call>,
    /// How many replies follow those to the calls.
    behind: usize,
    /// Whether the reply to `WAIT` follows as the last.
    waits: bool,
    /// The replies that are held back until the one to `WAIT`.
    held: Vec<(Call, Result<Value, RedisError>)>,
}

impl Batch {
    /// Takes the next reply. Returns whether it was the last.
    fn answer(&mut self, value: Value) -> bool {
        if !self.said.is_complete() {
            self.said.take(value);
        } else if let Some(call) = self.calls.next() {
            let value = value.extract_error();
            if self.waits {
                self.held.push((call, value));
            } else {
                self.pass(call, value, None);
            }
        } else if self.behind > 0 {
            self.behind -= 1;
        } else {
            let replicas = replicas_of(&value);
            for (call, value) in std::mem::take(&mut self.held) {
                let replicas = call.waits.then_some(replicas);
                self.pass(call, value, replicas);
            }
            self.waits = false;
        }
        self.said.is_complete() && self.calls.as_slice().is_empty() && self.behind == 0 && !self.waits
    }

    fn pass(&self, call: Call, value: Result<Value, RedisError>, replicas: Option<i64>) {
        let Said { now, marked, .. } = &self.said;
        let marked = if call.marks.runs { marked.clone() } else { Ok(()) };
        // Its caller may have given up meanwhile.
        let _ = call.reply.send(value.map(|value| Reply { value, replicas, now: *now, marked }));
    }

    fn into_calls(self) -> impl Iterator<Item = Call> {
        self.held.into_iter().map(|(call, _)| call).chain(self.calls)
    }
}

/// The reply of `WAIT`. After an error, no replica is known to have the writes.
pub(super) fn replicas_of(value: &Value) -> i64 {
    if let Value::Int(replicas) = value { *replicas } else { 0 }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The error of a lost connection.
fn lost() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}
