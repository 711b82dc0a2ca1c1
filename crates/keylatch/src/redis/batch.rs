//! Calls to one server that go out together.
//!
//! By itself a connection hands each call to the kernel alone, and the server reads and answers each alone: four calls of
//! the kernel, which cost as much as the rest. So a call first lets all run who can, and shares one with theirs. No timer:
//! where nobody else has anything to do, it goes at once.
//!
//! Where writes wait for replicas, one `WAIT` stands behind all calls of a batch, for it blocks the connection: one for
//! each call would make the last wait as often as there are calls. The next batch goes when that has its replies.

use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot};

use super::options::Wait;

/// How many calls go out together at most: each gets its reply when all have theirs.
const CALLS_MAX: usize = 64;
/// The same where replicas are waited for: there only one batch is under way at a time.
const WAITING_CALLS_MAX: usize = 4_096;

/// The way into a connection. A clone is the same one.
#[derive(Clone)]
pub(super) struct Batches(mpsc::UnboundedSender<Call>);

struct Call {
    command: Cmd,
    /// Whether it has its reply only when replicas have what it wrote.
    waits: bool,
    reply: oneshot::Sender<Result<Reply, RedisError>>,
}

/// What a call is told.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    /// How many replicas have what was written; `None` if nobody waited.
    pub(super) replicas: Option<i64>,
}

impl Batches {
    /// Batches for `connection`, until the last clone of this is gone.
    pub(super) fn new(connection: MultiplexedConnection, wait: Option<Wait>) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(send_all(queue, connection, wait));
        Self(calls)
    }

    /// Sends a call, and waits for its reply as long as the connection does.
    pub(super) async fn send(&self, command: Cmd, waits: bool) -> Result<Reply, RedisError> {
        let (reply, replied) = oneshot::channel();
        self.0.send(Call { command, waits, reply }).map_err(|_| lost())?;
        replied.await.unwrap_or_else(|_| Err(lost()))
    }
}

async fn send_all(mut queue: mpsc::UnboundedReceiver<Call>, connection: MultiplexedConnection, wait: Option<Wait>) {
    let calls_max = if wait.is_some() { WAITING_CALLS_MAX } else { CALLS_MAX };
    let mut calls = Vec::new();
    while queue.recv_many(&mut calls, calls_max).await != 0 {
        tokio::task::yield_now().await;
        while calls.len() < calls_max
            && let Ok(call) = queue.try_recv()
        {
            calls.push(call);
        }
        let sending = send(std::mem::take(&mut calls), connection.clone(), wait);
        if wait.is_some() {
            sending.await;
        } else {
            // While these are under way, the next form.
            tokio::spawn(sending);
        }
    }
}

async fn send(calls: Vec<Call>, mut connection: MultiplexedConnection, wait: Option<Wait>) {
    let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
    let mut waiting = Vec::with_capacity(calls.len());
    // Nobody waits for a call that was given up.
    for Call { command, waits, reply } in calls.into_iter().filter(|call| !call.reply.is_closed()) {
        pipeline.add_command(command);
        waiting.push((waits, reply));
    }
    if waiting.is_empty() {
        return;
    }
    let wait = wait.filter(|_| waiting.iter().any(|(waits, _)| *waits));
    if let Some(Wait { replicas, timeout }) = wait {
        pipeline.add_command(cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
    }
    let replies = waiting.len() + usize::from(wait.is_some());
    match connection.send_packed_commands(&pipeline, 0, replies).await {
        Ok(mut values) => {
            debug_assert_eq!(values.len(), replies);
            let replicas = match wait.map(|_| values.pop()) {
                None => None,
                Some(Some(Value::Int(replicas))) => Some(replicas),
                // An error: then nobody is known to have it.
                Some(_) => Some(0),
            };
            for ((waits, reply), value) in waiting.into_iter().zip(values) {
                let replicas = replicas.filter(|_| waits);
                // It may have been given up meanwhile.
                let _ = reply.send(value.extract_error().map(|value| Reply { value, replicas }));
            }
        }
        Err(error) => waiting.into_iter().for_each(|(_, reply)| drop(reply.send(Err(error.clone())))),
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// As if the connection were lost: the tasks behind it are gone.
fn lost() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}
