//! How to reach Kafka.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;

use crate::telemetry::STATISTICS_MS;

/// The brokers, and settings of librdkafka for both consumers and producers.
///
/// ```
/// use keylatch_kafka::Kafka;
///
/// let kafka = Kafka::new("127.0.0.1:9092").with("client.id", "inventory");
/// ```
///
/// For TLS and SASL, build with the feature `tls`, and set `security.protocol` and what belongs to it.
#[derive(Clone)]
pub struct Kafka {
    servers: String,
    settings: BTreeMap<String, String>,
}

/// A setting, or several, that cannot be used. All are named at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidSettings(Vec<String>);

/// Settings that the promises rest on, and why each is not the user's.
const OURS: [(&str, &str); 8] = [
    ("bootstrap.servers", SERVERS),
    ("metadata.broker.list", SERVERS),
    ("enable.auto.commit", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("auto.commit.enable", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("offset.store.method", COMMITS),
    ("log_level", "tracing decides what is logged, under the target `rdkafka`"),
];
const SERVERS: &str = "the brokers are given to Kafka::new";
const COMMITS: &str = "the place is in the database, and Kafka's own commit follows it";

const OF_CONSUMERS: [(&str, &str, &str); 8] = [
    ("group.id", "", "it is the consumer's name"),
    ("isolation.level", "read_committed", "messages of aborted transactions must not be applied"),
    ("auto.offset.reset", "error", "a consumer never jumps by itself; see Consumer::start_at"),
    ("auto.offset.reset.topic", "", "a consumer never jumps by itself; see Consumer::start_at"),
    ("partition.assignment.strategy", "cooperative-sticky", "partitions move one by one"),
    ("enable.partition.eof", "false", "the consumer does not need it"),
    ("allow.auto.create.topics", "false", "a topic that is not there is waited for"),
    ("check.crcs", "true", "a damaged message must not be applied"),
];

const OF_PRODUCERS: [(&str, &str, &str); 11] = [
    ("enable.idempotence", "true", "the broker drops duplicates of a retry and keeps the order"),
    ("acks", "all", ACKS),
    ("request.required.acks", "", ACKS),
    // As the clients in Java: they and this one put a key on the same partition.
    ("partitioner", "murmur2_random", "a key goes to the same partition as with Kafka's own clients"),
    ("delivery.timeout.ms", "", TIME),
    ("message.timeout.ms", "", TIME),
    ("transactional.id", "", "the database's transaction decides what is published"),
    ("enable.gapless.guarantee", "true", ORDER),
    ("max.in.flight", "", ORDER),
    ("max.in.flight.requests.per.connection", "", ORDER),
    ("queuing.strategy", "", ORDER),
];
/// What the client keeps of a partition whose worker has no room, and how soon it fetches again once there is room; its own
/// defaults are 64 MiB and a second.
const AHEAD: [(&str, &str); 2] = [("queued.max.messages.kbytes", "4096"), ("fetch.queue.backoff.ms", "20")];
const STATISTICS: &str = "statistics.interval.ms";
const PROPAGATION: &str = "topic.metadata.propagation.max.ms";
const ACKS: &str = "an event is removed once all replicas in sync have it";
const TIME: &str = "it follows from the relay's lease";
const ORDER: &str = "events of a key keep their order";

impl Kafka {
    /// The cluster that these brokers are of: `host:port`, several with commas.
    pub fn new(servers: impl Into<String>) -> Self {
        Self { servers: servers.into(), settings: BTreeMap::new() }
    }

    /// With a [setting of librdkafka](https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md).
    ///
    /// Settings on which Keylatch's promises rest cannot be changed: whoever is made with them refuses them by name, and
    /// refuses those that librdkafka does not know.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// The configuration of a consumer of `group`.
    pub(crate) fn consumer(&self, group: &str) -> Result<ClientConfig, InvalidSettings> {
        let mut config = self.config(&OF_CONSUMERS)?;
        config.set("group.id", group).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        for (name, value) in AHEAD.into_iter().chain([(STATISTICS, STATISTICS_MS)]) {
            if !self.settings.contains_key(name) {
                config.set(name, value);
            }
        }
        if self.settings.get("group.protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("consumer")) {
            // The broker assigns, and the client refuses to be told how.
            config.remove("partition.assignment.strategy");
        }
        checked(config)
    }

    /// The configuration of a producer whose messages are given up after `timeout_ms`.
    pub(crate) fn producer(&self, timeout_ms: u64, propagation_ms: &str) -> Result<ClientConfig, InvalidSettings> {
        let mut config = self.config(&OF_PRODUCERS)?;
        config.set("message.timeout.ms", timeout_ms.to_string());
        if !self.settings.contains_key(PROPAGATION) {
            config.set(PROPAGATION, propagation_ms);
        }
        checked(config)
    }

    fn config(&self, ours: &[(&str, &str, &str)]) -> Result<ClientConfig, InvalidSettings> {
        let mut refused = Vec::new();
        let why = OURS.iter().copied().chain(ours.iter().map(|(name, _, why)| (*name, *why)));
        for (name, why) in why.filter(|(name, _)| self.settings.contains_key(*name)) {
            refused.push(format!("the setting {name} is not yours: {why}"));
        }
        if self.servers.trim().is_empty() {
            refused.push("no broker is given".to_owned());
        }
        if !refused.is_empty() {
            return Err(InvalidSettings(refused));
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers);
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        for (name, value, _) in ours.iter().filter(|(_, value, _)| !value.is_empty()) {
            config.set(*name, *value);
        }
        Ok(config)
    }
}

/// librdkafka says what it does not know before anything is started.
fn checked(config: ClientConfig) -> Result<ClientConfig, InvalidSettings> {
    match config.create_native_config() {
        Ok(_) => Ok(config),
        // Without the value, which may be a password.
        Err(KafkaError::ClientConfig(_, said, name, _)) => {
            Err(InvalidSettings(vec![format!("the setting {name} is not accepted: {}", without_value(&said))]))
        }
        Err(error) => Err(InvalidSettings(vec![error.to_string()])),
    }
}

fn without_value(said: &str) -> &str {
    said.split(['"', '\'']).next().unwrap_or_default().trim_end()
}

/// Without the settings, which may be passwords.
impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kafka({}, {} settings)", self.servers, self.settings.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_promises_rest_on_is_refused_by_name_and_all_at_once() {
        let kafka = Kafka::new("h:1").with("enable.auto.commit", "true").with("isolation.level", "read_uncommitted");
        let said = kafka.consumer("g").unwrap_err().to_string();
        assert!(said.contains("enable.auto.commit") && said.contains("isolation.level"), "{said}");
        for (name, _, _) in OF_CONSUMERS {
            assert!(Kafka::new("h:1").with(name, "x").consumer("g").unwrap_err().to_string().contains(name));
        }
        for (name, _, _) in OF_PRODUCERS {
            assert!(Kafka::new("h:1").with(name, "x").producer(1_000, "2000").unwrap_err().to_string().contains(name));
        }
        for (name, _) in OURS {
            assert!(Kafka::new("h:1").with(name, "x").consumer("g").unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn what_nobody_knows_is_refused() {
        let said = Kafka::new("h:1").with("no.such.setting", "secret").consumer("g").unwrap_err().to_string();
        assert!(said.contains("no.such.setting") && !said.contains("secret"), "{said}");
        let said = Kafka::new("h:1").with("session.timeout.ms", "secret").consumer("g").unwrap_err().to_string();
        assert!(said.contains("session.timeout.ms") && !said.contains("secret"), "{said}");
        assert!(Kafka::new(" ").consumer("g").is_err());
    }

    #[test]
    fn both_protocols_are_accepted() {
        let classic = Kafka::new("h:1").with("session.timeout.ms", "6000").with("group.instance.id", "a");
        let config = classic.consumer("g").unwrap();
        assert_eq!(config.get("partition.assignment.strategy"), Some("cooperative-sticky"));
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
        let config = Kafka::new("h:1").with("group.protocol", "consumer").consumer("g").unwrap();
        assert_eq!(config.get("partition.assignment.strategy"), None);
        let config = Kafka::new("h:1").producer(5_000, "2000").unwrap();
        assert_eq!(config.get("acks"), Some("all"));
        assert_eq!(config.get("message.timeout.ms"), Some("5000"));
    }
}
