//! Servers that die, hang, forget or cannot be reached: the store's errors, and how it continues.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use keylatch::redis::{Options, Store};
use keylatch::store::{ErrorKind, Inspect as _, PageRequest, Store as _, Sweep as _};
use testing_support::redis::{Config, Server};

use crate::support::{FREE, applied, claim, completed, completion, connect, connect_with, win};

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_them_again() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    completed(&store, "before").await;
    assert!(server.ask("SCRIPT FLUSH").starts_with("+OK"));
    completed(&store, "after").await;
}

/// As after a failover to a server that has never seen the scripts: each call in turn.
#[tokio::test]
async fn every_call_survives_the_loss_of_the_scripts() {
    let server = Server::start(Config::new());
    let store = connect_with(&server, Options::default().with_counts()).await;
    let forget = || assert!(server.ask("SCRIPT FLUSH").starts_with("+OK"));
    let (one, two, three) = (claim("one"), claim("two"), claim("three"));
    let record = win(&store, &one).await;
    forget();
    applied(&store.renew(record.lease(), one.terms, None).await);
    forget();
    applied(&store.renew(record.lease(), one.terms, Some(("step".to_owned(), "result".into()))).await);
    forget();
    applied(&store.complete(record.lease(), completion("answer")).await);
    let record = win(&store, &two).await;
    forget();
    applied(&store.complete(record.lease(), completion("answer")).await);
    let record = win(&store, &three).await;
    forget();
    assert_eq!(store.count(record.scope.clone(), 10).await.unwrap().at_least(), 3);
    forget();
    applied(&store.release(record.lease(), FREE).await);
    forget();
    assert!(store.lapsed(None, 10).await.unwrap().value.records.is_empty());
    forget();
    assert_eq!(store.sweep(10).await.unwrap().total(), 0);
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_a_server_that_syncs_is_killed() {
    let mut server = Server::start(Config::new().with("appendfsync", "always"));
    let store = connect(&server).await;
    for round in 0..3 {
        let keys: Vec<_> = (0..50).map(|at| format!("key-{round}-{at}")).collect();
        let records = join_all(keys.iter().map(|key| completed(&store, key))).await;
        server.start_again();
        for record in records {
            assert_eq!(store.read(record.id()).await.expect("it reconnects by itself").value, Some(record));
        }
    }
}

/// If there is no server, every caller is told at once, even if many ask.
#[tokio::test]
async fn a_server_that_is_gone_is_noticed_at_once() {
    let mut server = Server::start(Config::new());
    let store = connect(&server).await;
    completed(&store, "key").await;
    server.kill();
    let started = Instant::now();
    let keys: Vec<_> = (0..200).map(|at| format!("key-{at}")).collect();
    for result in join_all(keys.iter().map(|key| store.claim(claim(key)))).await {
        let kind = result.expect_err("there is no server").kind();
        assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::NotKnown), "{kind}");
    }
    assert_eq!(store.claim(claim("later")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_millis(900), "it took {:?}", started.elapsed());
    server.start_again();
    win(&store, &claim("later")).await;
}

/// If a server hangs, calls fail in time as not known, and its late replies reach nobody.
#[tokio::test]
async fn a_server_that_stands_still_is_not_waited_for() {
    let server = Server::start(Config::new());
    let timeout = Duration::from_millis(300);
    let options = Options::default().with_response_timeout(timeout).with_connect_timeout(timeout);
    let store = connect_with(&server, options).await;
    let done = completed(&store, "done").await;
    server.pause();
    let started = Instant::now();
    let stuck = claim("stuck");
    assert_eq!(store.claim(stuck.clone()).await.unwrap_err().kind(), ErrorKind::NotKnown);
    assert_eq!(store.claim(claim("another")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < timeout * 4, "it took {:?}", started.elapsed());
    server.resume();
    // Whether or not the first one was carried out meanwhile: when it is sent again it wins, once.
    let record = win(&store, &stuck).await;
    assert_eq!((record.attempt, record.owner), (1, stuck.owner));
    assert_eq!(store.read(done.id()).await.unwrap().value, Some(done));
}

/// The replies to callers that have hung up are dropped: every other caller gets its own reply.
#[tokio::test]
async fn replies_of_callers_that_hung_up_reach_nobody() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let keys: Vec<_> = (0..100).map(|at| format!("key-{at}")).collect();
    let records = join_all(keys.iter().map(|key| completed(&store, key))).await;
    for round in 0..20 {
        let reads = records.iter().enumerate().map(|(at, record)| {
            let store = store.clone();
            async move {
                let reading = store.read(record.id());
                if (at + round) % 3 == 0 {
                    let _ = tokio::time::timeout(Duration::from_micros(50), reading).await;
                    return;
                }
                assert_eq!(reading.await.unwrap().value.as_ref(), Some(record));
            }
        });
        join_all(reads).await;
    }
}

/// A key of the store that something else has overwritten is an error, and never a second run.
#[tokio::test]
async fn foreign_and_later_values_are_never_taken_for_absent() {
    let server = Server::start(Config::new());
    let store = connect(&server).await;
    let record = completed(&store, "key").await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("keylatch:*").query_async(&mut raw).await.unwrap();
    let key = keys.into_iter().find(|key| key.ends_with(record.id().as_bytes())).expect("the record has a key");
    let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut raw).await.unwrap();

    let later = [&[3], &value[1..]].concat();
    let before_release = [&[1], &value[1..]].concat();
    let cut = value[..value.len() - 1].to_vec();
    for bytes in [later, before_release, cut, b"\x02".to_vec(), Vec::new(), b"not ours".to_vec()] {
        let _: () = redis::cmd("SET").arg(&key).arg(&bytes).query_async(&mut raw).await.unwrap();
        assert_corrupt(&store, "key").await;
    }
    let _: () = redis::cmd("DEL").arg(&key).query_async(&mut raw).await.unwrap();
    let _: () = redis::cmd("LPUSH").arg(&key).arg("a list").query_async(&mut raw).await.unwrap();
    assert_corrupt(&store, "key").await;
    completed(&store, "another").await;
}

async fn assert_corrupt(store: &Store, key: &str) {
    let claim = claim(key);
    assert_eq!(store.claim(claim.clone()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.read(claim.id()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let page = PageRequest { limit: 10, ..PageRequest::default() };
    assert_eq!(store.list(page).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Two stores on one server see each other's writes at once.
#[tokio::test]
async fn two_processes_share_a_server() {
    let server = Server::start(Config::new());
    let (one, other) = (connect(&server).await, connect(&server).await);
    let record = win(&one, &claim("key")).await;
    applied(&other.complete(record.lease(), completion("answer")).await);
    let read = one.read(record.id()).await.unwrap().value;
    assert_eq!(read, other.read(record.id()).await.unwrap().value);
}
