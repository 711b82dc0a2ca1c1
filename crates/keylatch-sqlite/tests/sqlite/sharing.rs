//! Other processes on the same file.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use keylatch::Guarantee;
use keylatch::machine::Claimed;
use keylatch::sqlite::Store;
use keylatch::store::Store as _;
use keylatch::tx::Transacted;

use crate::support::{Fixture, add, claim_of, keep};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_64_claims_through_two_stores_wins() {
    let fixture = Fixture::new().await;
    let other = Store::open(fixture.path()).await.unwrap();
    for round in 0..100 {
        let key = round.to_string();
        let claims = (0..64).map(|n| {
            let store = if n % 2 == 0 { fixture.store.clone() } else { other.clone() };
            let claim = claim_of(&key, Guarantee::Fenced);
            tokio::spawn(async move { store.claim(claim).await.unwrap().value })
        });
        let claimed: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
        let winners = claimed.iter().filter(|claimed| matches!(claimed, Claimed::Won(_))).count();
        assert_eq!(winners, 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_attempts_through_two_stores_commits() {
    let fixture = Fixture::with_items().await;
    let other = Fixture { store: Store::open(fixture.path()).await.unwrap(), directory: tempfile::tempdir().unwrap() };
    for round in 0..50 {
        let key = round.to_string();
        let attempts = (0..16).map(|n| {
            let through = if n % 2 == 0 { &fixture } else { &other };
            let name = format!("{round:02} {n}");
            through.attempt(claim_of(&key, Guarantee::Atomic), async move |mut tx| {
                add(&mut tx, &name).await.unwrap();
                keep("done")
            })
        });
        let results = join_all(attempts).await;
        let committed =
            results.iter().filter(|result| matches!(result.as_ref().unwrap().value, Transacted::Committed(_)));
        assert_eq!(committed.count(), 1, "round {round}");
        assert_eq!(fixture.items().await.len(), round + 1);
    }
}

const RIVAL: &str = "KEYLATCH_TEST_RIVAL";
const KEYS: usize = 300;

/// Claims all keys, and returns which were won.
async fn claim_all(store: &Store) -> BTreeSet<usize> {
    let mut won = BTreeSet::new();
    for key in 0..KEYS {
        let claimed = store.claim(claim_of(&key.to_string(), Guarantee::Fenced)).await.unwrap().value;
        if matches!(claimed, Claimed::Won(_)) {
            won.insert(key);
        }
    }
    won
}

#[tokio::test]
async fn two_processes_share_a_file() {
    if let Some(path) = std::env::var_os(RIVAL) {
        let store = Store::open(path).await.unwrap();
        std::io::stdin().lock().read_line(&mut String::new()).unwrap();
        let won = claim_all(&store).await;
        let mut answer = std::io::stderr().lock();
        for key in won {
            writeln!(answer, "won {key}").unwrap();
        }
        return;
    }
    let fixture = Fixture::new().await;
    let mut rival = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sharing::two_processes_share_a_file", "--nocapture"])
        .env(RIVAL, fixture.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    rival.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let ours = claim_all(&fixture.store).await;
    let lines = BufReader::new(rival.stderr.take().unwrap()).lines().map(Result::unwrap);
    let theirs: BTreeSet<usize> = lines.filter_map(|line| line.strip_prefix("won ")?.parse().ok()).collect();
    assert!(rival.wait().unwrap().success());
    assert!(ours.is_disjoint(&theirs), "both won {:?}", ours.intersection(&theirs));
    assert_eq!(ours.len() + theirs.len(), KEYS, "each key has a winner");
}
