//! Calls to a Cluster, even while its slots move from node to node.

use std::time::Duration;

use redis::aio::ConnectionLike as _;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, FromRedisValue as _, Pipeline, RedisError, Value, cmd};

use super::batch::{Reply, millis, replicas_of};
use super::error::Failed;
use super::marks::{Beside, Said};
use super::options::Wait;

/// How often a command is sent again while its slot moves. The client follows `MOVED` and `ASK` by itself, but it sends
/// `ASKING` apart from the command, and others' commands can come in between.
const TRIES_AGAIN: u32 = 8;
/// The first and the longest wait before that; each wait is twice the previous one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// A call and the commands beside it: all of them are in one slot.
pub(super) struct Sending<'c> {
    pub(super) cluster: ClusterConnection,
    pub(super) command: &'c Cmd,
    pub(super) beside: Beside,
    pub(super) wait: Option<Wait>,
}

impl Sending<'_> {
    pub(super) async fn send(mut self) -> Result<Reply, RedisError> {
        match self.whole().await {
            Err(error) if is_of_a_moving_slot(&error) => self.one_by_one().await,
            done => done,
        }
    }

    /// All of it at once.
    async fn whole(&mut self) -> Result<Reply, RedisError> {
        let Self { cluster, command, beside, wait } = self;
        let mut pipeline = Pipeline::with_capacity(beside.len() + 2);
        beside.around([command.clone()], &mut pipeline);
        wait_behind(*wait, &mut pipeline);
        let replies = pipeline.len();
        let values = cluster.req_packed_commands(&pipeline, 0, replies).await?;
        let (mut said, mut values) = (Said::of(beside), values.into_iter());
        values.by_ref().take(beside.before.len()).for_each(|value| said.take(value));
        let Said { now, marked, .. } = said;
        if let Err(error) = &marked
            && is_of_a_moving_slot(error)
        {
            return Err(error.clone());
        }
        let value = values.next().unwrap_or(Value::Nil).extract_error()?;
        let replicas = wait.and_then(|_| values.next_back()).as_ref().map(replicas_of);
        Ok(Reply { value, replicas, now, marked })
    }

    /// While a slot moves, each key is on one node or the other, and only a command with that key alone finds it.
    async fn one_by_one(mut self) -> Result<Reply, RedisError> {
        let beside = std::mem::replace(&mut self.beside, Beside::NONE);
        let mut marked = Ok(());
        for (at, before) in beside.before.iter().enumerate().filter(|(at, _)| beside.time_at != Some(*at)) {
            let done = self.alone(before, None).await;
            if beside.running_at == Some(at) {
                marked = done.map(drop);
            }
        }
        let (value, replicas) = self.alone(self.command, self.wait).await?;
        for behind in &beside.behind {
            // It has two keys, which can be on different nodes. If it fails now, a sweep does it.
            drop(behind.query_async::<Value>(&mut self.cluster).await);
        }
        Ok(Reply { value, replicas, now: None, marked })
    }

    async fn alone(&mut self, command: &Cmd, wait_for: Option<Wait>) -> Result<(Value, Option<i64>), RedisError> {
        let (mut pause, mut tries) = (PAUSE.0, 0);
        loop {
            let mut pipeline = Pipeline::with_capacity(3);
            pipeline.add_command(command.clone());
            wait_behind(wait_for, &mut pipeline);
            let replies = pipeline.len();
            let mut sent = self.cluster.req_packed_commands(&pipeline, 0, replies).await.and_then(first);
            if let Err(error) = &sent
                && let Some((host, port)) = asked_elsewhere(error)
            {
                let mut asking = Pipeline::with_capacity(3);
                asking.add_command(cmd("ASKING"));
                asking.add_command(command.clone());
                wait_behind(wait_for, &mut asking);
                let node = SingleNodeRoutingInfo::ByAddress { host, port };
                sent = self.cluster.route_pipeline(asking, 1, replies, node).await.and_then(first);
            }
            match sent {
                Err(error) if tries < TRIES_AGAIN && is_of_a_moving_slot(&error) => {
                    tries += 1;
                    pause = wait(pause).await;
                }
                done => return done,
            }
        }
    }
}

/// The reply to a command, and how many replicas have its write, if it waited for them.
fn first(values: Vec<Value>) -> Result<(Value, Option<i64>), RedisError> {
    let mut values = values.into_iter();
    let value = values.next().unwrap_or(Value::Nil).extract_error()?;
    Ok((value, values.next().as_ref().map(replicas_of)))
}

fn wait_behind(wait: Option<Wait>, pipeline: &mut Pipeline) {
    if let Some(Wait { replicas, timeout }) = wait {
        pipeline.add_command(cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
    }
}

fn is_of_a_moving_slot(error: &RedisError) -> bool {
    matches!(error.code(), Some("ASK" | "MOVED" | "TRYAGAIN"))
}

/// The node to which the key is moving.
fn asked_elsewhere(error: &RedisError) -> Option<(String, u16)> {
    if error.code() != Some("ASK") {
        return None;
    }
    let (node, _) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Waits this long, and returns how long to wait the next time.
async fn wait(pause: Duration) -> Duration {
    tokio::time::sleep(pause).await;
    (pause * 2).min(PAUSE.1)
}

/// Where the primaries are.
pub(super) async fn primaries(cluster: &mut ClusterConnection) -> Result<Vec<(String, u16)>, Failed> {
    let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
    let Value::Map(replies) = cluster.route_command(cmd("TIME"), all).await.map_err(Failed::of)? else {
        return Err(Failed::Nonsense);
    };
    let address = |(name, _): (Value, Value)| {
        let name = String::from_redis_value(name).ok()?;
        let (host, port) = name.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    };
    replies.into_iter().map(|node| address(node).ok_or(Failed::Nonsense)).collect()
}
