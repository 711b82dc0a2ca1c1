//! The orders API passes every case of `keylatch probe`, also when it is killed in the middle of a request.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use keylatch_probe::{CASES, Probe, Verdict};
use testing_support::eventually;
use tokio::net::{TcpListener, TcpStream};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    probe: Probe,
}

/// Kills the service with SIGKILL, if it runs, and waits until its port is free.
const KILL: &str = "if [ -e pid ]; then
    pid=$(cat pid)
    kill -9 $pid
    while grep -qs '^State:[^Z]*$' /proc/$pid/status; do sleep 0.01; done
fi";

/// Kills the process whose number is in the file when it goes.
struct Stopped(PathBuf);

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(&self.0) {
            let _ = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }
}

/// A script that kills the service with SIGKILL, if it runs, and starts it.
fn script(directory: &Path, port: u16) -> PathBuf {
    let path = directory.join("restart.sh");
    let text = format!(
        "cd '{}'\n{KILL}\nPORT={port} DATA_DIR=. '{}' </dev/null >/dev/null 2>&1 &\necho $! >pid\n",
        directory.display(),
        env!("CARGO_BIN_EXE_orders"),
    );
    std::fs::write(&path, text).expect("the script is written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_orders_api_passes_every_case() {
    let directory = tempfile::tempdir().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").await.and_then(|socket| socket.local_addr()).expect("a port").port();
    let script = script(directory.path(), port);
    let _stopped = Stopped(directory.path().join("pid"));
    let started = Command::new("sh").arg(&script).env_remove("DATABASE_URL").status().expect("the script runs");
    assert!(started.success());
    eventually(Duration::from_secs(30), "the service to start", async || {
        TcpStream::connect(("127.0.0.1", port)).await.is_ok()
    })
    .await;
    let body = r#"{"user_id":"u1","cart_id":"c1","items":[{"product_id":"p1","quantity":2,"price":10.5}]}"#;
    let url = format!("http://127.0.0.1:{port}/api/orders");
    let restart = format!("sh {}", script.display());
    let given = [
        "probe",
        &url,
        "--body",
        body,
        "--effects",
        "GET /api/orders?user_id=u1&limit=1000",
        "--count",
        ".orders",
        "--restart",
        &restart,
        "--yes",
    ];
    let probe = Cli::try_parse_from(given).unwrap_or_else(|error| panic!("{error}")).probe;
    let report = keylatch_probe::probe(probe).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.failed(), 0, "{}", report.table());
    assert_eq!(report.findings.len(), CASES.len());
    let unknown = report.findings.iter().filter(|finding| matches!(finding.verdict, Verdict::CannotTell(_)));
    // It has no callers but the user in the body. Whether it serves HTTP/2 depends on the features of the build.
    let unknown: Vec<_> = unknown.map(|finding| finding.case.name).filter(|name| *name != "http2").collect();
    assert_eq!(unknown, ["two-callers"]);
}
