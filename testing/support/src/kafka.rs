//! Apache Kafka brokers for tests: KRaft, on free ports, with private directories, gone with the process that started
//! them.
//!
//! They need Java 17 and Maven, which fetches the jars that `dev/kafka/pom.xml` names, once, into the target directory.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::guarded::Guarded;
use super::jars::{self, Jars};
use super::ports::free_port;

static JARS: Jars = Jars::new("kafka", "4.3.1");
/// How long a broker may take to serve after its start. On two busy cores it takes long.
const START_MAX: Duration = Duration::from_secs(90);
/// Of every test cluster. Only its own brokers know its ports.
const CLUSTER_ID: &str = "keylatchTestsOfKafka0w";
/// How a process that serves a test's time starts soon.
const JAVA: [&str; 4] = ["-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A cluster of brokers, each of which is a controller as well. It goes when it is dropped, or when the process ends.
#[derive(Debug)]
pub struct Cluster {
    brokers: Vec<Broker>,
}

#[derive(Debug)]
struct Broker {
    port: u16,
    program: Guarded,
}

/// The broker that all tests of a program share. Each test uses topics and groups of its own.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(1))
}

impl Cluster {
    /// Starts so many brokers, and waits until they serve. With three, each topic has three replicas, and a write needs
    /// two.
    ///
    /// # Panics
    ///
    /// If Java or Maven is not installed, with the command that installs it; or if a broker does not start.
    pub fn start(brokers: usize) -> Self {
        let ports: Vec<_> = (0..brokers).map(|_| (free_port(), free_port())).collect();
        let voters: Vec<_> = (1..).zip(&ports).map(|(id, (_, port))| format!("{id}@127.0.0.1:{port}")).collect();
        let brokers: Vec<_> = (1..)
            .zip(&ports)
            .map(|(id, (port, controller))| Broker::make(id, *port, *controller, &voters.join(","), ports.len()))
            .collect();
        let cluster = Self { brokers };
        // All at once: one alone has no quorum, and does not serve.
        for broker in &cluster.brokers {
            broker.run();
        }
        for broker in &cluster.brokers {
            broker.await_ready();
        }
        cluster
    }

    /// The addresses of all brokers, for `bootstrap.servers`.
    pub fn servers(&self) -> String {
        let servers: Vec<_> = self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect();
        servers.join(",")
    }

    /// Makes a topic, with as many replicas as there are brokers.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn create_topic(&self, topic: &str, partitions: u32) {
        let output = Command::new(jars::java())
            .args(JAVA)
            .arg("-cp")
            .arg(JARS.class_path())
            .args(["org.apache.kafka.tools.TopicCommand", "--create", "--topic", topic, "--bootstrap-server"])
            .args([self.servers(), "--partitions".to_owned(), partitions.to_string()])
            .output()
            .expect("java runs");
        assert!(output.status.success(), "the topic was not made: {output:?}");
    }

    /// Stops a broker in order. Brokers count from 0.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub fn stop(&self, broker: usize) {
        let broker = &self.brokers[broker];
        broker.program.signal(Signal::TERM);
        let started = Instant::now();
        while !broker.program.has_ended() {
            assert!(started.elapsed() < START_MAX, "the broker does not stop: {}", broker.program.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        broker.program.end();
    }

    /// Kills a broker on the spot with SIGKILL, and waits until it is gone. Its files stay.
    pub fn kill(&self, broker: usize) {
        self.brokers[broker].program.end();
    }

    /// Starts a broker again, on the same ports and files, and waits until it serves.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&self, broker: usize) {
        let broker = &self.brokers[broker];
        broker.program.end();
        broker.run();
        broker.await_ready();
    }

    /// Stops a broker with SIGSTOP: its connections stay, and nothing is answered.
    pub fn pause(&self, broker: usize) {
        self.brokers[broker].program.signal(Signal::STOP);
    }

    /// Lets a broker go on after a [`pause`](Self::pause).
    pub fn resume(&self, broker: usize) {
        self.brokers[broker].program.signal(Signal::CONT);
    }

    /// What a broker has logged since its last start.
    pub fn log(&self, broker: usize) -> String {
        self.brokers[broker].program.log()
    }
}

impl Broker {
    fn make(id: usize, port: u16, controller: u16, voters: &str, brokers: usize) -> Self {
        let program = Guarded::in_directory("keylatch-kafka-");
        let in_sync = brokers.div_ceil(2);
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id={id}\n\
             controller.quorum.voters={voters}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             default.replication.factor={brokers}\n\
             min.insync.replicas={in_sync}\n\
             offsets.topic.num.partitions=1\n\
             offsets.topic.replication.factor={brokers}\n\
             transaction.state.log.num.partitions=1\n\
             transaction.state.log.replication.factor={brokers}\n\
             transaction.state.log.min.isr={in_sync}\n\
             group.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=500\n\
             group.consumer.min.session.timeout.ms=500\n\
             group.consumer.session.timeout.ms=3000\n\
             group.consumer.min.heartbeat.interval.ms=100\n\
             group.consumer.heartbeat.interval.ms=300\n\
             log.retention.check.interval.ms=500\n\
             log.initial.task.delay.ms=500\n\
             log.cleaner.backoff.ms=200\n",
            data = program.directory.join("data").display(),
        );
        fs::write(program.directory.join("server.properties"), properties).expect("the directory is writable");
        let output = Command::new(jars::java())
            .args(JAVA)
            .arg("-cp")
            .arg(JARS.class_path())
            .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
            .arg(program.directory.join("server.properties"))
            .output()
            .expect("java runs");
        assert!(output.status.success(), "the storage was not formatted: {output:?}");
        Self { port, program }
    }

    fn run(&self) {
        let properties = self.program.directory.join("server.properties").display().to_string();
        let args = ["-cp".to_owned(), JARS.class_path(), "kafka.Kafka".to_owned(), properties];
        self.program.run(&jars::java(), JAVA.map(str::to_owned).into_iter().chain(args));
    }

    fn await_ready(&self) {
        let started = Instant::now();
        // Its port opens earlier.
        while !(self.program.log().contains("Kafka Server started") && self.answers()) {
            let ended = self.program.has_ended();
            assert!(!ended && started.elapsed() < START_MAX, "the broker did not start: {}", self.program.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_stops_and_goes() {
        let cluster = Cluster::start(1);
        let directory = cluster.brokers[0].program.directory.clone();
        assert!(cluster.brokers[0].answers());
        cluster.kill(0);
        assert!(!cluster.brokers[0].answers());
        cluster.start_again(0);
        assert!(cluster.brokers[0].answers());
        cluster.stop(0);
        assert!(!cluster.brokers[0].answers());
        assert!(directory.exists());
        drop(cluster);
        assert!(!directory.exists());
    }
}
