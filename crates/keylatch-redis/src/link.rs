//! The connection: one for all calls, and a new one when it is lost.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::sentinel::SentinelClient;
use redis::{Client, Cmd, FromRedisValue, RedisError, Value, cmd};

use super::batch::{Batches, ONE_BUCKET, Reply};
use super::cluster;
use super::error::{ConnectError, Failed};
use super::keys::{BUCKETS, Keys, bucket_of};
use super::marks::{Beside, Ended, Marks};
use super::options::{Options, Wait};
use super::server::{Needs, Settings};
use super::socket;
use super::tls::Tls;
use keylatch_core::{RecordId, Timestamp};

/// The link to the server or servers. Each call is sent after earlier ones, without waiting for their replies, and
/// replies are matched by their order. A call that is given up keeps its place, so that no call gets another's reply.
pub(super) struct Link {
    current: Arc<Current>,
    /// Held by the caller that makes a new connection, for all who wait for it.
    connecting: tokio::sync::Mutex<Source>,
    /// How many attempts to connect have ended; the number of a connection is that of its attempt.
    attempts: AtomicU64,
    is_cluster: bool,
    keys: Keys,
    ended: Arc<Ended>,
    reply_max: Duration,
    connect_timeout: Duration,
    /// The time limit of a call that has to connect. A call that lost its connection before has also waited for a
    /// reply.
    call_max: Duration,
    needs: Needs,
    check_every: Duration,
    wait: Option<Wait>,
}

/// The current connection, if any, and its number.
type Current = Mutex<Option<(u64, Connection)>>;

/// Where the servers are.
pub(super) enum Source {
    /// At this address.
    Address(Box<Client>, Tls),
    /// The address that the Sentinels report for the primary now.
    Sentinels(Box<SentinelClient>, Tls),
    /// The addresses that the nodes of a Cluster announce now.
    Cluster(Box<ClusterClient>),
}

/// A connection. A clone is the same one.
#[derive(Clone)]
pub(super) enum Connection {
    One {
        batches: Batches,
        /// Whether each write is on the server's disk before it is acknowledged.
        synced: bool,
    },
    /// To all nodes. It follows changes of the Cluster by itself.
    Cluster(ClusterConnection),
}

/// How often a call is sent at most if its reply is lost with the connection. Each call of a store can be sent again.
const SENDS_MAX: usize = 2;

impl Link {
    pub(super) fn new(source: Source, options: &Options) -> Self {
        Self {
            is_cluster: matches!(source, Source::Cluster(_)),
            keys: Keys::new(&options.prefix),
            ended: Arc::default(),
            current: Arc::default(),
            connecting: tokio::sync::Mutex::new(source),
            attempts: AtomicU64::new(0),
            reply_max: reply_max(options),
            connect_timeout: options.connect_timeout,
            call_max: options.connect_timeout * 3 + reply_max(options) * 2,
            needs: options.needs(),
            check_every: options.check_every,
            wait: options.wait,
        }
    }

    /// Whether writes wait for replicas.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// The bucket of the indexes for a record: in a Cluster it is the record's.
    pub(super) fn bucket_of(&self, id: RecordId) -> usize {
        if self.is_cluster { bucket_of(id) } else { ONE_BUCKET }
    }

    /// The buckets that this store writes indexes into.
    pub(super) fn buckets(&self) -> Range<usize> {
        if self.is_cluster { 0..BUCKETS } else { ONE_BUCKET..ONE_BUCKET + 1 }
    }

    /// A run has ended, and nobody begins another under its key for [`ENDED_KEEP_MS_MIN`](super::marks::ENDED_KEEP_MS_MIN).
    pub(super) fn ended(&self, id: RecordId) {
        self.ended.push(self.bucket_of(id), id);
    }

