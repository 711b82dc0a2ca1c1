//! An acknowledged write is on disk: each commit is synced before its callers get their replies.
//!
//! Killing the process cannot show that, because the kernel keeps what was written. So the system calls are counted.

use std::process::Command;

use keylatch::store::Store;
use keylatch::{Guarantee, memory};

use crate::support::{Fixture, claim_of};

const CLAIMS: usize = 20;
/// Names the store on which a child process makes claims.
const CHILD: &str = "KEYLATCH_SYNC_CHILD";
const TEST: &str = "sync::an_acknowledged_write_is_synced";

#[test]
fn an_acknowledged_write_is_synced() {
    match std::env::var(CHILD) {
        Ok(store) => claim_one_by_one(&store),
        Err(_) => writes_are_synced("sqlite"),
    }
}

#[test]
#[should_panic(expected = "syncs for 20 claims")]
fn a_store_that_does_not_sync_is_caught() {
    writes_are_synced("memory");
}

/// Checks this store.
fn writes_are_synced(store: &str) {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let child = Command::new("strace")
        .args(["-f", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", TEST])
        .env(CHILD, store)
        .output()
        .expect("this test needs strace: apt-get install strace");
    assert!(child.status.success(), "{child:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let syncs = trace.lines().filter(|line| line.contains("sync(") && line.ends_with("= 0")).count();
    assert!(syncs >= CLAIMS, "{syncs} syncs for {CLAIMS} claims, each of which was acknowledged alone");
}

#[tokio::main(flavor = "current_thread")]
async fn claim_one_by_one(store: &str) {
    if store == "memory" {
        return claim_all(&memory::Store::new()).await;
    }
    claim_all(&Fixture::new().await.store).await;
}

async fn claim_all(store: &impl Store) {
    for key in 0..CLAIMS {
        let _ = store.claim(claim_of(&key.to_string(), Guarantee::Fenced)).await.unwrap();
    }
}
