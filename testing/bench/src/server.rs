//! A server process, as its parent sees it.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use tempfile::TempDir;
use testing_support::redis;

use crate::Result;
use crate::app::App;
use crate::cores::{Cores, on_core};
use crate::gateway::{Front, Place};

/// Starts servers, each in its own directory.
#[derive(Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    scratch: TempDir,
    core: Option<usize>,
    load_core: Option<usize>,
}

/// The variable that tells a server process the address of Redis.
const REDIS: &str = "KEYLATCH_BENCH_REDIS";

/// The address of Redis that this process was given.
pub(crate) fn redis_url() -> Option<String> {
    std::env::var(REDIS).ok()
}

/// A running server. Killed when dropped, and its files are removed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    what: What,
    address: SocketAddr,
    /// These are dropped after it.
    _behind: Option<Box<Self>>,
    _dir: TempDir,
    _redis: Option<redis::Server>,
}

/// What a server is.
#[derive(Debug, Clone, Copy)]
struct What {
    name: &'static str,
    inserts: bool,
    replays: bool,
}

impl Launcher {
    /// Starts servers on their core. Their files are beside this program, which is on a disk, as `/tmp` may not be.
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        let program = std::env::current_exe()?;
        let beside = program.parent().ok_or("this program is in no directory")?;
        let scratch = tempfile::Builder::new().prefix("bench-").tempdir_in(beside)?;
        Ok(Self { program, scratch, core: cores.server, load_core: cores.load })
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn start(&self, app: App) -> Result<Server> {
        self.start_with(app, None)
    }

    /// Starts a server that keeps answers for `kept`, then tombstones for as long, and sweeps.
    pub(crate) fn start_with(&self, app: App, kept: Option<Duration>) -> Result<Server> {
        self.start_on(self.core, app, kept)
    }

    /// Starts `front` on the core of servers, before a bare service on the core of the load. `store` is where it keeps its
    /// records, if it needs to be told and that is not Redis.
    pub(crate) fn start_before(&self, front: Front, store: Option<String>) -> Result<Server> {
        let behind = self.start_on(self.load_core, App::Bare, None)?;
        let dir = TempDir::new_in(self.scratch.path())?;
        let redis = front.needs_redis().then(|| redis::Server::start(redis::Config::new()));
        let store = store.or_else(|| redis.as_ref().map(redis::Server::url));
        let (core, program) = (self.core, &*self.program);
        let place = Place { upstream: behind.address, store, dir: dir.path(), core, program };
        let (child, address) = front.start(&place)?;
        let behind = Some(Box::new(behind));
        let what = What { name: front.name(), inserts: false, replays: front.replays() };
        Ok(Server { child, what, address, _behind: behind, _dir: dir, _redis: redis })
    }

    /// Starts Fastify with node-idempotency, as `server.mjs` in `installed`, on the core of servers.
    pub(crate) fn start_fastify(&self, installed: &Path) -> Result<Server> {
        let redis = redis::Server::start(redis::Config::new());
        let mut command = Command::new("node");
        command.arg("server.mjs").current_dir(installed).env("REDIS_URL", redis.url());
        command.env("NODE_ENV", "production").stdout(Stdio::piped());
        let mut child = on_core(self.core, move || Ok(command.spawn()?))?;
        let address = address_of(&mut child, "fastify")?;
        let what = What { name: "fastify", inserts: false, replays: true };
        let dir = TempDir::new_in(self.scratch.path())?;
        Ok(Server { child, what, address, _behind: None, _dir: dir, _redis: Some(redis) })
    }

    fn start_on(&self, core: Option<usize>, app: App, kept: Option<Duration>) -> Result<Server> {
        let dir = TempDir::new_in(self.scratch.path())?;
        // On the core of the load, to which this thread belongs. It has an append-only file that is synced each second:
        // the least that the manual asks for, and Redis's default for such a file.
        let redis = app.needs_redis().then(|| redis::Server::start(redis::Config::new()));
        let mut child = Command::new(&self.program)
            .envs(redis.as_ref().map(|redis| (REDIS, redis.url())))
            .args(["serve", app.name()])
            .arg(dir.path())
            .arg(core.map_or("any".to_owned(), |core| core.to_string()))
            .arg(kept.map_or("default".to_owned(), |kept| kept.as_millis().to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let address = address_of(&mut child, app.name())?;
        let what = What { name: app.name(), inserts: app.inserts(), replays: app.replays() };
        Ok(Server { child, what, address, _behind: None, _dir: dir, _redis: redis })
    }
}

/// The address of a server that prints its port.
fn address_of(child: &mut Child, name: &str) -> Result<SocketAddr> {
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut port)?;
    let port = port.trim().parse().map_err(|_| format!("the server of {name} did not start"))?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

impl Server {
    pub(crate) fn name(&self) -> &'static str {
        self.what.name
    }

    /// Whether it inserts orders, which can then be counted.
    pub(crate) fn inserts(&self) -> bool {
        self.what.inserts
    }

    /// Whether it answers a repeated request with the answer that it gave.
    pub(crate) fn replays(&self) -> bool {
        self.what.replays
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.child.id())
    }

    /// The memory that it has now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in /proc/PID/status")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
    }
}

/// The processor time that a process has used.
pub(crate) fn cpu_of(process: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may contain spaces. The 12th and 13th fields after it are the user and system time.
    let fields = stat.rsplit_once(')').ok_or("an unknown form of /proc/PID/stat")?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
    Ok(Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second())?)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
