//! A PostgreSQL server of a test's own: a private cluster in a temporary directory, with fsync on.
//!
//! It needs Debian's package `postgresql`, or any installation whose programs `pg_config` finds.

pub mod bouncer;
pub mod proxy;
pub mod shared;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

/// A cluster. It is removed when this is dropped, or when the process ends.
#[derive(Debug)]
pub struct Cluster {
    keeper: Mutex<Keeper>,
    dir: PathBuf,
    port: u16,
}

#[derive(Debug)]
struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

const KEEP: &str = include_str!("postgres/keep.sh");
const INSTALL: &str = "install PostgreSQL: apt-get install postgresql";
/// In every test cluster: connections only from this machine, without a password.
const USER: &str = "postgres";

impl Cluster {
    /// Makes a cluster with these lines in its configuration, and starts it.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed, with the command that installs it; or if it does not start.
    pub fn start(config: &str) -> Self {
        let make = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"];
        let mut command = vec![program("initdb").display().to_string()];
        command.extend(make.map(String::from));
        command.push(format!("--username={USER}"));
        Self::make(config, &command)
    }

    /// Makes a standby of `primary`, with these further lines in its configuration, and starts it.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn standby_of(primary: &Self, config: &str) -> Self {
        let command = [
            program("pg_basebackup").display().to_string(),
            "--checkpoint=fast".into(),
            "--no-sync".into(),
            "--write-recovery-conf".into(),
            format!("--dbname={}", primary.keywords("postgres")),
        ];
        Self::make(config, &command)
    }

    fn make(config: &str, command: &[String]) -> Self {
        let dir = tempfile::Builder::new().prefix("keylatch-pg-").tempdir().expect("a temporary directory").keep();
        let port = free_port();
        let lines = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 200\n\
             shared_buffers = 128MB\nautovacuum_naptime = 1s\n{config}\n",
            dir.display(),
        );
        fs::write(dir.join("extra.conf"), lines).expect("the directory is writable");
        let mut child = Command::new("sh")
            .args(["-c", KEEP, "keep.sh"])
            .args([bin_dir(), dir.clone()])
            .args(command)
            .args(["--pgdata", &dir.join("data").display().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let orders = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut keeper = Keeper { child, orders, replies };
        keeper.reply("make the cluster");
        keeper.order("start");
        Self { keeper: Mutex::new(keeper), dir, port }
    }

    /// The address of a database, for sqlx: through the cluster's socket.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@localhost:{}/{database}?host={}", self.port, self.dir.display())
    }

    /// The address of a database through TCP.
    pub fn tcp_url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// The address of a database for PostgreSQL's own programs.
    pub fn keywords(&self, database: &str) -> String {
        format!("host={} port={} user={USER} dbname={database}", self.dir.display(), self.port)
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's private directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops the server like a crash: it recovers from its log at the next start.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub fn stop_immediately(&self) {
        self.order("immediate");
    }

    /// Stops the server in order, and disconnects its clients.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub fn stop(&self) {
        self.order("fast");
    }

    /// Starts the server again after a stop.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&self) {
        self.order("start");
    }

    /// Promotes a standby to primary.
    ///
    /// # Panics
    ///
    /// If it is not promoted.
    pub fn promote(&self) {
        self.order("promote");
    }

    /// Makes a stopped former primary a standby of `primary`, and starts it.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn follow(&self, primary: &Self) {
        self.write("standby.signal", "");
        self.append(&format!("primary_conninfo = '{}'", primary.keywords("postgres")));
        self.order("start");
    }

    /// Writes a file into the data directory, readable only by the server.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.join("data").join(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the data's directory is writable");
        let owner = fs::metadata(self.dir.join("data")).expect("there is one");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("only root runs the server as another");
    }

    /// Adds lines to the configuration, and makes the server read it again.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn configure(&self, lines: &str) {
        self.append(lines);
        self.order("reload");
    }

    fn append(&self, lines: &str) {
        let path = self.dir.join("data/extra.conf");
        let mut file = fs::OpenOptions::new().append(true).open(path).expect("it was written at the start");
        writeln!(file, "{lines}").expect("the data's directory is writable");
    }

    /// Runs SQL with `psql`, and returns its output: fields separated by `|`, one row per line.
    ///
    /// # Panics
    ///
    /// If a statement fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(program("psql"))
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--command", sql])
            .arg(self.keywords(database))
            .output()
            .expect("psql runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{sql}: {said}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn order(&self, order: &str) {
        self.keeper.lock().unwrap_or_else(std::sync::PoisonError::into_inner).order(order);
    }
}

impl Keeper {
    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("it is open until the drop");
        writeln!(orders, "{order}").expect("the keeper listens");
        self.reply(order);
    }

    fn reply(&mut self, order: &str) {
        let mut reply = String::new();
        self.replies.read_line(&mut reply).expect("the keeper speaks text");
        assert_eq!(reply.trim(), "ok", "PostgreSQL did not {order}");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// One of PostgreSQL's programs.
///
/// # Panics
///
/// If PostgreSQL is not installed, with the command that installs it.
pub fn program(name: &str) -> PathBuf {
    bin_dir().join(name)
}

/// Where PostgreSQL's server programs are: on Debian they are not on the path, and in a folder for each version.
fn bin_dir() -> PathBuf {
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    versions.sort();
    let mut places = configured.into_iter().chain(versions.into_iter().rev());
    places.find(|bin| bin.join("initdb").exists()).unwrap_or_else(|| panic!("no PostgreSQL server found; {INSTALL}"))
}

/// A port on which nobody listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_stops_and_goes() {
        let cluster = Cluster::start("");
        assert_eq!(cluster.sql("postgres", "SHOW fsync"), "on");
        cluster.sql("postgres", "CREATE TABLE kept (number int); INSERT INTO kept VALUES (7)");
        cluster.stop_immediately();
        cluster.start_again();
        assert_eq!(cluster.sql("postgres", "SELECT number FROM kept"), "7");

        let standby = Cluster::standby_of(&cluster, "");
        assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()"), "t");
        standby.promote();
        assert_eq!(standby.sql("postgres", "SELECT pg_is_in_recovery()"), "f");

        let dir = cluster.dir().to_owned();
        drop(cluster);
        assert!(!dir.exists());
    }
}
