//! Apache Cassandra for tests: nodes on addresses and ports of their own, with private directories, gone with the
//! process that started them.
//!
//! They need Java 17 and Maven, which fetches the jars that `dev/cassandra/pom.xml` names, once, into the target
//! directory. A node takes about 1 GB of memory, and 12 s to 25 s to start.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rustix::process::Signal;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::host_filter::AllowListHostFilter;

pub use network::Cut;
use network::{Network, known_as};

use super::certificates::{Authority, Certificate};
use super::eventually;
use super::guarded::Guarded;
use super::jars::{self, Jars};
use super::ports::free_port_on;

mod network;

/// A node of a test gives up a read that meets more tombstones. By default it is a hundred times as many: so a test sees
/// what a service would see after a hundred times as many keys.
pub const TOMBSTONES_MAX: u32 = 1_000;

static JARS: Jars = Jars::new("cassandra", "5.0.9");
/// How long a node may take to serve after its start. On two busy cores it takes long.
const START_MAX: Duration = Duration::from_secs(240);

/// A cluster of nodes. It goes when it is dropped, or when the process ends.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    /// Of CQL, the same on all nodes: that is how clients find the others.
    port: u16,
    network: Option<Network>,
    authority: Authority,
}

#[derive(Debug)]
struct Node {
    address: Ipv4Addr,
    port: u16,
    program: Guarded,
    /// The library that gives it a clock of its own.
    clock: Option<PathBuf>,
    of_use: Use,
}

/// What nodes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Right answers.
    Answers,
    /// Speed.
    Speed,
    /// Clocks of their own, and a network that can be cut.
    Faults,
}

/// How the nodes of a cluster are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// In one data centre, `dc1`.
    Together,
    /// Each in a data centre of its own: `dc1`, `dc2` and so on.
    Apart,
}

/// The node that all tests of a program share. Each test uses a keyspace or a prefix of its own.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_as(1, Spread::Together, Use::Answers))
}

/// The address of a new keyspace on that node, without tables.
///
/// # Panics
///
/// As [`Cluster::start`].
pub async fn shared_keyspace() -> String {
    static KEYSPACES: AtomicU32 = AtomicU32::new(0);
    let node = tokio::task::spawn_blocking(shared).await.expect("the node starts");
    let keyspace = format!("shared_{}", KEYSPACES.fetch_add(1, Ordering::Relaxed));
    node.make_keyspace(&keyspace, &[("dc1", 1)]).await;
    format!("{}?survives=nothing", node.url(&keyspace))
}

impl Cluster {
    /// Starts so many nodes in one data centre, and waits until they serve. They become as fast as a node gets.
    ///
    /// # Panics
    ///
    /// If Java or Maven is not installed, with the command that installs it; or if a node does not start.
    pub fn start(nodes: usize) -> Self {
        Self::start_as(nodes, Spread::Together, Use::Speed)
    }

    /// The same in one data centre or in several, where each node has [a clock of its own](Self::set_clock), and can be
    /// [cut off](Self::cut_off) from the others.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start), or if there is no C compiler.
    pub fn start_for_faults(nodes: usize, spread: Spread) -> Self {
        Self::start_as(nodes, spread, Use::Faults)
    }

    fn start_as(nodes: usize, spread: Spread, of_use: Use) -> Self {
        let faults = of_use == Use::Faults;
        // Loopback addresses that no other cluster is likely to have.
        let [a, b] = [rand::rng().random_range(1..255), rand::rng().random_range(0..255)];
        let own: Vec<_> = (1..).take(nodes).map(|last| Ipv4Addr::new(127, a, b, last)).collect();
        let known: Vec<_> = own.iter().map(|own| if faults { known_as(*own) } else { *own }).collect();
        let (port, storage) = (free_port_on(&own), free_port_on(&[&*own, &known].concat()));
        let network = faults.then(|| Network::start(&own, storage));
        let seeds: Vec<_> = known.iter().map(|known| format!("{known}:{storage}")).collect();
        let authority = Authority::new();
        let make = |(nth, address): (usize, &Ipv4Addr)| {
            let centre = if spread == Spread::Apart { nth + 1 } else { 1 };
            let node = Node::make(*address, port, (known[nth], storage), centre, &seeds.join(","), of_use);
            if of_use == Use::Answers {
                node.accept_tls(&authority);
            }
            node
        };
        let mut cluster = Self { nodes: own.iter().enumerate().map(make).collect(), port, network, authority };
        if faults {
            cluster.nodes.iter_mut().for_each(Node::give_clock);
        }
        // All at once: each is a seed.
        for node in &cluster.nodes {
            node.run();
        }
        for nth in 0..cluster.nodes.len() {
            cluster.await_ready(nth);
        }
        cluster
    }

