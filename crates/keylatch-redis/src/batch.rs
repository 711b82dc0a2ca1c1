//! Batches of calls to one server.
//!
//! By itself a connection passes each call to the kernel separately, and the server reads and answers each separately:
//! four system calls, which cost as much as the rest. So a call first yields to all ready tasks, and goes in one batch
//! with their calls. There is no timer: if no other task is ready, the call goes at once.
//!
//! If writes wait for replicas, one `WAIT` follows all calls of a batch, because `WAIT` blocks the connection: one for
//! each call would make the last call wait for all of them. The next batch goes when this one has its replies.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot};

use super::keys::Keys;
use super::marks::{Beside, Ended, Marks};
use super::options::Wait;
use keylatch_core::Timestamp;

/// The largest batch: each call gets its reply when all have theirs.
const CALLS_MAX: usize = 64;
/// The same if writes wait for replicas: then only one batch is in flight at a time.
const WAITING_CALLS_MAX: usize = 4_096;
/// The bucket with the indexes for all records of a single server. In a Cluster they are in the bucket of each record.
pub(super) const ONE_BUCKET: usize = 0;

/// The sender to a connection. A clone is the same one.
#[derive(Clone)]
pub(super) struct Batches(mpsc::UnboundedSender<Call>);

struct Call {
    command: Cmd,
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

/// Shared by all batches of a connection.
struct Sender {
    connection: MultiplexedConnection,
    keys: Keys,
    ended: Arc<Ended>,
    wait: Option<Wait>,
}

impl Batches {
    /// Batches for `connection`, until the last clone of this is gone.
    pub(super) fn new(connection: MultiplexedConnection, keys: Keys, ended: Arc<Ended>, wait: Option<Wait>) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(Arc::new(Sender { connection, keys, ended, wait }).send_all(queue));
        Self(calls)
    }

    /// Sends a call, and waits for its reply as long as the connection does.
    pub(super) async fn send(&self, command: Cmd, marks: Marks, waits: bool) -> Result<Reply, RedisError> {
        let (reply, replied) = oneshot::channel();
        self.0.send(Call { command, marks, waits, reply }).map_err(|_| lost())?;
        replied.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Sender {
    async fn send_all(self: Arc<Self>, mut queue: mpsc::UnboundedReceiver<Call>) {
        let calls_max = if self.wait.is_some() { WAITING_CALLS_MAX } else { CALLS_MAX };
        let mut calls = Vec::new();
        loop {
            let waited = pin!(self.ended.have_waited(ONE_BUCKET));
            match select(pin!(queue.recv_many(&mut calls, calls_max)), waited).await {
                Either::Left((0, _)) => return,
                Either::Left(_) => tokio::task::yield_now().await,
                Either::Right(_) => {}
            }
            while calls.len() < calls_max
                && let Ok(call) = queue.try_recv()
            {
                calls.push(call);
            }
            let sending = self.clone().send(std::mem::take(&mut calls));
            if self.wait.is_some() {
                sending.await;
            } else {
                // While this batch is in flight, the next one forms.
                tokio::spawn(sending);
            }
        }
    }

    async fn send(self: Arc<Self>, mut calls: Vec<Call>) {
        // Nobody waits for a call that was given up.
        calls.retain(|call| !call.reply.is_closed());
        let marks: Vec<_> = calls.iter().map(|call| call.marks).collect();
        let beside = Beside::of(&marks, ONE_BUCKET, &self.keys, &self.ended.take(ONE_BUCKET));
        let mut pipeline = Pipeline::with_capacity(calls.len() + beside.len() + 1);
        let mut waiting = Vec::with_capacity(calls.len());
        let commands = calls.into_iter().map(|Call { command, waits, reply, marks }| {
            waiting.push((waits, marks.runs, reply));
            command
        });
        beside.around(commands, &mut pipeline);
        if pipeline.is_empty() {
            return;
        }
        let wait = self.wait.filter(|_| waiting.iter().any(|(waits, ..)| *waits));
        if let Some(Wait { replicas, timeout }) = wait {
            pipeline.add_command(cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
        }
        let replies = pipeline.len();
        match self.connection.clone().send_packed_commands(&pipeline, 0, replies).await {
            Ok(values) => {
                debug_assert_eq!(values.len(), replies);
                let Told { calls, now, marked, replicas } = told(values, &beside, waiting.len(), wait.is_some());
                for ((waits, runs, reply), value) in waiting.into_iter().zip(calls) {
                    let replicas = replicas.filter(|_| waits);
                    let marked = if runs { marked.clone() } else { Ok(()) };
                    // Its caller may have given up meanwhile.
                    let _ = reply.send(value.extract_error().map(|value| Reply { value, replicas, now, marked }));
                }
            }
            Err(error) => waiting.into_iter().for_each(|(.., reply)| drop(reply.send(Err(error.clone())))),
        }
    }
}

/// The results of the replies to calls, and to the commands beside them.
pub(super) struct Told {
    pub(super) calls: Vec<Value>,
    pub(super) now: Option<Timestamp>,
    pub(super) marked: Result<(), RedisError>,
    pub(super) replicas: Option<i64>,
}

pub(super) fn told(mut values: Vec<Value>, beside: &Beside, calls: usize, waited: bool) -> Told {
    let replicas = match waited.then(|| values.pop()) {
        None => None,
        Some(Some(Value::Int(replicas))) => Some(replicas),
        // An error: then no replica is known to have the write.
        Some(_) => Some(0),
    };
    let now = beside.time_at.and_then(|at| time_of(values.get(at)?));
    let marked = match beside.running_at.and_then(|at| values.get(at).cloned()) {
        None => Ok(()),
        Some(value) => value.extract_error().map(drop),
    };
    let calls = values.into_iter().skip(beside.before.len()).take(calls).collect();
    Told { calls, now, marked, replicas }
}

/// The reply of `TIME`.
pub(super) fn time_of(value: &Value) -> Option<Timestamp> {
    let Value::Array(both) = value else { return None };
    let part = |at: usize| match both.get(at)? {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
        Value::Int(number) => Some(*number),
        _ => None,
    };
    Some(Timestamp::from_millis(part(0)?.checked_mul(1_000)?.checked_add(part(1)? / 1_000)?))
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The error of a lost connection: the tasks behind it are gone.
fn lost() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}
