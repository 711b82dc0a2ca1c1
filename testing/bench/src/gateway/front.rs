//! What stands before the upstream.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testing_support::postgres::free_port;

use crate::Result;
use crate::cores::on_core;

/// A program that passes requests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// hyper, and nothing else.
    Hyper,
    /// The same, and it sends Redis two commands for each request.
    HyperRedis,
    /// nginx, with connections to the upstream that it keeps.
    Nginx,
    /// The gateway, for which these requests are not guarded.
    Unguarded,
    /// The gateway, with records in memory.
    Memory,
    /// In Redis.
    Redis,
    /// `AtMostOnce`, in SQLite.
    Sqlite,
    /// `AtMostOnce`, in PostgreSQL.
    Postgres,
}

/// Where a front finds what it needs.
pub(crate) struct Place<'a> {
    pub(crate) upstream: SocketAddr,
    /// Of Redis or PostgreSQL, for those that keep their records there.
    pub(crate) store: Option<String>,
    pub(crate) dir: &'a Path,
    pub(crate) core: Option<usize>,
    /// This program, which is also the gateway.
    pub(crate) program: &'a Path,
}

impl Front {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper",
            Self::HyperRedis => "hyper and two commands to Redis",
            Self::Nginx => "nginx",
            Self::Unguarded => "the gateway, unguarded",
            Self::Memory => "the gateway, memory",
            Self::Redis => "the gateway, Redis",
            Self::Sqlite => "the gateway, SQLite",
            Self::Postgres => "the gateway, PostgreSQL",
        }
    }

    pub(crate) const fn needs_redis(self) -> bool {
        matches!(self, Self::Redis | Self::HyperRedis)
    }

    /// Whether it answers a repeated request with the answer that it gave.
    pub(crate) const fn replays(self) -> bool {
        matches!(self, Self::Memory | Self::Redis | Self::Sqlite | Self::Postgres)
    }

    /// Starts it on its core, and waits until it listens.
    pub(crate) fn start(self, place: &Place<'_>) -> Result<(Child, SocketAddr)> {
        let port = free_port();
        let mut command = match self {
            Self::Nginx => nginx(port, place)?,
            Self::Hyper | Self::HyperRedis => hyper(port, place),
            _ => self.gateway(port, place),
        };
        let mut child = on_core(place.core, move || Ok(command.stdin(Stdio::piped()).spawn()?))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Err(error) = listens(address) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} did not start: {error}", self.name()).into());
        }
        Ok((child, address))
    }

    fn gateway(self, port: u16, place: &Place<'_>) -> Command {
        let store = match self {
            Self::Sqlite => format!("sqlite:{}", place.dir.join("keylatch.db").display()),
            _ => place.store.clone().unwrap_or_else(|| "memory:".to_owned()),
        };
        let guarantee = if matches!(self, Self::Sqlite | Self::Postgres) { "at-most-once" } else { "fenced" };
        let methods = if self == Self::Unguarded { "PUT" } else { "POST" };
        let mut command = Command::new(place.program);
        // With the program's first argument, `main` hands over to the gateway.
        command.args(["gateway", "--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--upstream", &format!("http://{}", place.upstream), "--store", &store]);
        command.args(["--scope", "header:X-User-Id", "--guarantee", guarantee, "--methods", methods]);
        // Its greeting does not belong between the tables.
        command.env("RUST_LOG", "error").stdout(Stdio::null());
        command
    }
}

fn hyper(port: u16, place: &Place<'_>) -> Command {
    let mut command = Command::new(place.program);
    command.args(["proxy", &port.to_string(), &place.upstream.to_string()]);
    command.arg(place.store.as_deref().unwrap_or("none"));
    command
}

/// nginx as one process, which is given the same core.
fn nginx(port: u16, place: &Place<'_>) -> Result<Command> {
    let dir = place.dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("    {name}_temp_path {dir}/{name};\n"))
        .collect();
    let conf = format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n{temporary}    \
         keepalive_requests 1000000000;\n    upstream up {{\n        server {upstream};\n        keepalive 100;\n        \
         keepalive_requests 1000000000;\n    }}\n    server {{\n        listen 127.0.0.1:{port};\n        location / {{\n            \
         proxy_pass http://up;\n            proxy_http_version 1.1;\n            proxy_set_header Connection \"\";\n        \
         }}\n    }}\n}}\n",
        upstream = place.upstream,
    );
    let file = place.dir.join("nginx.conf");
    std::fs::write(&file, conf)?;
    let found = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|path| Path::new(path).exists());
    let mut command = Command::new(found.map_or_else(|| "nginx".into(), std::path::PathBuf::from));
    command.arg("-p").arg(place.dir).arg("-c").arg(file).args(["-e", "stderr"]);
    Ok(command)
}

fn listens(address: SocketAddr) -> Result<()> {
    const START_MAX: Duration = Duration::from_secs(20);
    let started = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > START_MAX => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
