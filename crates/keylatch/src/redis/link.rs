//! The connection: one for all calls at once, made anew when it is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value, cmd};

use super::error::{ConnectError, Failed};
use super::options::{Options, Wait};
use super::server::{Needs, Settings};

/// The way to the server, or servers. Each call is sent at once, behind those before it, and its reply is told from
/// theirs by the order; a call that is given up leaves its place, so that nobody gets another's reply.
pub(super) struct Link {
    route: Route,
    wait: Option<Wait>,
    /// No call takes longer, whatever becomes of it on its way.
    call_max: Duration,
}

enum Route {
    One(Box<One>),
    Cluster(ClusterConnection),
}

/// How often a call is sent at most, where its reply is lost with the connection. Each call of a store can be sent
/// again.
const SENDS_MAX: usize = 2;

impl Link {
    pub(super) fn to_one(source: Source, options: &Options) -> Self {
        Self { route: Route::One(Box::new(One::new(source, options))), wait: options.wait, call_max: call_max(options) }
    }

    pub(super) fn to_cluster(connection: ClusterConnection, options: &Options) -> Self {
        Self { route: Route::Cluster(connection), wait: options.wait, call_max: call_max(options) }
    }

    /// Whether writes wait for replicas.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// Connects, if that has not been done, and returns the connection where it is to one server.
    pub(super) async fn connection(&self) -> Result<Option<MultiplexedConnection>, ConnectError> {
        match &self.route {
            Route::One(one) => Ok(Some(one.connection().await?.1)),
            Route::Cluster(_) => Ok(None),
        }
    }

    /// Sends a call that writes nothing.
    pub(super) async fn read(&self, command: &Cmd) -> Result<Value, Failed> {
        self.send(&Call::Alone(command)).await
    }

    /// Sends a call that may write, and waits for the replicas that must have it.
    pub(super) async fn write(&self, command: &Cmd) -> Result<Value, Failed> {
        let Some(Wait { replicas, timeout }) = self.wait else { return self.read(command).await };
        let mut both = Pipeline::with_capacity(2);
        both.add_command(command.clone());
        both.add_command(cmd("WAIT").arg(replicas).arg(millis(timeout)).to_owned());
        match self.send(&Call::Waiting(&both)).await? {
            Value::Array(mut replies) if replies.len() == 2 => match replies.pop() {
                Some(Value::Int(have)) if have >= replicas.into() => Ok(replies.remove(0)),
                Some(Value::Int(have)) => Err(Failed::TooFewReplicas(have)),
                _ => Err(Failed::Nonsense),
            },
            _ => Err(Failed::Nonsense),
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<Value, Failed> {
        let timed_out = |_| Failed::Unanswered(not_connected("no reply in time"));
        tokio::time::timeout(self.call_max, self.send_on_route(call)).await.map_err(timed_out)?
    }

    async fn send_on_route(&self, call: &Call<'_>) -> Result<Value, Failed> {
        match &self.route {
            Route::Cluster(connection) => call.send(&mut connection.clone()).await.map_err(Failed::of),
            Route::One(one) => {
                let mut sends = 1;
                loop {
                    match one.send(call).await {
                        Err(Failed::Unanswered(error)) if sends < SENDS_MAX && error.is_connection_dropped() => {
                            sends += 1;
                        }
                        done => return done,
                    }
                }
            }
        }
    }
}

enum Call<'c> {
    Alone(&'c Cmd),
    /// The second reply is the number of replicas that have the write.
    Waiting(&'c Pipeline),
}

impl Call<'_> {
    async fn send(&self, connection: &mut (impl redis::aio::ConnectionLike + Send)) -> Result<Value, RedisError> {
        match self {
            Self::Alone(command) => command.query_async(connection).await,
            Self::Waiting(both) => both.query_async(connection).await,
        }
    }
}

/// Where the one server is.
pub(super) enum Source {
    /// At this address.
    Address(Box<Client>),
    /// Where the Sentinels say that the primary is, now.
    Sentinels(Box<SentinelClient>),
}

/// The connection to one server.
struct One {
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    /// Held by whoever makes a new connection, for all who wait for it.
    connecting: tokio::sync::Mutex<Source>,
    /// How many attempts to connect have ended; the number of a connection is that of its attempt.
    attempts: AtomicU64,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    needs: Needs,
}

impl One {
    fn new(source: Source, options: &Options) -> Self {
        Self {
            current: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(source),
            attempts: AtomicU64::new(0),
            config: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(options.connect_timeout))
                .set_response_timeout(Some(options.response_timeout)),
            connect_timeout: options.connect_timeout,
            needs: options.needs(),
        }
    }

    async fn send(&self, call: &Call<'_>) -> Result<Value, Failed> {
        let (number, mut connection) = self.connection().await.map_err(Failed::Unreachable)?;
        let failed = match call.send(&mut connection).await {
            Ok(value) => return Ok(value),
            Err(error) => Failed::of(error).after_sending(),
        };
        if failed.is_of_connection() {
            let mut current = self.current.lock();
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                *current = None;
            }
        }
        Err(failed)
    }

    /// The connection that there is, or a new one. Of those who come while it is made, nobody tries again by themselves
    /// when it fails: all fail at once.
    async fn connection(&self) -> Result<(u64, MultiplexedConnection), ConnectError> {
        if let Some(connection) = self.current.lock().clone() {
            return Ok(connection);
        }
        let seen = self.attempts.load(Ordering::Acquire);
        let mut source = self.connecting.lock().await;
        if let Some(connection) = self.current.lock().clone() {
            return Ok(connection);
        }
        if self.attempts.load(Ordering::Acquire) != seen {
            return Err(ConnectError::Unreachable(not_connected("another call has just tried to connect, in vain")));
        }
        let opened = self.open(&mut source).await;
        let number = self.attempts.fetch_add(1, Ordering::AcqRel) + 1;
        let connection = (number, opened?);
        *self.current.lock() = Some(connection.clone());
        Ok(connection)
    }

    async fn open(&self, source: &mut Source) -> Result<MultiplexedConnection, ConnectError> {
        // Sentinels are asked one after the other.
        let limit = match source {
            Source::Address(_) => self.connect_timeout,
            Source::Sentinels(_) => self.connect_timeout * 3,
        };
        let opening = async {
            let mut connection = match source {
                Source::Address(client) => client.get_multiplexed_async_connection_with_config(&self.config).await,
                Source::Sentinels(client) => client.get_async_connection_with_config(&self.config).await,
            }
            .map_err(ConnectError::Unreachable)?;
            // The next primary may be set up in another way than the one before.
            Settings::read(&mut connection).await?.check(self.needs)?;
            Ok(connection)
        };
        let timed_out = |_| ConnectError::Unreachable(not_connected("no connection in time"));
        tokio::time::timeout(limit, opening).await.map_err(timed_out)?
    }
}

/// Time for a connection and a reply, or for a second reply where the first was lost.
fn call_max(options: &Options) -> Duration {
    options.connect_timeout * 3
        + options.response_timeout * 2
        + options.wait.map_or(Duration::ZERO, |wait| wait.timeout)
}

fn not_connected(why: &'static str) -> RedisError {
    (redis::ErrorKind::Client, why).into()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
