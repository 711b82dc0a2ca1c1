//! Groups of servers.

use std::process::Command;
use std::time::{Duration, Instant};

use super::{Config, Server};
use crate::certificates::{Authority, Certificate};

/// How long servers may take to agree.
const AGREE_MAX: Duration = Duration::from_secs(60);

/// A Cluster of three primaries and three replicas.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts one, and waits until all its nodes know that it is complete. A primary that does not answer for a second
    /// counts as dead.
    ///
    /// # Panics
    ///
    /// If the tools are missing, with the command that installs them, or the nodes do not agree in time.
    pub fn start() -> Self {
        Self::start_with(Config::new())
    }

    /// The same with TLS: the nodes present `certificate` to each other and to clients, and are known as `localhost`.
    ///
    /// # Panics
    ///
    /// As `start`.
    pub fn start_tls(certificate: &Certificate, authority: &Authority) -> Self {
        let config = Config::new()
            .with_tls(certificate, authority)
            .with("cluster-announce-hostname", "localhost")
            .with("cluster-preferred-endpoint-type", "hostname");
        Self::start_with(config)
    }

    fn start_with(config: Config) -> Self {
        let config = config.with("cluster-enabled", "yes").with("cluster-node-timeout", "1000");
        let nodes: Vec<_> = (0..6).map(|_| Server::start(config.clone())).collect();
        let mut create = Command::new("redis-cli");
        if let Some(authority) = nodes[0].authority() {
            create.args(["--tls", "--cacert"]).arg(authority);
        }
        create.args(["--cluster", "create"]).args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.known_port())));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.output().expect("redis-cli is missing; run: apt-get install redis-tools");
        assert!(output.status.success(), "no Cluster: {}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { nodes };
        cluster.wait_until_whole();
        cluster
    }

    /// The addresses of all nodes.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// The addresses of all nodes for TLS, with this host name.
    pub fn tls_urls(&self, host: &str) -> Vec<String> {
        self.nodes.iter().map(|node| format!("rediss://{host}:{}", node.tls_port())).collect()
    }

    /// Makes every node present this certificate from now on.
    pub fn change_certificate(&self, certificate: &Certificate) {
        self.nodes.iter().for_each(|node| node.change_certificate(certificate));
    }

    /// Waits until every node runs, knows that all slots are served, and every replica is in step with its primary.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn wait_until_whole(&self) {
        wait("the Cluster to be whole", || {
            self.nodes.iter().all(|node| {
                let replication = node.ask("INFO replication");
                let in_step =
                    replication.contains("master_link_status:up") || replication.contains("connected_slaves:1");
                in_step && node.ask("CLUSTER INFO").contains("cluster_state:ok")
            })
        });
    }

    /// The current primaries, by their numbers among the nodes.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_primary()).collect()
    }

    /// Waits until three other nodes are primaries, and all running nodes know that all slots are served.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn wait_for_primaries_without(&self, gone: usize) {
        wait("another primary in the Cluster", || {
            let others = || (0..self.nodes.len()).filter(|at| *at != gone);
            self.primaries().iter().filter(|at| **at != gone).count() == 3
                && others().all(|at| self.nodes[at].ask("CLUSTER INFO").contains("cluster_state:ok"))
        });
    }

    /// Stops all nodes that are not primaries.
    pub fn pause_replicas(&self) {
        let primaries = self.primaries();
        self.nodes.iter().enumerate().filter(|(at, _)| !primaries.contains(at)).for_each(|(_, node)| node.pause());
    }

    /// Lets all nodes continue that are neither `gone` nor among `primaries`.
    pub fn resume_replicas(&self, gone: usize, primaries: &[usize]) {
        let is_replica = |at: &usize| *at != gone && !primaries.contains(at);
        (0..self.nodes.len()).filter(is_replica).for_each(|at| self.nodes[at].resume());
    }

    /// One of its nodes.
    pub fn node(&mut self, at: usize) -> &mut Server {
        &mut self.nodes[at]
    }
}

/// A primary, two replicas, and three Sentinels that watch over them.
#[derive(Debug)]
pub struct Sentinels {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// The name by which the Sentinels know the primary.
    pub const SERVICE: &str = "main";

    /// Starts them, and waits until all know of each other. A primary that does not answer for half a second counts as
    /// dead.
    ///
    /// # Panics
    ///
    /// If the tools are missing, with the command that installs them, or they do not agree in time.
    pub fn start() -> Self {
        Self::start_with(&|config| config, "127.0.0.1", "")
    }

    /// The same with TLS: all present `certificate` to each other and to clients, and the servers are known as
    /// `localhost`.
    ///
    /// # Panics
    ///
    /// As `start`.
    pub fn start_tls(certificate: &Certificate, authority: &Authority) -> Self {
        const BY_NAME: &str = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n";
        let with_tls = |config: Config| config.with_tls(certificate, authority);
        Self::start_with(&with_tls, "localhost", BY_NAME)
    }

