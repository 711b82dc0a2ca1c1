//! The connection: one for all calls at once, made anew when it is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value, cmd};

use super::batch::{Batches, Reply, millis};
use super::error::{ConnectError, Failed};
use super::options::{Options, Wait};
use super::server::{Needs, Settings};

/// The way to the server, or servers. Each call is sent behind those before it, without waiting for their replies, and
/// its reply is told from theirs by the order; a call that is given up leaves its place, so that nobody gets another's.
pub(super) struct Link {
    current: Arc<Current>,
    /// Held by whoever makes a new connection, for all who wait for it.
    connecting: tokio::sync::Mutex<Source>,
    /// How many attempts to connect have ended; the number of a connection is that of its attempt.
    attempts: AtomicU64,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    /// No call takes longer that has to connect, whatever becomes of it on its way; one that lost its connection before has
    /// waited for a reply, too.
    call_max: Duration,
    needs: Needs,
    check_every: Duration,
    wait: Option<Wait>,
}

/// The connection that there is, and its number.
type Current = Mutex<Option<(u64, Connection)>>;

/// Where the servers are.
pub(super) enum Source {
    /// At this address.
    Address(Box<Client>),
    /// Where the Sentinels say that the primary is, now.
    Sentinels(Box<SentinelClient>),
    /// Where the nodes of a Cluster say that they are, now.
    Cluster(Box<ClusterClient>),
}

/// A connection. A clone is the same one.
#[derive(Clone)]
pub(super) enum Connection {
    One {
        batches: Batches,
        connection: MultiplexedConnection,
    },
    /// To all nodes. It follows what becomes of them by itself.
    Cluster(ClusterConnection),
}

/// How often a call is sent at most, where its reply is lost with the connection. Each call of a store can be sent
/// again.
const SENDS_MAX: usize = 2;

impl Link {
    pub(super) fn new(source: Source, options: &Options) -> Self {
        Self {
            current: Arc::default(),
            connecting: tokio::sync::Mutex::new(source),
            attempts: AtomicU64::new(0),
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(options.connect_timeout))
                .set_response_timeout(Some(reply_max(options))),
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

    /// Sends a call that writes nothing.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Value, Failed> {
        self.send(Call { command, wait: None }).await
    }

    /// Sends a call that may write, and waits for the replicas that must have it.
    pub(super) async fn write(&self, command: &Cmd) -> Result<Value, Failed> {
        self.send(Call { command, wait: self.wait }).await
    }

    async fn send(&self, call: Call<'_>) -> Result<Value, Failed> {
        let mut sends = 0;
        // A connection that is there has a reply in time, or says that it has none: no other clock is needed.
        if let Some((number, batches)) = self.batches() {
            let reply = batches.send(call.command.clone(), call.wait.is_some()).await;
            match reply.map_err(|error| self.failed(number, false, error)).and_then(|reply| call.acknowledged(reply)) {
                Err(Failed::Unanswered(error)) if error.is_connection_dropped() => sends = 1,
                done => return done,
            }
        }
        // It is rare, and large.
        Box::pin(self.connect_and_send(call, sends)).await
    }

    /// Sends a call that has been sent so often.
    async fn connect_and_send(&self, call: Call<'_>, mut sends: usize) -> Result<Value, Failed> {
        let sending = async {
            loop {
                let connected = self.connect().await.map_err(Failed::Unreachable)?;
                sends += 1;
                match self.send_over(connected, call).await {
                    Err(Failed::Unanswered(error)) if sends < SENDS_MAX && error.is_connection_dropped() => {}
                    done => return done,
                }
            }
        };
        let timed_out = |_| Failed::Unanswered(not_connected("no reply in time"));
        tokio::time::timeout(self.call_max, sending).await.map_err(timed_out)?
    }

    async fn send_over(&self, (number, connection): (u64, Connection), call: Call<'_>) -> Result<Value, Failed> {
        let is_cluster = matches!(connection, Connection::Cluster(_));
        let reply = call.send(connection).await.map_err(|error| self.failed(number, is_cluster, error))?;
        call.acknowledged(reply)
    }

