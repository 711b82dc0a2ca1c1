//! Starts and stops a program that serves HTTP on a port that it chooses itself.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually;
use output::Output;

mod output;

/// How long a server may take to say where it listens.
pub const START_MAX: Duration = Duration::from_secs(30);
/// How long a server may take to end after a signal, including the work that it has to finish.
pub const END_MAX: Duration = Duration::from_secs(30);

/// How to start a server: a program that is told to choose a port by `PORT=0`, and prints
/// `http://127.0.0.1:PORT` when it listens.
#[derive(Debug, Clone)]
pub struct Program {
    command: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program at `path`. Its environment has only `PORT`, `PATH`, and the variables that plant a bug in it.
    pub fn new(path: impl Into<OsString>) -> Self {
        let handed_on = ["PATH", "KEYLATCH_PLANTED"];
        let handed_on = handed_on.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        let env = [("PORT".into(), "0".into())].into_iter().chain(handed_on).collect();
        Self { command: vec![path.into()], env }
    }

    /// With another argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.command.push(arg.into());
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Started by `launcher`, which must become the server with `exec`, so that its process id is the server's.
    #[must_use]
    pub fn through<S: Into<OsString>>(mut self, launcher: impl IntoIterator<Item = S>) -> Self {
        self.command.splice(0..0, launcher.into_iter().map(Into::into));
        self
    }

    /// Makes writes fail at a limit on file sizes, instead of ending the process: see [`Server::deny_writes`].
    #[must_use]
    pub fn survives_denied_writes(self) -> Self {
        self.through(["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"])
    }

    /// Starts it and waits until it says where it listens.
    ///
    /// # Errors
    ///
    /// If it ends before that, or takes longer than [`START_MAX`]. The error has its output.
    pub async fn start(&self) -> Result<Server, StartError> {
        let mut server = self.spawn()?;
        let started = Instant::now();
        loop {
            if let Some(url) = server.output.url() {
                server.url = url;
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(StartError::Ended { status, output: server.output.whole().await });
            }
            if started.elapsed() > START_MAX {
                return Err(StartError::Silent { output: server.output.text() });
            }
            // Wakes up with each line, and at intervals to see whether the process still runs.
            let _ = timeout(Duration::from_millis(20), server.output.changed()).await;
        }
    }

    fn spawn(&self) -> io::Result<Server> {
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("a new child has an id");
        let mut output = Output::default();
        output.follow(child.stdout.take().expect("it is piped"));
        output.follow(child.stderr.take().expect("it is piped"));
        Ok(Server { child, pid, output, url: String::new() })
    }
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program, or its launcher, could not be run.
    #[error("it could not be run: {0}")]
    Run(#[from] io::Error),
    /// It ended.
    #[error("it ended with {status} instead of listening, and printed:\n{output}")]
    Ended {
        /// Its status.
        status: ExitStatus,
        /// Its output.
        output: String,
    },
    /// It did not print its address.
    #[error("it did not print its address within {START_MAX:?}, but:\n{output}")]
    Silent {
        /// Its output.
        output: String,
    },
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: Pid,
    output: Output,
    url: String,
}

impl Server {
    /// Its URL: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its output so far, of both streams.
    pub fn printed(&self) -> String {
        self.output.text()
    }

    /// Kills it with SIGKILL, and waits until it has ended.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.end().await;
    }

    /// Sends it SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGTERM, and waits until it has ended. Returns its status and output.
    pub async fn terminate(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        let status = self.end().await;
        (status, self.output.whole().await)
    }

    /// Sends SIGTERM, and does not wait.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(mut self) -> ExitStatus {
        self.end().await
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    /// Stops it with SIGSTOP, and waits until it has stopped.
    pub async fn pause(&self) {
        self.signal(Signal::STOP);
        eventually(END_MAX, "the process to stand still", async || self.is_paused()).await;
    }

    /// Whether SIGSTOP has stopped it.
    pub fn is_paused(&self) -> bool {
        self.status_line("State").is_some_and(|state| state.starts_with('T'))
    }

    /// Lets it continue after a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The most memory that it has used, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let peak = self.status_line("VmHWM").expect("a running process has a memory peak");
        let kib = peak.trim_end_matches("kB").trim().parse::<u64>().expect("it is a number of kB");
        kib * 1024
    }

    /// Makes each write of the process to a file fail from now on, or ends that. Connections and its output are not
    /// affected.
    ///
    /// To a process with open files this looks like a file system that has become read-only (a mount cannot be made
    /// read-only while a file on it is open for writing). It needs no privilege: the limit on file sizes is zero. Only
    /// for a program that [survives](Program::survives_denied_writes) it.
    pub fn deny_writes(&self, denied: bool) {
        let limit = Rlimit { current: denied.then_some(0), maximum: None };
        prlimit(Some(self.pid), Resource::Fsize, limit).expect("a parent may limit its child");
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a child that was not waited for can be signalled");
    }

    async fn end(&mut self) -> ExitStatus {
        match timeout(END_MAX, self.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("the server did not end within {END_MAX:?}; it printed:\n{}", self.output.text()),
        }
    }

    fn status_line(&self, name: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }
}

/// Allows this process, and the servers that it starts, this many open files and connections.
///
/// # Panics
///
/// If the machine's hard limit is lower; the message says what to do.
pub fn allow_open_files(files: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= files) {
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum }).unwrap_or_else(|error| {
        panic!("this test needs {files} open files ({error}); run `ulimit -Hn {files}` as root")
    });
}
