//! `keylatch regions`, killed with SIGKILL at any moment: the next command finishes its change or replaces it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use keylatch::regions::Changes;
use keylatch_admin::regions::Log;
use serde_json::Value;
use tempfile::TempDir;
use testing_support::eventually;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::setup::SOON;

const NAMES: [&str; 5] = ["ap", "eu", "me", "sa", "us"];

/// The stores of five regions, without gateways.
struct World {
    dir: TempDir,
    logs: Vec<Log>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let mut logs = Vec::new();
        for name in NAMES {
            let store = keylatch::sqlite::Store::open(file_in(&dir, name)).await.expect("a new file");
            let log = Log::new(Arc::new(store));
            log.belong_to(&name.parse().expect("a name")).await.expect("it is new");
            logs.push(log);
        }
        fs::write(dir.path().join("secret"), "the secret that all five regions have").expect("it can be written");
        let peers = NAMES[..4].iter().map(|name| format!("{name} = \"https://{name}.example\""));
        let map = format!(
            "[regions]\nthis = \"us\"\nepoch = 1\nrule = \"key-prefix\"\nlease = \"1s\"\nsecret-file = \"secret\"\n\
             peers = {{ {} }}\n[[route]]\nname = \"a\"\npath = \"/\"\nscope.shared = \"all\"\nguarantee = \"fenced\"\n",
            peers.collect::<Vec<_>>().join(", ")
        );
        fs::write(dir.path().join("us.toml"), map).expect("it can be written");
        Self { dir, logs }
    }

    /// `keylatch regions …` on these stores.
    fn command(&self, words: &[&str], of: &[&str]) -> Child {
        let mut program = Command::new(env!("CARGO_BIN_EXE_gateway-under-test"));
        program.arg("regions").args(words).arg("--json").arg("--config").arg(self.dir.path().join("us.toml"));
        for name in of {
            program.arg("--store").arg(format!("sqlite:{}", file_in(&self.dir, name).display()));
        }
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts")
    }

    async fn run(&self, words: &[&str], of: &[&str]) -> Value {
        let output = self.command(words, of).wait_with_output().await.expect("it ends");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {printed} {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&printed).expect("an object")
    }

    async fn latest(&self) -> Vec<Changes> {
        let mut all = Vec::new();
        for log in &self.logs {
            all.push(log.latest(Changes::default()).await.expect("it can be read").0);
        }
        all
    }

    /// Moves eu, or brings it back, with all stores, and checks that it is done.
    async fn finish(&self) {
        let lost = self.run(&["show"], &NAMES).await["changes"]["lost"].as_array().expect("a list").len();
        let words: &[&str] = match lost {
            0 => &["lose", "eu", "--to", "ap", "--reason", "again"],
            _ => &["bring-back", "eu", "--reason", "again"],
        };
        let changed = self.run(words, &NAMES).await;
        let latest = self.latest().await;
        assert!(latest.iter().all(|changes| *changes == latest[0] && changes.closing.is_empty()), "{latest:?}");
        assert_eq!(changed["changes"]["number"], latest[0].number);
        assert_eq!(latest[0].lost.len(), 1 - lost, "{changed}");
    }
}

fn file_in(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(format!("{name}.db"))
}

const LOSE: [&str; 6] = ["lose", "eu", "--to", "us", "--reason", "it is gone"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_command_that_is_killed_between_its_steps_is_replaced() {
    let world = World::new().await;
    let mut lose = world.command(&LOSE, &["ap", "me", "us"]);
    eventually(SOON, "its first step", async || {
        world.latest().await.iter().filter(|changes| !changes.closing.is_empty()).count() == 3
    })
    .await;
    lose.kill().await.expect("it runs");
    let shown = world.run(&["show"], &NAMES).await;
    assert_eq!((&shown["majority"], &shown["changes"]["closing"][0]), (&Value::Bool(true), &Value::from("eu")));
    world.finish().await;
    let latest = world.latest().await.remove(0);
    assert_eq!((latest.number, latest.turns.len()), (3, 1), "only the second command has moved it: {latest:?}");
}

/// At moments by a seed: while it starts, while it writes either step, while it waits, or when it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_command_that_is_killed_at_any_moment_is_finished_or_replaced() {
    let world = World::new().await;
    for seed in 0..8_u64 {
        let words: &[&str] = match world.latest().await[4].lost.len() {
            0 => &LOSE,
            _ => &["bring-back", "eu", "--reason", "it is there"],
        };
        let mut command = world.command(words, &["eu", "me", "us"]);
        let before = world.latest().await[2].number;
        // From its first write on, in one half of the cases.
        if seed % 2 == 0 {
            let mut begun = async || world.latest().await[2].number > before || !matches!(command.try_wait(), Ok(None));
            let _ = tokio::time::timeout(SOON, async {
                while !begun().await {
                    sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        sleep(Duration::from_millis((seed * 397) % 1_500)).await;
        let _ = command.kill().await;
        world.finish().await;
    }
}