    /// What a failure on the connection of this number is. Gives the connection up, if it cannot be used again.
    fn failed(&self, number: u64, is_cluster: bool, error: RedisError) -> Failed {
        let is_slow = error.is_timeout();
        let failed = Failed::of(error).after_sending();
        // A Cluster's makes lost connections to nodes anew. One that does not get over something is replaced as a whole.
        let give_up = if is_cluster { is_slow } else { failed.is_of_connection() };
        if give_up {
            let mut current = self.current.lock();
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                *current = None;
            }
        }
        failed
    }

    /// The way into the connection to one server, if that is what there is.
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

    /// The connection that there is, or a new one. Of those who come while it is made, nobody tries again by themselves
    /// when it fails: all fail at once.
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
            return Err(ConnectError::Unreachable(not_connected("another call has just tried to connect, in vain")));
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
            Connection::One { mut connection, .. } => {
                Ok(Settings::read(&mut connection).await?.syncs_each_write(&mut connection).await)
            }
            // A failover can lose what one server has on its disk.
            Connection::Cluster(_) => Ok(false),
        }
    }

    async fn open(&self, source: &mut Source) -> Result<Connection, ConnectError> {
        // Sentinels are asked one after the other, and a node of a Cluster can be down.
        let limit = match source {
            Source::Address(_) => self.connect_timeout,
            Source::Sentinels(_) | Source::Cluster(_) => self.connect_timeout * 3,
        };
        let timed_out = |_| ConnectError::Unreachable(not_connected("no connection in time"));
        tokio::time::timeout(limit, self.open_and_check(source)).await.map_err(timed_out)?
    }

    /// The next primary may be set up in another way than the one before, so that each is asked.
    async fn open_and_check(&self, source: &mut Source) -> Result<Connection, ConnectError> {
        let opened = match source {
            Source::Address(client) => client.get_multiplexed_async_connection_with_config(&self.config).await,
            Source::Sentinels(client) => client.get_async_connection_with_config(&self.config).await,
            Source::Cluster(client) => {
                let mut connection = client.get_async_connection().await.map_err(ConnectError::Unreachable)?;
                for settings in Settings::read_primaries(&mut connection).await? {
                    settings.check(self.needs)?;
                }
                return Ok(Connection::Cluster(connection));
            }
        };
        let mut connection = opened.map_err(ConnectError::Unreachable)?;
        Settings::read(&mut connection).await?.check(self.needs)?;
        Ok(Connection::One { batches: Batches::new(connection.clone(), self.wait), connection })
    }
}

/// Asks a server in use now and then whether it still keeps what it is given; gives the connection up if it does not, so
/// that the next call connects anew and is told why it cannot. Ends with the connection of this number.
async fn check(current: Weak<Current>, number: u64, needs: Needs, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let connection = match current.upgrade().and_then(|current| current.lock().clone()) {
            Some((at, connection)) if at == number => connection,
            _ => return,
        };
        let settings = match connection {
            Connection::One { mut connection, .. } => Settings::read(&mut connection).await.map(|one| vec![one]),
            Connection::Cluster(mut cluster) => Settings::read_primaries(&mut cluster).await,
        };
        // A server that does not answer is noticed by the calls.
        let Ok(settings) = settings else { continue };
        let checked = settings.iter().try_for_each(|settings| settings.check_again(needs));
        if let (Err(error), Some(current)) = (checked, current.upgrade()) {
            tracing::error!(%error, "Redis no longer keeps what it is given; it is not used until that is mended");
            let mut current = current.lock();
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                *current = None;
            }
            return;
        }
    }
}

/// A command, and the replicas that must have what it writes.
#[derive(Clone, Copy)]
struct Call<'c> {
    command: &'c Cmd,
    wait: Option<Wait>,
}

impl Call<'_> {
    async fn send(self, connection: Connection) -> Result<Reply, RedisError> {
        let Self { command, wait } = self;
        match (connection, wait) {
            (Connection::One { batches, .. }, _) => batches.send(command.clone(), wait.is_some()).await,
            (Connection::Cluster(mut cluster), None) => {
                Ok(Reply { value: command.query_async(&mut cluster).await?, replicas: None })
            }
            (Connection::Cluster(mut cluster), Some(Wait { replicas, timeout })) => {
                let mut both = Pipeline::with_capacity(2);
                both.add_command(command.clone());
                both.add_command(cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
                let (value, replicas) = both.query_async(&mut cluster).await?;
                Ok(Reply { value, replicas: Some(replicas) })
            }
        }
    }

    /// The reply, if as many replicas have what was written as must.
    fn acknowledged(self, Reply { value, replicas: have }: Reply) -> Result<Value, Failed> {
        match (self.wait, have) {
            (Some(Wait { replicas, .. }), Some(have)) if have < replicas.into() => Err(Failed::TooFewReplicas(have)),
            (Some(_), None) => Err(Failed::Nonsense),
            _ => Ok(value),
        }
    }
}

/// How long a reply may take.
pub(super) fn reply_max(options: &Options) -> Duration {
    options.response_timeout + options.wait.map_or(Duration::ZERO, |wait| wait.timeout)
}

fn not_connected(why: &'static str) -> RedisError {
    (redis::ErrorKind::Client, why).into()
}
