//! Three regions on one machine, each with a gateway, a store (SQLite) and a service: which way a key goes.
//!
//! `cargo run -p regions` starts all of it, asks, stops a region, lets another one stand in for it, brings it back, and ends.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener as Port;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use axum::{Router, routing::post};
use keylatch::Key;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::sleep;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];

type Failed = Box<dyn Error>;

fn main() -> ExitCode {
    // The gateways and the operator's commands are this program, too.
    if std::env::args().nth(1).is_some() {
        return keylatch_gateway::main();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(show()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The machines of all regions.
struct World {
    dir: tempfile::TempDir,
    ports: BTreeMap<&'static str, u16>,
    services: BTreeMap<&'static str, u16>,
    gateways: BTreeMap<&'static str, Child>,
}

async fn show() -> Result<(), Failed> {
    let mut world = World::start().await?;
    let [old, seen] = [key("eu"), key("eu")];
    println!("{:<36} {:<8} {:<44} answer", "what happens", "asked in", "key");
    world.ask("a new key runs at home", "eu", &old).await?;
    world.ask("from elsewhere it goes there", "us", &seen).await?;
    world.ask("sent again: a copy is there", "us", &seen).await?;
    world.gateways.get_mut("eu").ok_or("it runs")?.kill().await?;
    world.ask("eu is gone: the copy is still there", "us", &seen).await?;
    world.ask("an older key waits for it", "us", &old).await?;
    world.operate(&["lose", "eu", "--to", "us"], &["ap", "us"]).await?;
    // Until the others have learned it.
    sleep(Duration::from_secs(2)).await;
    world.ask("eu is lost: older keys are unknown", "us", &old).await?;
    // Until no key can have been accepted by eu: the longest that a key may be ahead, and clocks apart.
    sleep(Duration::from_secs(7)).await;
    let meanwhile = key("eu");
    world.ask("new ones run where it is told", "ap", &meanwhile).await?;
    world.start_gateway("eu")?;
    world.operate(&["bring-back", "eu"], &REGIONS).await?;
    sleep(Duration::from_secs(7)).await;
    world.ask("eu is back, with its older keys", "us", &old).await?;
    world.ask("what ran elsewhere stays there", "eu", &meanwhile).await?;
    world.ask("and new ones run at home again", "us", &key("eu")).await?;
    Ok(())
}

fn key(region: &str) -> String {
    Key::random().in_region(region).expect("it is a region").as_str().to_owned()
}

impl World {
    async fn start() -> Result<Self, Failed> {
        let (dir, mut ports, mut services) = (tempfile::tempdir()?, BTreeMap::new(), BTreeMap::new());
        std::fs::write(dir.path().join("secret"), "a secret that all regions have, and nobody else")?;
        for region in REGIONS {
            ports.insert(region, Port::bind("127.0.0.1:0")?.local_addr()?.port());
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            services.insert(region, listener.local_addr()?.port());
            // The service says where it has run.
            let app = Router::new().route("/orders", post(move || async move { format!("it ran in {region}") }));
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        let mut world = Self { dir, ports, services, gateways: BTreeMap::new() };
        for region in REGIONS {
            world.start_gateway(region)?;
        }
        for region in REGIONS {
            while world.post(region, &key(region)).await?.0 != 200 {
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(world)
    }

    fn start_gateway(&mut self, region: &'static str) -> Result<(), Failed> {
        let peers: Vec<_> =
            self.ports.iter().map(|(name, port)| format!("{name} = \"http://127.0.0.1:{port}\"")).collect();
        let file = self.dir.path().join(format!("{region}.toml"));
        let text = format!(
            "[regions]\nthis = \"{region}\"\nepoch = 1\nrule = \"key-prefix\"\nsecret-file = \"secret\"\nlease = \"1s\"\n\
             key-ahead-max = \"1s\"\npeers = {{ {} }}\n\
             [[route]]\nname = \"orders\"\npath = \"/orders\"\nscope.header = \"X-User-Id\"\nguarantee = \"at-most-once\"\n",
            peers.join(", ")
        );
        std::fs::write(&file, text)?;
        let mut gateway = Command::new(std::env::current_exe()?);
        gateway.args(["gateway", "--listen", &format!("127.0.0.1:{}", self.ports[region])]);
        gateway.args(["--upstream", &format!("http://127.0.0.1:{}", self.services[region])]);
        gateway.args(["--store", &store(self.dir.path(), region), "--config"]).arg(file);
        let log = std::fs::File::create(self.dir.path().join(format!("{region}.log")))?;
        let running = gateway.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn()?;
        self.gateways.insert(region, running);
        Ok(())
    }

    async fn ask(&self, what: &str, region: &str, key: &str) -> Result<(), Failed> {
        let (status, said) = self.post(region, key).await?;
        println!("{what:<36} {region:<8} {key:<44} {status} {said}");
        Ok(())
    }

    /// The status, and the answer in a few words.
    async fn post(&self, region: &str, key: &str) -> Result<(u16, String), Failed> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        let request =
            client.post(format!("http://127.0.0.1:{}/orders", self.ports[region])).header("x-user-id", "alice");
        let Ok(response) = request.header("idempotency-key", key).send().await else { return Ok((0, String::new())) };
        let (status, replayed) = (response.status().as_u16(), response.headers().contains_key("idempotent-replayed"));
        let body = response.text().await?;
        let code = body.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned);
        Ok((status, format!("{}{}", code.unwrap_or(body), if replayed { ", replayed" } else { "" })))
    }

    /// `keylatch regions …`, on the stores of these regions.
    async fn operate(&self, command: &[&str], regions: &[&str]) -> Result<(), Failed> {
        let mut operate = Command::new(std::env::current_exe()?);
        operate.arg("regions").args(command).args(["--reason", "an example", "--json", "--config"]);
        operate.arg(self.dir.path().join("us.toml"));
        for region in regions {
            operate.args(["--store", &store(self.dir.path(), region)]);
        }
        let output = operate.output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() { Ok(()) } else { Err(format!("keylatch regions {command:?}: {said}").into()) }
    }
}

fn store(dir: &Path, region: &str) -> String {
    format!("sqlite:{}", dir.join(format!("{region}.db")).display())
}
