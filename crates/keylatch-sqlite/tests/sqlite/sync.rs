//! What was acknowledged is on the disk: each commit is synced before its callers hear of it.
//!
//! A kill of the process cannot show that, for the kernel keeps what was written. So the calls to the kernel are counted.

use std::process::Command;

use keylatch::Guarantee;
use keylatch::store::Store as _;

use crate::support::{Fixture, claim_of};

const CLAIMS: usize = 20;
const CHILD: &str = "KEYLATCH_SYNC_CHILD";
const TEST: &str = "sync::an_acknowledged_write_is_synced";

#[test]
fn an_acknowledged_write_is_synced() {
    if std::env::var_os(CHILD).is_some() {
        return claim_one_by_one();
    }
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let child = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(CHILD, "1")
        .output()
        .expect("this test needs strace: apt-get install strace");
    assert!(child.status.success(), "{child:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let syncs = trace.lines().filter(|line| line.contains("sync(") && line.ends_with("= 0")).count();
    assert!(syncs >= CLAIMS, "{syncs} syncs for {CLAIMS} claims, each of which was acknowledged alone");
}

#[tokio::main(flavor = "current_thread")]
async fn claim_one_by_one() {
    let fixture = Fixture::new().await;
    for key in 0..CLAIMS {
        let _ = fixture.store.claim(claim_of(&key.to_string(), Guarantee::Fenced)).await.unwrap();
    }
}