    /// Sends a command that does not write a record.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Failed> {
        Ok(self.call(&Call { command: command.clone(), marks: Marks::NONE, waits: false }).await?.value)
    }

    /// Sends a call; if it waits, returns when the required replicas have its write.
    pub(super) async fn call(&self, call: &Call) -> Result<Told, Failed> {
        let mut sends = 0;
        // An existing connection returns a reply or an error in time, so no other time limit is needed.
        if let Some((number, batches)) = self.batches() {
            let reply = batches.send(&call.command, call.marks, self.wait_of(call).is_some()).await;
            match reply.map_err(|error| self.failed(number, error)).and_then(|reply| self.acknowledged(call, reply)) {
                Err(Failed::Unanswered(error)) if error.is_connection_dropped() => sends = 1,
                done => return done,
            }
        }
        // Boxed, because it is rare and large.
        Box::pin(self.connect_and_send(call, sends)).await
    }

    /// Sends a call that has been sent this often.
    async fn connect_and_send(&self, call: &Call, mut sends: usize) -> Result<Told, Failed> {
        let sending = async {
            loop {
                let (number, connection) = self.connect().await.map_err(Failed::Unreachable)?;
                sends += 1;
                let reply = match connection {
                    Connection::One { batches, .. } => {
                        batches.send(&call.command, call.marks, self.wait_of(call).is_some()).await
                    }
                    Connection::Cluster(cluster) => self.send_to_cluster(cluster, call).await,
                };
                match reply.map_err(|error| self.failed(number, error)) {
                    Err(Failed::Unanswered(error)) if sends < SENDS_MAX && error.is_connection_dropped() => {}
                    Err(failed) => return Err(failed),
                    Ok(reply) => return self.acknowledged(call, reply),
                }
            }
        };
        let timed_out = |_| Failed::Unanswered(not_connected("no reply in time"));
        tokio::time::timeout(self.call_max, sending).await.map_err(timed_out)?
    }

    /// The reply, if enough replicas have the write.
    fn acknowledged(&self, call: &Call, Reply { value, replicas: have, now, marked }: Reply) -> Result<Told, Failed> {
        match (self.wait_of(call), have) {
            (Some(Wait { replicas, .. }), Some(have)) if have < replicas.into() => Err(Failed::TooFewReplicas(have)),
            (Some(_), None) => Err(Failed::Nonsense),
            _ => Ok(Told { value, now, marked }),
        }
    }

    /// How a call waits for replicas, if it does.
    fn wait_of(&self, call: &Call) -> Option<Wait> {
        self.wait.filter(|_| call.waits)
    }

    async fn send_to_cluster(&self, cluster: ClusterConnection, call: &Call) -> Result<Reply, RedisError> {
        let Call { command, marks, .. } = call;
        let bucket = bucket_of(marks.id);
        let ended = if marks.runs { self.ended.take(bucket) } else { Vec::new() };
        let beside = Beside::of(&[*marks], bucket, &self.keys, &ended);
        cluster::Sending { cluster, command, beside, wait: self.wait_of(call) }.send().await
    }

    /// The keys that match, of the server or of all primaries of a Cluster.
    pub(super) async fn scan(&self, pattern: &[u8], mut found: impl FnMut(Vec<u8>)) -> Result<(), Failed> {
        /// How many keys the server scans at once, which limits how long other calls wait.
        const LOOKED_AT: usize = 1_000;
        let mut nodes = match self.connect().await.map_err(Failed::Unreachable)?.1 {
            Connection::One { .. } => vec![None],
            Connection::Cluster(mut cluster) => cluster::primaries(&mut cluster).await?.into_iter().map(Some).collect(),
        };
        while let Some(node) = nodes.pop() {
            let mut cursor: u64 = 0;
            loop {
                let mut command = cmd("SCAN");
                command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(LOOKED_AT);
                let reply = match &node {
                    None => self.ask(&command).await?,
                    Some((host, port)) => {
                        let (number, connection) = self.connect().await.map_err(Failed::Unreachable)?;
                        let Connection::Cluster(mut cluster) = connection else { return Err(Failed::Nonsense) };
                        let node = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
                        let reply = cluster.route_command(command, RoutingInfo::SingleNode(node)).await;
                        reply.map_err(|error| self.failed(number, error))?
                    }
                };
                let (next, keys): (u64, Vec<Vec<u8>>) =
                    FromRedisValue::from_redis_value(reply).map_err(|_| Failed::Nonsense)?;
                keys.into_iter().for_each(&mut found);
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Classifies a failure on the connection with this number, and closes the connection if it cannot be used again.
    fn failed(&self, number: u64, error: RedisError) -> Failed {
        let is_slow = error.is_timeout();
        let failed = Failed::of(error).after_sending();
        // A Cluster connection reconnects to lost nodes by itself. If it does not recover, it is replaced as a whole.
        let give_up = if self.is_cluster { is_slow } else { failed.is_of_connection() };
        if give_up {
            let mut current = self.current.lock();
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                *current = None;
            }
        }
        failed
    }

    /// The sender to the connection, if it is to one server.
    fn batches(&self) -> Option<(u64, Batches)> {
        match &*self.current.lock() {
            Some((number, Connection::One { batches, .. })) => Some((*number, batches.clone())),
            _ => None,
        }
    }

    /// Whether there is a connection that is not known to be lost.
    pub(super) fn is_connected(&self) -> bool {
        self.current.lock().is_some()
    }

    fn connection(&self) -> Option<(u64, Connection)> {
        self.current.lock().clone()
    }

    /// The current connection, or a new one. Callers that wait while it is made do not try again by themselves when it
    /// fails: all fail at once.
    pub(super) async fn connect(&self) -> Result<(u64, Connection), ConnectError> {
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        let seen = self.attempts.load(Ordering::Acquire);
        let mut source = self.connecting.lock().await;
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        if self.attempts.load(Ordering::Acquire) != seen {
            return Err(ConnectError::Unreachable(not_connected("another call has just tried to connect and failed")));
        }
        let opened = self.open(&mut source).await;
        let number = self.attempts.fetch_add(1, Ordering::AcqRel) + 1;
        let connection = (number, opened?);
        *self.current.lock() = Some(connection.clone());
        drop(tokio::spawn(check(Arc::downgrade(&self.current), number, self.needs, self.check_every)));
        Ok(connection)
    }

    /// Whether each write is on the server's disk before it is acknowledged.
    pub(super) async fn syncs_each_write(&self) -> Result<bool, ConnectError> {
        match self.connect().await?.1 {
            Connection::One { synced, .. } => Ok(synced),
            // A failover can lose what one server has on its disk.
            Connection::Cluster(_) => Ok(false),
        }
    }

    async fn open(&self, source: &mut Source) -> Result<Connection, ConnectError> {
        // Sentinels are asked one after the other, and a node of a Cluster can be down.
        let limit = match source {
            Source::Address(..) => self.connect_timeout,
            Source::Sentinels(..) | Source::Cluster(_) => self.connect_timeout * 3,
        };
        let timed_out = |_| ConnectError::Unreachable(not_connected("no connection in time"));
        tokio::time::timeout(limit, self.open_and_check(source)).await.map_err(timed_out)?
    }

    /// The next primary may have other settings than the previous one, so each is checked.
    async fn open_and_check(&self, source: &mut Source) -> Result<Connection, ConnectError> {
        let (client, tls) = match source {
            Source::Address(client, tls) => (&**client, &*tls),
            Source::Sentinels(sentinels, tls) => {
                (&sentinels.async_get_client().await.map_err(ConnectError::Unreachable)?, &*tls)
            }
            Source::Cluster(client) => {
                let mut connection = client.get_async_connection().await.map_err(ConnectError::Unreachable)?;
                for settings in Settings::read_primaries(&mut connection).await? {
                    settings.check(self.needs)?;
                }
                return Ok(Connection::Cluster(connection));
            }
        };
        let checked = async |connection: &mut MultiplexedConnection| {
            let settings = Settings::read(connection).await?;
            settings.check(self.needs)?;
            Ok(settings.syncs_each_write(connection).await)
        };
        let (socket, synced) = socket::open(client, tls, checked).await.map_err(ConnectError::Unreachable)?;
        let batches = Batches::new(socket, self.keys.clone(), self.ended.clone(), self.wait, self.reply_max);
        Ok(Connection::One { batches, synced: synced? })
    }
}

/// Checks at intervals whether a server in use still keeps all records. If not, closes the connection, so that the next
/// call connects again and gets the error. Ends with the connection with this number.
async fn check(current: Weak<Current>, number: u64, needs: Needs, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let connection = match current.upgrade().and_then(|current| current.lock().clone()) {
            Some((at, connection)) if at == number => connection,
            _ => return,
        };
        let settings = match connection {
            Connection::One { batches, .. } => Settings::read_by(&batches).await.map(|one| vec![one]),
            Connection::Cluster(mut cluster) => Settings::read_primaries(&mut cluster).await,
        };
        // The calls notice a server that does not answer.
        let Ok(settings) = settings else { continue };
        let checked = settings.iter().try_for_each(|settings| settings.check_again(needs));
        if let (Err(error), Some(current)) = (checked, current.upgrade()) {
            tracing::error!(%error, "Redis may now evict records; it is not used until that is corrected");
            let mut current = current.lock();
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                *current = None;
            }
            return;
        }
    }
}

/// A call: a command, and the changes to the indexes beside it.
pub(super) struct Call {
    pub(super) command: Cmd,
    pub(super) marks: Marks,
    /// Whether the replicas must have its write, where this store waits for them.
    pub(super) waits: bool,
}

/// What a call is told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) value: Value,
    /// The server's time just before, if it was requested and available.
    pub(super) now: Option<Timestamp>,
    /// Whether its run is written down, where it may begin one.
    pub(super) marked: Result<(), RedisError>,
}

/// How long a reply may take.
pub(super) fn reply_max(options: &Options) -> Duration {
    options.response_timeout + options.wait.map_or(Duration::ZERO, |wait| wait.timeout)
}

fn not_connected(why: &'static str) -> RedisError {
    (redis::ErrorKind::Client, why).into()
}
