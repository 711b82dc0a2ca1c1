//! PgBouncer in front of a cluster, in transaction mode: each transaction of a client may get another server
//! connection, so no session state lasts.
//!
//! It needs Debian's package `pgbouncer`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Cluster, USER, free_port};

/// A PgBouncer. It goes when it is dropped, or when the process ends.
#[derive(Debug)]
pub struct Bouncer {
    child: Child,
    /// It runs as long as this is open.
    open: Option<ChildStdin>,
    dir: PathBuf,
    port: u16,
}

const KEEP: &str = include_str!("bouncer.sh");
const START_MAX: Duration = Duration::from_secs(30);

impl Bouncer {
    /// Starts one in front of `cluster`, with this many connections to each of its databases.
    ///
    /// # Panics
    ///
    /// If PgBouncer is not installed, with the command that installs it; or if it does not start.
    pub fn start(cluster: &Cluster, connections: u32) -> Self {
        Self::start_with(cluster, connections, "")
    }

    /// Starts one with these further lines in its configuration.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_with(cluster: &Cluster, connections: u32, more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("keylatch-pgb-").tempdir().expect("a temporary directory").keep();
        let port = free_port();
        let config = format!(
            "[databases]\n* = host={server} port={server_port} user={USER}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 500\nlogfile = {dir}/log\n{more}\n",
            server = cluster.dir().display(),
            server_port = cluster.port(),
            dir = dir.display(),
        );
        fs::write(dir.join("pgbouncer.ini"), config).expect("the directory is writable");
        let mut child = Command::new("sh")
            .args(["-c", KEEP, "bouncer.sh"])
            .args([program(), dir.clone()])
            .stdin(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let open = child.stdin.take();
        let mut bouncer = Self { child, open, dir, port };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = bouncer.child.try_wait().expect("it is ours").is_some();
            assert!(!ended && started.elapsed() < START_MAX, "PgBouncer did not start: {}", bouncer.log());
            thread::sleep(Duration::from_millis(10));
        }
        bouncer
    }

    /// The address of a database through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        drop(self.open.take());
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    // Debian installs it where only root's path looks.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = places.map(|place| place.join("pgbouncer")).find(|program| Path::exists(program));
    found.expect("no PgBouncer found; install it: apt-get install pgbouncer")
}
