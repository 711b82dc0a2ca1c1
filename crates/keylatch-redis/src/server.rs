//! The settings of a server, and whether it may keep records.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{ErrorKind, FromRedisValue as _, Value, cmd};

use super::batch::Batches;
use super::error::ConnectError;
use super::marks::Marks;
use keylatch_core::{Clock, Timestamp};

const UNREACHABLE_AS_TOLD: &str = "a configured address of the Cluster answers, but no node can be reached at the \
                                   address that the nodes announce, or its certificate is not valid for that name; see \
                                   cluster-announce-ip, cluster-announce-hostname and cluster-preferred-endpoint-type";

/// The settings that decide what an acknowledged write survives.
#[derive(Debug)]
pub(super) struct Settings {
    policy: String,
    append_only: bool,
    primary: bool,
    version: String,
    clock: Timestamp,
}

/// The first version of Redis with all that is needed: `SET` with `NX` and `GET` together, `PEXPIRETIME`, and scripts that
/// say what they do.
const VERSION_MIN: u32 = 7;

/// How far the server's clock may differ from this process's before a warning: more than a bad time service explains.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(60);

/// What a server is needed for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needs {
    /// It keeps copies, which may be lost.
    Nothing,
    /// It keeps records.
    Records { eviction_allowed: bool },
}

impl Settings {
    /// Asks the server at the other end of a connection.
    pub(super) async fn read(connection: &mut impl ConnectionLike) -> Result<Self, ConnectError> {
        let info = cmd("INFO").query_async::<String>(connection).await.map_err(ConnectError::Unreachable)?;
        Self::parse(&info)
    }

    /// Asks the server of these batches.
    pub(super) async fn read_by(batches: &Batches) -> Result<Self, ConnectError> {
        let reply = batches.send(&cmd("INFO"), Marks::NONE, false).await.map_err(ConnectError::Unreachable)?;
        Self::of(reply.value)
    }

    /// Asks every primary of a Cluster.
    pub(super) async fn read_primaries(connection: &mut ClusterConnection) -> Result<Vec<Self>, ConnectError> {
        let primaries = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let replies = connection.route_command(cmd("INFO"), primaries).await.map_err(|error| match error.kind() {
            // Each of these was tried and failed, and the client does not report the errors.
            ErrorKind::ClusterConnectionNotFound => {
                ConnectError::Unreachable((error.kind(), UNREACHABLE_AS_TOLD).into())
            }
            _ => ConnectError::Unreachable(error),
        })?;
        let Value::Map(replies) = replies else { return Err(ConnectError::Settings("INFO of the primaries")) };
        replies.into_iter().map(|(_, reply)| Self::of(reply)).collect()
    }

    /// The settings in the reply to `INFO`.
    fn of(reply: Value) -> Result<Self, ConnectError> {
        Self::parse(&String::from_redis_value(reply).map_err(|_| ConnectError::Settings("INFO is no text"))?)
    }

