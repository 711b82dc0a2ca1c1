//! Servers that start, stop and die, tried on shell scripts that only claim to serve.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use testing_support::eventually;
use testing_support::server::{Program, Server, StartError};

const SOON: Duration = Duration::from_secs(10);

fn script(text: &str) -> Program {
    Program::new("sh").arg("-c").arg(format!("echo serving at http://127.0.0.1:$((PORT + 7)); {text}"))
}

async fn started(text: &str) -> Server {
    script(text).start().await.unwrap()
}

#[tokio::test]
async fn starts_when_it_says_where() {
    let server = started("exec sleep 60").await;
    assert_eq!(server.url(), "http://127.0.0.1:7");
    assert_eq!(server.authority(), "127.0.0.1:7");
    assert!(server.memory_peak() > 0);
    server.kill().await;
}

#[tokio::test]
async fn one_that_ends_at_once_is_an_error_with_what_it_said() {
    let error = Program::new("sh").arg("-c").arg("echo no disk >&2; exit 3").start().await.unwrap_err();
    let StartError::Ended { status, output } = error else { panic!("{error:?}") };
    assert_eq!((status.code(), output.as_str()), (Some(3), "no disk\n"));
}

#[tokio::test]
async fn ends_on_terminate_with_all_that_it_printed() {
    // The trap is set before it prints its address: the signal may come at once.
    let program = Program::new("sh")
        .arg("-c")
        .arg("trap 'echo draining; exit 0' TERM; echo http://127.0.0.1:7; while :; do sleep 0.01; done");
    let (status, output) = program.start().await.unwrap().terminate().await;
    assert!(status.success(), "{status}");
    assert!(output.ends_with("draining\n"), "{output}");
}

#[tokio::test]
async fn a_killed_one_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let alive = dir.path().join("alive");
    let server = started(&format!("trap '' TERM; while :; do : > {}; sleep 0.01; done", alive.display())).await;
    eventually(SOON, "a sign of life", async || alive.exists()).await;
    server.kill().await;
    fs::remove_file(&alive).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!alive.exists());
}

#[tokio::test]
async fn a_paused_one_stands_still_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let beat = dir.path().join("beat");
    let server = started(&format!("while :; do echo >> {}; sleep 0.01; done", beat.display())).await;
    let beats = || fs::metadata(&beat).map_or(0, |beat| beat.len());
    eventually(SOON, "a beat", async || beats() > 0).await;
    server.pause().await;
    let before = beats();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(beats(), before);
    server.resume();
    eventually(SOON, "another beat", async || beats() > before).await;
    server.kill().await;
}

#[tokio::test]
async fn denied_writes_fail_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let beat = dir.path().join("beat");
    let text = format!(
        "while :; do if (echo >> {}) 2>/dev/null; then echo wrote; else echo denied; fi; sleep 0.01; done",
        beat.display()
    );
    let server = script(&text).survives_denied_writes().start().await.unwrap();
    let last = |word: &'static str| {
        let printed = server.printed();
        printed.lines().last() == Some(word)
    };
    eventually(SOON, "a write", async || last("wrote")).await;
    server.deny_writes(true);
    eventually(SOON, "a denied write", async || last("denied")).await;
    server.deny_writes(false);
    eventually(SOON, "a write again", async || last("wrote")).await;
    server.kill().await;
}

#[tokio::test]
async fn one_that_dies_by_itself_is_seen_to() {
    const SIGKILL: i32 = 9;
    let server = started("sleep 0.05; kill -9 $$").await;
    assert_eq!(server.ended().await.signal(), Some(SIGKILL));
}
