//! What the server removes by itself, on its own clock, with short times. No sweep runs unless a test calls it.

use std::time::Duration;

use keylatch::machine::{Claim, Completion, End, Terms};
use keylatch::redis::{Options, Store};
use keylatch::store::{Applied, ErrorKind, Owner, State, Store as _, Sweep as _};
use keylatch::{Guarantee, Outcome, Record};
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use testing_support::eventually;
use testing_support::redis::{Config, Server};

use crate::support::{FREE, applied, claim, claim_under, completed, completion, connect, connect_with, win};

const SOON: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

pub(crate) async fn raw(server: &Server) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// The key of a record.
pub(crate) async fn key_of(server: &Server, record: &Record) -> Vec<u8> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("keylatch:*").query_async(&mut raw(server).await).await.unwrap();
    keys.into_iter().find(|key| key.ends_with(record.id().as_bytes())).expect("the record has a key")
}

async fn ask<T: FromRedisValue>(server: &Server, command: &str, record: &Record) -> T {
    let key = key_of(server, record).await;
    redis::cmd(command).arg(key).query_async(&mut raw(server).await).await.unwrap()
}

async fn is_gone(store: &Store, record: &Record) {
    eventually(SOON, "the record goes", async || store.read(record.id()).await.unwrap().value.is_none()).await;
}

/// A claim whose key anyone may claim again after so short a time.
fn short(key: &str, free: Duration) -> Claim {
    let mut claim = claim(key);
    claim.terms = Terms { lease: free, takeover: Some(free), free: Some(free) };
    claim
}

#[tokio::test]
async fn a_tombstone_goes_by_itself() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = win(&store, &claim("key")).await;
    let completion = Completion { outcome: Outcome::bytes("answer").into(), retention: SHORT, tombstone: SHORT };
    applied(&store.complete(record.lease(), completion).await);
    is_gone(&store, &record).await;
    let next = win(&store, &claim("key")).await;
    assert_eq!((next.epoch, next.attempt), (record.epoch, 1), "nothing is known of the first");
}

/// A run that did not happen leaves only its epoch, for the requested time.
#[tokio::test]
async fn a_freed_key_keeps_its_epoch_for_a_while() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let first = win(&store, &claim("key")).await;
    applied(&store.release(first.lease(), FREE).await);
    let left = ask::<i64>(&server, "PTTL", &first).await;
    assert!((500_000..=600_000).contains(&left), "{left}");
    let second = win(&store, &claim("key")).await;
    assert_eq!((second.epoch, second.attempt), (first.epoch.next(), 1));
    applied(&store.release(second.lease(), End::Free(SHORT)).await);
    is_gone(&store, &second).await;
    let third = win(&store, &claim("key")).await;
    applied(&store.release(third.lease(), End::Free(Duration::ZERO)).await);
    assert!(store.read(third.id()).await.unwrap().value.is_none(), "nothing is kept for no time");
}

/// A run that nobody has ended is removed when its key is free. A later write is lost, and says so.
#[tokio::test]
async fn an_abandoned_run_goes_by_itself_and_its_late_writes_are_lost() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let (renewing, completing) = (short("renewing", SHORT), short("completing", SHORT));
    let (renewed, late) = (win(&store, &renewing).await, win(&store, &completing).await);
    is_gone(&store, &renewed).await;
    is_gone(&store, &late).await;
    let applied = store.renew(renewed.lease(), renewing.terms, None).await.unwrap();
    assert_eq!(applied, Applied::Lost);
    assert_eq!(store.complete(late.lease(), completion("answer")).await.unwrap(), Applied::Lost);
    let other = win(&store, &Claim { owner: Owner::random(), ..claim("renewing") }).await;
    assert_eq!(store.renew(renewed.lease(), renewing.terms, None).await.unwrap(), Applied::Lost);
    assert_eq!(store.read(other.id()).await.unwrap().value, Some(other));
}

/// The time to live of a key is that of the latest write.
#[tokio::test]
async fn each_write_gives_the_key_its_end() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let soon = short("key", Duration::from_secs(600));
    let record = win(&store, &soon).await;
    assert!(ask::<i64>(&server, "PTTL", &record).await <= 600_000);
    let longer = Terms { free: Some(Duration::from_secs(1_200)), ..soon.terms };
    applied(&store.renew(record.lease(), longer, None).await);
    let left = ask::<i64>(&server, "PTTL", &record).await;
    assert!((600_001..=1_200_000).contains(&left), "{left}");
    // A late completion extends it, too.
    applied(&store.complete(record.lease(), completion("answer")).await);
    let left = ask::<i64>(&server, "PTTL", &record).await;
    assert!((3 * DAY_MS..=4 * DAY_MS).contains(&left), "{left}");
}

