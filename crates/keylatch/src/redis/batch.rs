//! Calls to one server that go out together.
//!
//! By itself a connection hands each call to the kernel alone, and the server reads and answers each alone: four calls of
//! the kernel, which cost as much as the rest. So a call first lets all run who can, and shares one with theirs. No timer:
//! where nobody else has anything to do, it goes at once.

use std::io;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};

/// How many calls go out together at most: each gets its reply when all have theirs.
const CALLS_MAX: usize = 64;

/// The way into a connection. A clone is the same one.
#[derive(Clone)]
pub(super) struct Batches(mpsc::UnboundedSender<Call>);

struct Call {
    command: Cmd,
    reply: oneshot::Sender<Result<Value, RedisError>>,
}

impl Batches {
    /// Batches for `connection`, until the last clone of this is gone.
    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(send_all(queue, connection));
        Self(calls)
    }

    /// Sends a call, and waits for its reply as long as the connection does.
    pub(super) async fn send(&self, command: Cmd) -> Result<Value, RedisError> {
        let (reply, replied) = oneshot::channel();
        self.0.send(Call { command, reply }).map_err(|_| lost())?;
        replied.await.unwrap_or_else(|_| Err(lost()))
    }
}

async fn send_all(mut queue: mpsc::UnboundedReceiver<Call>, connection: MultiplexedConnection) {
    let mut calls = Vec::new();
    while queue.recv_many(&mut calls, CALLS_MAX).await != 0 {
        tokio::task::yield_now().await;
        while calls.len() < CALLS_MAX
            && let Ok(call) = queue.try_recv()
        {
            calls.push(call);
        }
        // While these are under way, the next form.
        tokio::spawn(send(std::mem::take(&mut calls), connection.clone()));
    }
}

async fn send(calls: Vec<Call>, mut connection: MultiplexedConnection) {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let mut waiting = Vec::with_capacity(calls.len());
    // Nobody waits for a call that was given up.
    for Call { command, reply } in calls.into_iter().filter(|call| !call.reply.is_closed()) {
        pipeline.add_command(command);
        waiting.push(reply);
    }
    if waiting.is_empty() {
        return;
    }
    match connection.send_packed_commands(&pipeline, 0, waiting.len()).await {
        Ok(values) => {
            debug_assert_eq!(values.len(), waiting.len());
            for (reply, value) in waiting.into_iter().zip(values) {
                // It may have been given up meanwhile.
                let _ = reply.send(value.extract_error());
            }
        }
        Err(error) => waiting.into_iter().for_each(|reply| drop(reply.send(Err(error.clone())))),
    }
}

/// As if the connection were lost: the tasks behind it are gone.
fn lost() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}