    fn parse(info: &str) -> Result<Self, ConnectError> {
        let field = |name: &'static str| {
            let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim).ok_or(ConnectError::Settings(name))
        };
        Ok(Self {
            policy: field("maxmemory_policy")?.to_owned(),
            append_only: field("aof_enabled")? == "1",
            primary: field("role")? == "master",
            // Valkey, too, says which Redis it is like.
            version: field("redis_version")?.to_owned(),
            clock: field("server_time_usec")?
                .parse()
                .map(|micros: i64| Timestamp::from_millis(micros / 1_000))
                .map_err(|_| ConnectError::Settings("server_time_usec"))?,
        })
    }

    /// Refuses a server that evicts records or takes no writes, and warns about one that forgets them after a crash.
    pub(super) fn check(&self, needs: Needs) -> Result<(), ConnectError> {
        if !self.primary {
            return Err(ConnectError::Replica);
        }
        let eviction_allowed = match needs {
            Needs::Nothing => return Ok(()),
            Needs::Records { eviction_allowed } => eviction_allowed,
        };
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < VERSION_MIN) {
            return Err(ConnectError::Version { version: self.version.clone() });
        }
        if self.policy != "noeviction" {
            if !eviction_allowed {
                return Err(ConnectError::Eviction { policy: self.policy.clone() });
            }
            tracing::warn!(
                policy = self.policy,
                "Redis may evict records: a request whose record was evicted runs again"
            );
        }
        if !self.append_only {
            tracing::warn!(
                "Redis has no append-only file: a crash loses records, and their requests then run again; set \
                 appendonly to yes"
            );
        }
        self.check_clock(Clock::system().now());
        Ok(())
    }

    /// The same for a server that was checked before and is still in use: reports only what has changed since.
    pub(super) fn check_again(&self, needs: Needs) -> Result<(), ConnectError> {
        match needs {
            Needs::Records { eviction_allowed: false } if self.policy != "noeviction" => {
                Err(ConnectError::Eviction { policy: self.policy.clone() })
            }
            Needs::Records { .. } => {
                self.check_clock(Clock::system().now());
                Ok(())
            }
            Needs::Nothing => Ok(()),
        }
    }

    /// Warns about a clock that differs from this process's: one of the two is wrong, and leases and retention end by
    /// the server's.
    fn check_clock(&self, ours: Timestamp) {
        let apart = self.clock.until(ours).max(ours.until(self.clock));
        if apart > CLOCKS_APART_MAX {
            tracing::warn!(
                seconds = apart.as_secs(),
                ahead = self.clock > ours,
                "the clock of Redis differs by more than a minute from this machine's: if it is set forward, leases \
                 and answers end early; synchronise both with NTP"
            );
        }
    }

    /// Whether each write is on its disk before it is acknowledged, whatever else the server does.
    pub(super) async fn syncs_each_write(&self, connection: &mut impl ConnectionLike) -> bool {
        if !self.append_only {
            return false;
        }
        // With `no-appendfsync-on-rewrite` nothing is synced while a child process saves.
        let (always, on_rewrite) = (
            setting(connection, "appendfsync").await.as_deref() == Some("always"),
            setting(connection, "no-appendfsync-on-rewrite").await.as_deref() == Some("no"),
        );
        if always && !on_rewrite {
            tracing::warn!(
                "Redis syncs each write, but not while it saves or rewrites its append-only file; set \
                 no-appendfsync-on-rewrite to no"
            );
        }
        always && on_rewrite
    }
}

/// A setting; `None` if the user may not read it, and then the store reports a lower durability.
async fn setting(connection: &mut impl ConnectionLike, name: &str) -> Option<String> {
    let pair = cmd("CONFIG").arg("GET").arg(name).query_async::<Vec<String>>(connection).await.ok()?;
    pair.into_iter().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(policy: &str, role: &str) -> String {
        let server = "redis_version:7.0.0\r\nserver_time_usec:1\r\n";
        format!("{server}# Memory\r\nmaxmemory_policy:{policy}\r\n# Persistence\r\naof_enabled:1\r\nrole:{role}\r\n")
    }

    #[test]
    fn a_server_that_forgets_is_refused() {
        let checked = |policy, role, allowed| {
            Settings::parse(&info(policy, role)).unwrap().check(Needs::Records { eviction_allowed: allowed })
        };
        assert!(checked("noeviction", "master", false).is_ok());
        assert!(matches!(checked("allkeys-lru", "master", false), Err(ConnectError::Eviction { .. })));
        assert!(matches!(checked("volatile-ttl", "master", false), Err(ConnectError::Eviction { .. })));
        assert!(checked("allkeys-lru", "master", true).is_ok());
        assert!(matches!(checked("noeviction", "slave", true), Err(ConnectError::Replica)));
        let old = info("noeviction", "master").replace("7.0.0", "6.2.14");
        let refused = Settings::parse(&old).unwrap().check(Needs::Records { eviction_allowed: false });
        assert!(matches!(refused, Err(ConnectError::Version { version }) if version == "6.2.14"));
        assert!(matches!(Settings::parse("role:master\r\n"), Err(ConnectError::Settings(_))));
    }
}
