//! Redis servers for tests: each on a free port, with a private directory, removed with the process that started it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

pub use groups::{Cluster, Sentinels};
use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};
use tls::Tls;

mod groups;
mod tls;

/// How long a server may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(30);

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Config {
    arguments: Vec<String>,
    file: Option<String>,
    tls: Option<Tls>,
}

impl Config {
    /// A server that keeps an append-only file and no snapshots.
    pub fn new() -> Self {
        let arguments = ["--save", "", "--appendonly", "yes"].map(str::to_owned).into();
        Self { arguments, file: None, tls: None }
    }

    /// A Sentinel with this configuration file.
    pub fn sentinel(file: impl Into<String>) -> Self {
        Self { arguments: vec!["--sentinel".to_owned()], file: Some(file.into()), tls: None }
    }

    /// With another setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.arguments.extend([format!("--{name}"), value.into()]);
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// A running server. Killed when dropped, and also when this process ends in any other way.
#[derive(Debug)]
pub struct Server {
    config: Config,
    port: u16,
    tls_port: Option<u16>,
    directory: PathBuf,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    /// A shell that kills the server when this process closes its end of the pipe.
    guard: Child,
    pipe: Option<ChildStdin>,
}

impl Running {
    /// Kills the server and keeps its files.
    fn end(&mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            pipe.write_all(b"keep\n").expect("the guard reads");
        }
        self.guard.wait().expect("the guard ends");
    }
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it is not installed, with the command that installs it; or if it does not answer in time.
    pub fn start(config: Config) -> Self {
        let directory = tempfile::Builder::new().prefix("keylatch-redis-").tempdir().expect("a directory").keep();
        for _ in 0..20 {
            let (port, tls_port) = (free_port(), config.tls.as_ref().map(|_| free_port()));
            if let Some(running) = run(&config, port, tls_port, &directory) {
                return Self { config, port, tls_port, directory, running: Some(running) };
            }
            // Another process has taken the port meanwhile.
        }
        panic!("{} does not start; see {}", program().display(), directory.join("log").display());
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until this server, a replica, has everything from its primary and receives new writes.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn await_primary(&self) {
        let started = Instant::now();
        while !self.ask("INFO replication").contains("master_link_status:up") {
            assert!(started.elapsed() < START_MAX, "the replica does not reach its primary");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it at once, and waits until it has ended. Its files stay.
    pub fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.end();
    }

    /// Starts it again, with the same port and files.
    pub fn start_again(&mut self) {
        self.kill();
        let started = Instant::now();
        while self.running.is_none() {
            assert!(started.elapsed() < START_MAX, "the server does not start again");
            self.running = run(&self.config, self.port, self.tls_port, &self.directory);
        }
    }

    /// Stops it with SIGSTOP: its connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it continue after a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a command of plain words, and returns the reply as it arrived.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    pub fn ask(&self, command: &str) -> String {
        ask(self.port, command).expect("the server answers")
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        kill_process(running.pid, signal).expect("a child that was not waited for can be signalled");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // A directory that is left over harms nothing.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Kills the server when its input ends. That happens when the process that started it ends, in whatever way; then
/// nobody needs the files, either.
const GUARD: &str = r#"
    "$@" >"$KEYLATCH_DIRECTORY/log" 2>&1 </dev/null &
    echo $!
    read -r word
    kill -9 $! 2>/dev/null
    wait
    [ "$word" = keep ] || rm -rf "$KEYLATCH_DIRECTORY"
"#;

fn run(config: &Config, port: u16, tls_port: Option<u16>, directory: &Path) -> Option<Running> {
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh"]).arg(program());
    if let Some(text) = &config.file {
        let file = directory.join("server.conf");
        // A Sentinel writes what it has learned into it.
        if !file.exists() {
            std::fs::write(&file, text).expect("a file can be written");
        }
        command.arg(file);
    }
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(directory);
    if let (Some(tls), Some(port)) = (&config.tls, tls_port) {
        command.args(tls.arguments(directory, port));
    }
    command.args(&config.arguments).env("KEYLATCH_DIRECTORY", directory);
    let mut guard = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh can be run");
    let pipe = guard.stdin.take();
    let mut pid = String::new();
    BufReader::new(guard.stdout.take().expect("it is piped")).read_line(&mut pid).expect("the guard says the id");
    let pid = Pid::from_raw(pid.trim().parse().expect("an id")).expect("an id");
    let mut running = Running { pid, guard, pipe };

    let started = Instant::now();
    loop {
        if ask(port, "PING").is_ok_and(|reply| reply.starts_with("+PONG")) && has(port, pid) {
            return Some(running);
        }
        let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(!log.contains("not found"), "there is no such server: {log}; run: apt-get install redis-server");
        let ended =
            log.contains("Address already in use") || !Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
        if ended || started.elapsed() > START_MAX {
            running.end();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program: `KEYLATCH_REDIS_SERVER`, such as `valkey-server`, or else Redis.
fn program() -> PathBuf {
    std::env::var_os("KEYLATCH_REDIS_SERVER").unwrap_or_else(|| "redis-server".into()).into()
}

/// Whether the server on `port` is the process `pid`, and not one of another test.
fn has(port: u16, pid: Pid) -> bool {
    ask(port, "INFO server").is_ok_and(|info| info.contains(&format!("process_id:{}\r\n", pid.as_raw_nonzero())))
}

fn ask(port: u16, command: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(format!("{command}\r\n").as_bytes())?;
    // It answers what it received before the end. A Sentinel has no QUIT.
    connection.shutdown(std::net::Shutdown::Write)?;
    let mut reply = Vec::new();
    connection.read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// A port outside the range of ephemeral ports, whose Cluster port is free as well.
fn free_port() -> u16 {
    for _ in 0..1_000 {
        let port = rand::rng().random_range(11_000..20_000);
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
    panic!("no port is free");
}
