//! What another region costs: two gateways, each with its records in SQLite, and a way between them that can be slow.
//!
//! Requests come one at a time, over connections that are open. So a figure is a latency without load: that at home is what
//! the others are compared with.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use testing_support::link::Link;
use testing_support::postgres::free_port;
use tokio::net::TcpListener;

use crate::Result;
use crate::cores::{Cores, on_core};
use crate::report::Table;

/// The home of all keys here, and another region.
const REGIONS: [&str; 2] = ["eu", "us"];
/// What each part of a message waits on its way, in each direction.
const DELAYS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(50)];

/// A way in which a request is answered.
struct Way {
    title: &'static str,
    /// Where the key was used before.
    before: Option<usize>,
    /// Where the request is sent.
    at: usize,
}

const WAYS: [Way; 5] = [
    Way { title: "at home, first", before: None, at: 0 },
    Way { title: "at home, replay", before: Some(0), at: 0 },
    Way { title: "elsewhere, first", before: None, at: 1 },
    Way { title: "elsewhere, replay of a copy", before: Some(1), at: 1 },
    Way { title: "elsewhere, replay from home", before: Some(0), at: 1 },
];

struct World {
    client: reqwest::Client,
    ports: [u16; 2],
    links: [Link; 2],
    gateways: Vec<Child>,
    dir: tempfile::TempDir,
    keys: usize,
}

/// The latency of each way, with and without a distance between the regions.
pub(crate) async fn measure(cores: &Cores, scratch: &Path, quick: bool) -> Result<Table> {
    let mut world = World::start(cores, scratch).await?;
    let columns = ["", "0 ms, median", "99 %", "50 ms each way, median", "99 %"];
    let mut table = Table::new("Latency of a request, in ms, one at a time", &columns);
    for way in &WAYS {
        let mut cells = vec![way.title.to_owned()];
        for delay in DELAYS {
            world.links.iter().for_each(|link| link.delay(delay));
            let count = match (quick, delay.is_zero()) {
                (true, _) => 3,
                (false, true) => 1_000,
                (false, false) => 200,
            };
            let mut took = Vec::new();
            for _ in 0..count {
                took.push(world.time(way).await?);
            }
            took.sort_unstable();
            let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)].as_secs_f64() * 1_000.0;
            cells.extend([format!("{:.2}", at(50)), format!("{:.2}", at(99))]);
        }
        table.line(cells);
    }
    Ok(table)
}

impl World {
    async fn start(cores: &Cores, scratch: &Path) -> Result<Self> {
        let dir = tempfile::TempDir::new_in(scratch)?;
        std::fs::write(dir.path().join("secret"), "a secret that all regions have, and nobody else")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let service = listener.local_addr()?;
        let app = Router::new().route("/orders", post(async || "done"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let ports = [free_port(), free_port()];
        let links = [Link::start(ports[0]).await, Link::start(ports[1]).await];
        let client = reqwest::Client::builder().no_proxy().build()?;
        let mut world = Self { client, ports, links, gateways: Vec::new(), dir, keys: 0 };
        for (nth, this) in REGIONS.into_iter().enumerate() {
            let (other, link) = (REGIONS[1 - nth], &world.links[1 - nth]);
            let file = world.dir.path().join(format!("{this}.toml"));
            let text = format!(
                "[regions]\nthis = \"{this}\"\nepoch = 1\nrule = \"key-prefix\"\nsecret-file = \"secret\"\n\
                 peers = {{ {other} = \"http://127.0.0.1:{}\" }}\n\
                 [[route]]\nname = \"orders\"\npath = \"/orders\"\nscope.header = \"X-User-Id\"\nguarantee = \"fenced\"\n",
                link.port()
            );
            std::fs::write(&file, text)?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["gateway", "--listen", &format!("127.0.0.1:{}", ports[nth])]);
            let store = format!("sqlite:{}", world.dir.path().join(format!("{this}.db")).display());
            command.args(["--upstream", &format!("http://{service}"), "--store", &store, "--config"]).arg(file);
            command.env("RUST_LOG", "error").stdout(Stdio::null()).stdin(Stdio::null());
            world.gateways.push(on_core(cores.server, move || Ok(command.spawn()?))?);
        }
        let began = Instant::now();
        for at in [0, 1] {
            // Both listen, and the way between them is open.
            while let Err(error) = world.send(at, "eu.first").await {
                if began.elapsed() > Duration::from_secs(20) {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(world)
    }

    async fn time(&mut self, way: &Way) -> Result<Duration> {
        self.keys += 1;
        let key = format!("eu.{}", self.keys);
        if let Some(before) = way.before {
            self.send(before, &key).await?;
        }
        let began = Instant::now();
        let replayed = self.send(way.at, &key).await?;
        let took = began.elapsed();
        if replayed == way.before.is_some() {
            Ok(took)
        } else {
            Err(format!("{}: it is another way", way.title).into())
        }
    }

    /// Returns whether the answer is a replay.
    async fn send(&self, at: usize, key: &str) -> Result<bool> {
        let request = self.client.post(format!("http://127.0.0.1:{}/orders", self.ports[at])).body("an order");
        let answer = request.header("x-user-id", "alice").header("idempotency-key", key).send().await?;
        let answer = answer.error_for_status()?;
        let replayed = answer.headers().contains_key("idempotent-replayed");
        answer.bytes().await?;
        Ok(replayed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for gateway in &mut self.gateways {
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
    }
}
