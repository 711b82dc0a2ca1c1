//! What a person at a terminal sees, and is asked. `script` lends a terminal.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::setup::{CALLER, Kind, World};

/// Runs the program on a terminal of 80 columns, and returns what it has shown.
async fn on_a_terminal(world: &World, arguments: &str, variables: &[(&str, &str)], typed: &str) -> String {
    let program = env!("CARGO_BIN_EXE_gateway-under-test");
    let line = format!("stty cols 80 rows 24; exec {program} {arguments}");
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("KEYLATCH_STORE", &world.url).env("TERM", "xterm");
    command.env_remove("NO_COLOR").envs(variables.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("util-linux has `script`");
    let mut stdin = child.stdin.take().expect("it has an input");
    stdin.write_all(typed.as_bytes()).await.expect("it reads");
    let output = child.wait_with_output().await.expect("it ends");
    String::from_utf8(output.stdout).expect("it shows text")
}

#[tokio::test]
async fn a_table_fits_its_terminal_and_has_its_colours() {
    let world = World::new(Kind::Sqlite).await;
    world.unknown(&"k".repeat(200)).await;
    let shown = on_a_terminal(&world, "keys list", &[], "").await;
    assert!(shown.contains("\x1b[31munknown\x1b[0m") && shown.contains('…'), "{shown:?}");
    let plain = on_a_terminal(&world, "keys list", &[("NO_COLOR", "1")], "").await;
    assert!(!plain.contains('\x1b'), "{plain:?}");
    assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 80), "{plain}");
}

#[tokio::test]
async fn a_person_is_asked_before_a_key_is_let_go() {
    let world = World::new(Kind::Sqlite).await;
    let record = world.unknown("lost").await;
    let release = format!("keys release {CALLER} lost --epoch 1 --reason sure");
    let shown = on_a_terminal(&world, &release, &[], "no\n").await;
    assert!(shown.contains("second time") && shown.contains("it was not confirmed"), "{shown}");
    assert_eq!(world.read("lost").await, Some(record));
    let shown = on_a_terminal(&world, &release, &[], "yes\n").await;
    assert!(shown.contains("Type yes to go on") && shown.contains("Done: release"), "{shown}");
}