    fn start_with(with: &dyn Fn(Config) -> Config, host: &str, settings: &str) -> Self {
        let config = with(Config::new()).with("replica-announce-ip", host);
        let primary = Server::start(config.clone());
        let of_primary = config.with("replicaof", format!("{host} {}", primary.known_port()));
        let servers = vec![primary, Server::start(of_primary.clone()), Server::start(of_primary)];
        let name = Self::SERVICE;
        let file = format!(
            "{settings}sentinel monitor {name} {host} {} 2\nsentinel down-after-milliseconds {name} 1500\n\
             sentinel failover-timeout {name} 3000\nsentinel parallel-syncs {name} 2\n",
            servers[0].known_port()
        );
        let sentinels = (0..3).map(|_| Server::start(with(Config::sentinel(&file)))).collect();
        let group = Self { servers, sentinels };
        group.wait_until_whole();
        group
    }

    /// The addresses of the Sentinels.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::url).collect()
    }

    /// The addresses of the Sentinels for TLS, with this host name.
    pub fn tls_urls(&self, host: &str) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("rediss://{host}:{}", sentinel.tls_port())).collect()
    }

    /// Makes every server present this certificate from now on. The Sentinels keep theirs.
    pub fn change_certificate(&self, certificate: &Certificate) {
        self.servers.iter().for_each(|server| server.change_certificate(certificate));
    }

    /// The number of the server that most Sentinels name as the primary, if it is one.
    pub fn primary(&self) -> Option<usize> {
        let says = |sentinel: &Server| {
            let reply = sentinel.ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {}", Self::SERVICE));
            self.servers.iter().position(|server| reply.contains(&format!("\r\n{}\r\n", server.known_port())))
        };
        let said: Vec<_> = self.sentinels.iter().filter_map(says).collect();
        let chosen =
            (0..self.servers.len()).find(|at| self.is_majority(said.iter().filter(|said| *said == at).count()))?;
        self.servers[chosen].is_primary().then_some(chosen)
    }

    /// What Sentinels promise holds when most of them agree. One may keep an old configuration for minutes.
    fn is_majority(&self, agree: usize) -> bool {
        agree > self.sentinels.len() / 2
    }

    /// Waits until the Sentinels have promoted another server.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn wait_for_primary_other_than(&self, gone: usize) {
        wait("another primary", || self.primary().is_some_and(|primary| primary != gone));
    }

    /// Waits until every server runs, most Sentinels know all, and both replicas are in step with the primary.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn wait_until_whole(&self) {
        wait_or_show(
            "the Sentinels to agree",
            || self.state(),
            || {
                let knows_all = |sentinel: &&Server| {
                    let info = sentinel.ask("INFO sentinel");
                    info.contains("status=ok,address=") && info.contains("slaves=2,sentinels=3")
                };
                let agreed = self.is_majority(self.sentinels.iter().filter(knows_all).count());
                let in_step = |primary: usize| {
                    let replication = self.servers[primary].ask("INFO replication");
                    replication.matches("state=online").count() == 2
                };
                agreed && self.primary().is_some_and(in_step)
            },
        );
    }

    /// What each Sentinel and each server reports of itself.
    fn state(&self) -> String {
        let sentinels = self.sentinels.iter().map(|sentinel| {
            let replicas = sentinel.ask(&format!("SENTINEL REPLICAS {}", Self::SERVICE));
            format!("sentinel {}\n{}\n{replicas}", sentinel.port(), sentinel.ask("INFO sentinel"))
        });
        let servers = self.servers.iter().map(|server| {
            let says = super::ask(server.port(), "INFO replication");
            format!("server {}\n{}", server.port(), says.unwrap_or_else(|error| error.to_string()))
        });
        sentinels.chain(servers).collect::<Vec<_>>().join("\n")
    }

    /// Stops all servers except the one at `primary`.
    pub fn pause_replicas(&self, primary: usize) {
        self.servers.iter().enumerate().filter(|(at, _)| *at != primary).for_each(|(_, server)| server.pause());
    }

    /// Lets all servers except the one at `primary` continue.
    pub fn resume_replicas(&self, primary: usize) {
        self.servers.iter().enumerate().filter(|(at, _)| *at != primary).for_each(|(_, server)| server.resume());
    }

    /// One of the servers.
    pub fn server(&mut self, at: usize) -> &mut Server {
        &mut self.servers[at]
    }
}

impl Server {
    /// Whether it runs and accepts writes.
    fn is_primary(&self) -> bool {
        super::ask(self.port(), "INFO replication").is_ok_and(|info| info.contains("role:master"))
    }
}

fn wait(what: &str, condition: impl Fn() -> bool) {
    wait_or_show(what, String::new, condition);
}

/// As `wait`, but shows the state of the group if the wait fails.
fn wait_or_show(what: &str, shown: impl Fn() -> String, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < AGREE_MAX, "waited {AGREE_MAX:?} for {what}\n{}", shown());
        std::thread::sleep(Duration::from_millis(50));
    }
}