    /// The address of a keyspace on all nodes, for a store.
    pub fn url(&self, keyspace: &str) -> String {
        format!("cassandra://{}/{keyspace}", self.servers().join(","))
    }

    /// The addresses of all nodes, each with its port.
    pub fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{}:{}", node.address, self.port)).collect()
    }

    /// Who has certified the [shared] node, and certifies the clients that it accepts over TLS. It also accepts
    /// those without TLS.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A session of a test's own.
    ///
    /// # Panics
    ///
    /// If no node can be reached.
    pub async fn session(&self) -> Session {
        SessionBuilder::new().known_nodes(self.servers()).build().await.expect("a node can be reached")
    }

    /// A session that asks this node alone.
    ///
    /// # Panics
    ///
    /// If the node cannot be reached.
    pub async fn session_on(&self, node: usize) -> Session {
        let server = &self.servers()[node];
        let only = AllowListHostFilter::new([server]).expect("an address");
        let builder = SessionBuilder::new().known_node(server).host_filter(Arc::new(only));
        builder.build().await.expect("the node can be reached")
    }

    /// Makes a keyspace with so many replicas in each of these data centres, and waits until every node knows it. Nodes
    /// that have just started may not know each other: then a client does not wait for all of them.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub async fn make_keyspace(&self, keyspace: &str, centres: &[(&str, u32)]) {
        let others = i64::try_from(self.nodes.len() - 1).expect("a few nodes");
        for node in 0..self.nodes.len() {
            let session = self.session_on(node).await;
            let all = async || first(&session, "SELECT COUNT(*) FROM system.peers_v2").await == Some(others);
            eventually(START_MAX, "a node knows all others", all).await;
        }
        let centres: Vec<_> = centres.iter().map(|(centre, replicas)| format!("'{centre}': {replicas}")).collect();
        let statement = format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', {}}}",
            centres.join(", ")
        );
        self.session().await.query_unpaged(statement, ()).await.expect("a keyspace can be made");
        let known = format!("SELECT COUNT(*) FROM system_schema.keyspaces WHERE keyspace_name = '{keyspace}'");
        for node in 0..self.nodes.len() {
            let session = self.session_on(node).await;
            eventually(START_MAX, "a node knows the keyspace", async || first(&session, &known).await == Some(1)).await;
        }
    }

    /// Kills a node on the spot with SIGKILL, and waits until it is gone. Its files stay. Nodes count from 0.
    pub fn kill(&self, node: usize) {
        self.nodes[node].program.end();
    }

    /// Starts a node again, on the same address and files, and waits until it serves.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&self, node: usize) {
        self.nodes[node].program.end();
        self.nodes[node].run();
        self.await_ready(node);
    }

    /// Stops a node with SIGSTOP: its connections stay, and nothing is answered.
    pub fn pause(&self, node: usize) {
        self.nodes[node].program.signal(Signal::STOP);
    }

    /// Lets a node go on after a [`pause`](Self::pause).
    pub fn resume(&self, node: usize) {
        self.nodes[node].program.signal(Signal::CONT);
    }

    /// Sets the clock of a node this far ahead of the machine's, or behind it, from now on. The cluster was
    /// [started](Self::start_for_faults) so.
    ///
    /// # Panics
    ///
    /// If the node has no clock of its own.
    pub fn set_clock(&self, node: usize, seconds_ahead: i64) {
        assert!(self.nodes[node].clock.is_some(), "the node has the machine's clock");
        write_clock(&self.nodes[node].program.directory, seconds_ahead);
    }

    /// Cuts a node off from the others, and the others from it. Clients reach all as before. The cluster was
    /// [started](Self::start_for_faults) so.
    ///
    /// # Panics
    ///
    /// If the nodes reach each other without a network of the test's.
    pub fn cut_off(&self, node: usize, cut: Cut) {
        self.between().cut_off(node, Some(cut));
    }

    /// Lets everything pass between a node and the others again, after it was [cut off](Self::cut_off).
    ///
    /// # Panics
    ///
    /// As [`cut_off`](Self::cut_off).
    pub fn mend(&self, node: usize) {
        self.between().cut_off(node, None);
    }

    fn between(&self) -> &Network {
        self.network.as_ref().expect("the nodes reach each other directly")
    }

    /// What a node has logged since its last start.
    pub fn log(&self, node: usize) -> String {
        self.nodes[node].program.log()
    }

    fn await_ready(&self, nth: usize) {
        let (node, started) = (&self.nodes[nth], Instant::now());
        while !(node.program.log().contains("Startup complete") && node.answers()) {
            let ended = node.program.has_ended();
            let waits = !ended && started.elapsed() < START_MAX;
            assert!(waits, "node {nth} did not start: {}", node.program.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Node {
    fn make(
        address: Ipv4Addr,
        port: u16,
        (known, storage): (Ipv4Addr, u16),
        centre: usize,
        seeds: &str,
        of_use: Use,
    ) -> Self {
        let program = Guarded::in_directory("keylatch-cassandra-");
        let at = |name: &str| program.directory.join(name).display().to_string();
        let mut yaml = format!(
            "cluster_name: keylatch\n\
             num_tokens: 4\n\
             partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
             endpoint_snitch: GossipingPropertyFileSnitch\n\
             seed_provider:\n\
             \x20 - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n\
             \x20   parameters: [{{seeds: \"{seeds}\"}}]\n\
             listen_address: {address}\n\
             broadcast_address: {known}\n\
             rpc_address: {address}\n\
             native_transport_port: {port}\n\
             storage_port: {storage}\n\
             commitlog_sync: periodic\n\
             commitlog_sync_period: 1000ms\n\
             paxos_variant: v2\n\
             auto_snapshot: false\n\
             data_file_directories: [{data}]\n\
             commitlog_directory: {log}\n\
             saved_caches_directory: {caches}\n\
             hints_directory: {hints}\n\
             cdc_raw_directory: {cdc}\n",
            data = at("data"),
            log = at("commitlog"),
            caches = at("saved_caches"),
            hints = at("hints"),
            cdc = at("cdc_raw"),
        );
        if of_use != Use::Speed {
            let warn = TOMBSTONES_MAX / 2;
            yaml += &format!("tombstone_warn_threshold: {warn}\ntombstone_failure_threshold: {TOMBSTONES_MAX}\n");
        }
        let write = |name: &str, text: &str| fs::write(at(name), text).expect("the directory is writable");
        write("cassandra.yaml", &yaml);
        write("cassandra-rackdc.properties", &format!("dc=dc{centre}\nrack=r1\n"));
        write("logback.xml", LOGBACK);
        Self { address, port, program, clock: None, of_use }
    }

    /// Makes it accept TLS as well, from clients that `authority` has certified.
    fn accept_tls(&self, authority: &Authority) {
        let at = |name: &str| self.program.directory.join(name);
        let Certificate { pem, key } = authority.certify(&[&self.address.to_string()]);
        let yaml = format!(
            "client_encryption_options:\n\
             \x20 enabled: true\n\
             \x20 optional: true\n\
             \x20 require_client_auth: true\n\
             \x20 ssl_context_factory: {{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}}\n\
             \x20 keystore: {}\n\
             \x20 truststore: {}\n",
            at("node.pem").display(),
            at("authority.pem").display(),
        );
        let written = fs::write(at("node.pem"), key + &pem)
            .and_then(|()| fs::write(at("authority.pem"), authority.pem()))
            .and_then(|()| self.append(&yaml));
        written.expect("the directory is writable");
    }

    fn append(&self, yaml: &str) -> std::io::Result<()> {
        fs::File::options().append(true).open(self.program.directory.join("cassandra.yaml"))?.write_all(yaml.as_bytes())
    }

    /// Builds the library that stands before the machine's clock. By default a node takes messages of nodes whose clocks
    /// are behind for expired, and is as good as dead; here it takes part.
    fn give_clock(&mut self) {
        self.append("internode_timeout: false\n").expect("the directory is writable");
        let library = self.program.directory.join("clock.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cassandra/clock.c");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
        let compiled = compiled.expect("cc is installed: apt-get install gcc libc6-dev");
        assert!(compiled.success(), "clock.c was not compiled");
        write_clock(&self.program.directory, 0);
        self.clock = Some(library);
    }

    fn run(&self) {
        let at = |name: &str| self.program.directory.join(name).display().to_string();
        let mut args: Vec<String> = JAVA.map(str::to_owned).into();
        // To compile it as well as Java can takes minutes to pay.
        args.extend((self.of_use != Use::Speed).then(|| "-XX:TieredStopAtLevel=1".to_owned()));
        args.extend(OPENED.iter().map(|package| format!("--add-opens={package}=ALL-UNNAMED")));
        args.extend(EXPORTED.iter().map(|package| format!("--add-exports={package}=ALL-UNNAMED")));
        args.extend([
            format!("-Dcassandra.config=file://{}", at("cassandra.yaml")),
            format!("-Dcassandra-rackdc.properties=file://{}", at("cassandra-rackdc.properties")),
            format!("-Dlogback.configurationFile={}", at("logback.xml")),
            format!("-Dcassandra.storagedir={}", self.program.directory.display()),
            "-cp".to_owned(),
            JARS.class_path(),
            "org.apache.cassandra.service.CassandraDaemon".to_owned(),
        ]);
        let Some(clock) = &self.clock else { return self.program.run(&jars::java(), args) };
        let before = [
            format!("LD_PRELOAD={}", clock.display()),
            format!("KEYLATCH_CLOCK={}", at(CLOCK_FILE)),
            jars::java().display().to_string(),
        ];
        self.program.run(&PathBuf::from("env"), before.into_iter().chain(args));
    }

    fn answers(&self) -> bool {
        TcpStream::connect((self.address, self.port)).is_ok()
    }
}

/// The first number that a statement reads.
async fn first(session: &Session, statement: &str) -> Option<i64> {
    let rows = session.query_unpaged(statement, ()).await.ok()?.into_rows_result().ok()?;
    rows.first_row::<(i64,)>().ok().map(|(number,)| number)
}

/// The file that says how far a node's clock is ahead, in its directory.
const CLOCK_FILE: &str = "clock";

/// Writes in place: the node has mapped the file.
fn write_clock(directory: &Path, seconds_ahead: i64) {
    let file = fs::File::options().create(true).truncate(false).write(true).open(directory.join(CLOCK_FILE));
    file.and_then(|file| file.write_all_at(&seconds_ahead.to_ne_bytes(), 0)).expect("the directory is writable");
}

/// How a node that serves a test's time starts soon: it does not wait for others that may be there.
const JAVA: [&str; 8] = [
    "-Xms512M",
    "-Xmx512M",
    "-XX:+UseSerialGC",
    "-Djdk.attach.allowAttachSelf=true",
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=2000",
    "-Dcassandra-foreground=yes",
    "-Dcassandra.superuser_setup_delay_ms=0",
];
/// What Cassandra's `jvm17-server.options` opens to it.
const OPENED: [&str; 16] = [
    "java.base/java.lang.module",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "jdk.management/com.sun.management.internal",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/java.util.concurrent",
    "java.base/java.util",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.lang",
    "java.base/java.net",
];
/// The same.
const EXPORTED: [&str; 9] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "java.base/java.lang.ref",
    "jdk.unsupported/sun.misc",
];
const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="OUT"/></root>
</configuration>
"#;