/// The key of a run that must not be forgotten does not expire.
#[tokio::test]
async fn a_run_at_most_once_stays() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = win(&store, &claim_under(Guarantee::AtMostOnce, "key")).await;
    assert!(ask::<i64>(&server, "PTTL", &record).await > 99 * 365 * DAY_MS);
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
    let read = store.read(record.id()).await.unwrap().value.expect("it is there");
    assert_eq!((read.takeover_at, read.free_at), (None, None));
}

/// Its times are the server's, whoever reads them, and whatever this process's clock says.
#[tokio::test]
async fn a_lease_ends_on_the_servers_clock() {
    let server = Server::start(Config::new());
    let (store, other) = (connect(&server).await, connect(&server).await);
    let claim = claim("key");
    let record = win(&store, &claim).await;
    let read = store.read(record.id()).await.unwrap().value.expect("it is there");
    assert_eq!(other.read(record.id()).await.unwrap().value.as_ref(), Some(&read));
    let end = ask::<i64>(&server, "PEXPIRETIME", &record).await;
    assert_eq!(read.free_at.map(|at| at.as_millis()), Some(end));
    let State::Running { lease_ends_at, .. } = read.state else { panic!("it runs") };
    let span = claim.terms.free.unwrap() - claim.terms.lease;
    assert_eq!(lease_ends_at.as_millis() + i64::try_from(span.as_millis()).unwrap(), end);
    // The claim was told this time, or a slightly earlier one.
    assert!(record.takeover_at <= read.takeover_at);
}

/// A run whose key never expires has no times: nothing is guessed, and it is never run again.
#[tokio::test]
async fn a_run_whose_key_lost_its_end_is_damaged() {
    let server = Server::start(Config::new());
    let (store, other) = (connect(&server).await, connect(&server).await);
    let record = win(&store, &claim("key")).await;
    assert_eq!(ask::<i64>(&server, "PERSIST", &record).await, 1);
    assert_eq!(other.claim(claim("key")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(other.read(record.id()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(other.complete(record.lease(), completion("answer")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    // Its owner knows what it has written, and repairs it.
    applied(&store.complete(record.lease(), completion("answer")).await);
    assert!(other.read(record.id()).await.unwrap().value.is_some());
}

/// A long answer is removed at the end of its retention, and its tombstone stays for its own time.
#[tokio::test]
async fn a_long_answer_is_taken_out_by_a_sweep() {
    let server = Server::start(Config::new());
    let store = connect_with(&server, Options::default().with_compression(None)).await;
    let record = win(&store, &claim("key")).await;
    let outcome = Outcome::bytes(vec![b'x'; 2_000]);
    let completion = Completion { outcome: outcome.into(), retention: SHORT, tombstone: Duration::from_secs(600) };
    applied(&store.complete(record.lease(), completion).await);
    let end = ask::<i64>(&server, "PEXPIRETIME", &record).await;
    eventually(SOON, "its answer is due", async || store.sweep(10).await.unwrap().tombstoned == 1).await;
    let read = store.read(record.id()).await.unwrap().value.expect("its tombstone is there");
    assert!(matches!(read.state, State::Completed { outcome: None, .. }), "{read:?}");
    assert!((end - ask::<i64>(&server, "PEXPIRETIME", &record).await).abs() <= 1_000);
    assert!(ask::<i64>(&server, "STRLEN", &record).await < 300);
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
}

/// Keys come and go, and their memory is freed without a sweep.
#[tokio::test]
async fn memory_returns_without_a_sweep() {
    let server = Server::start(Config::new().with("appendonly", "no"));
    let store = connect(&server).await;
    completed(&store, "stays").await;
    for at in 0..2_000 {
        let claim = claim(&format!("key-{at}"));
        let record = win(&store, &claim).await;
        let completion = Completion { outcome: Outcome::bytes("answer").into(), retention: SHORT, tombstone: SHORT };
        applied(&store.complete(record.lease(), completion).await);
    }
    // The record that stays, and at most the set of running records.
    let size = || server.ask("DBSIZE").trim().trim_start_matches(':').parse::<usize>().unwrap();
    eventually(SOON, "all others go", async || size() <= 2).await;
}
