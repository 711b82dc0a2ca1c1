//! The gateway's HTTP/2, by the conformance suite h2spec, which is written in Go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::http2::{Files, port, start};
use crate::setup::Service;

/// Building it may need to download its sources.
const BUILD_MAX: Duration = Duration::from_secs(300);
const RUN_MAX: Duration = Duration::from_secs(120);

async fn built() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let mut go = Command::new("go");
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("h2spec"))
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg("github.com/summerwind/h2spec/cmd/h2spec")
        .kill_on_drop(true);
    let built = timeout(BUILD_MAX, go.output()).await.expect("it is built in time");
    let built = built.unwrap_or_else(|error| panic!("go cannot be run ({error}); run: apt-get install golang-go"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    program
}

/// By TLS, where client and server agree on HTTP/2 beforehand. In clear text the first bytes tell which protocol it is, and so
/// what h2spec sends as a wrong preface is a wrong request of HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn h2spec_passes() {
    let h2spec = built().await;
    let files = Files::new();
    let service = Service::start(&files.dir.path().join("ledger"), 0).await;
    let gateway = start(&service.url, &files, true, &[]).await;
    let mut run = Command::new(h2spec);
    run.args(["--host", "127.0.0.1", "--port", &port(&gateway).to_string(), "--tls", "--insecure", "--strict"]);
    let said = timeout(RUN_MAX, run.args(["--timeout", "10"]).kill_on_drop(true).output()).await.expect("it ends");
    let said = said.expect("it can be run");
    let text = String::from_utf8_lossy(&said.stdout);
    let last = text.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_else(|| panic!("{said:?}"));
    let failures = text.split_once("\nFailures:").map_or("", |(_, failures)| failures);
    assert!(said.status.success() && last.ends_with("0 skipped, 0 failed"), "{last}\n{failures}");
    let tests: usize = last.split(' ').next().and_then(|count| count.parse().ok()).expect("a number of tests");
    assert!(tests > 140, "{last}");
}
