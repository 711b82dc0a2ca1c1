//! What a client or a service can use of the gateway is limited; and a store may disappear and return.

use std::time::Duration;

use http::Method;
use testing_support::postgres::Cluster;
use testing_support::redis::{Config, Server as Redis};
use testing_support::server::allow_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::{Answer, Pair, SOON, Service, gateway};

#[tokio::test]
async fn i13_thousands_of_idle_connections_hold_up_nobody() {
    const IDLE: usize = 10_000;
    // The gateway starts with the same limit.
    allow_open_files(IDLE as u64 + 2_000);
    let pair = Pair::new("at-most-once", &[]).await;
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(TcpStream::connect(pair.gateway.authority()).await.unwrap());
    }
    assert_eq!(pair.post("/letters", "k", "a").await.status, 201);
    assert!(pair.post("/letters", "k", "a").await.is_replay());
    let memory = pair.gateway.memory_peak();
    eprintln!("{IDLE} idle connections: {} KiB at the most", memory / 1024);
    assert!(memory < 256 << 20, "{memory} bytes");
}

#[tokio::test]
async fn i13_connections_over_the_limit_wait_for_their_turn() {
    let pair = Pair::new("at-most-once", &["--connections-max", "2"]).await;
    let first = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    let _second = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    // The system accepts the third connection, and the gateway does not.
    let mut third = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    third.write_all(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(timeout(Duration::from_millis(500), third.read_u8()).await.is_err(), "it was answered");
    drop(first);
    assert_eq!(timeout(SOON, third.read_u8()).await.expect("its turn comes").unwrap(), b'H');
}

#[tokio::test]
async fn i13_requests_over_the_limit_of_the_service_are_not_sent() {
    let arguments = ["--upstream-requests-max", "1", "--upstream-connect-max", "500ms", "--upstream-silence-max", "5s"];
    let pair = std::sync::Arc::new(Pair::new("at-most-once", &arguments).await);
    let silent = tokio::spawn({
        let pair = pair.clone();
        async move { pair.post("/silent", "silent", "a").await.status }
    });
    testing_support::eventually(SOON, "the service to have it", async || pair.upstream.upstream.seen().len() == 1)
        .await;
    let answer = pair.post("/letters", "k", "a").await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "UPSTREAM_UNREACHABLE"));
    assert_eq!(silent.await.unwrap(), 504);
    assert_eq!(pair.post("/letters", "k", "a").await.status, 201, "its key was free");
}

#[tokio::test]
async fn i13_the_bodies_of_guarded_requests_have_so_much_room() {
    let limits = ["--request-body-max", "100KiB", "--held-bytes-max", "150KiB", "--upstream-silence-max", "5s"];
    let pair = std::sync::Arc::new(Pair::new("at-most-once", &limits).await);
    let body = "x".repeat(100 << 10);
    let held = tokio::spawn({
        let (pair, body) = (pair.clone(), body.clone());
        async move { pair.post("/silent", "silent", &body).await.status }
    });
    testing_support::eventually(SOON, "the service to have it", async || pair.upstream.upstream.seen().len() == 1)
        .await;
    let refused = pair.post("/letters", "k", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "GATEWAY_FULL"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What is small has room, and what is not guarded takes none.
    assert_eq!(pair.post("/letters", "small", "a").await.status, 201);
    assert_eq!(pair.send(Method::PUT, "/status/204", &[], &"x".repeat(1 << 20)).await.status, 204);
    assert_eq!(pair.upstream.upstream.seen().len(), 3, "nothing of what was refused was sent");
    // The room is free again, for one after the other.
    assert_eq!(held.await.unwrap(), 504);
    for key in ["k", "k2", "k3"] {
        assert_eq!(pair.post("/letters", key, &body).await.status, 201, "{key}");
    }
}

#[tokio::test]
async fn i13_an_answer_that_nobody_reads_is_given_up() {
    let pair = Pair::new("at-most-once", &["--unread-max", "1s"]).await;
    let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    stream.write_all(b"GET /large/50000000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut read = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut read)).await.expect("it ends");
    assert!(ended.is_err() || read.len() < 50_000_000, "all {} bytes came", read.len());
    let read = pair.send(Method::GET, "/large/5000000", &[], "").await;
    assert_eq!(read.body.len(), 5_000_000, "who reads gets all");
}

#[tokio::test]
async fn nothing_runs_while_the_store_is_gone_unless_it_is_told_to_fail_open() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&directory.path().join("ledger"), 0).await;
    let mut store = Redis::start(Config::new().with("appendonly", "yes").with("appendfsync", "always"));
    let url = store.url();
    let basic = ["--store", &url, "--scope", "header:X-User-Id", "--guarantee", "at-most-once"];
    let closed = gateway(&service.url, &basic).start().await.unwrap();
    let open = gateway(&service.url, &[&basic[..], &["--fail-open"]].concat()).start().await.unwrap();
    assert_eq!(post(closed.url(), "before").await.status, 201);
    store.kill();
    let refused = post(closed.url(), "while").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "IDEMPOTENCY_STORE_UNAVAILABLE"));
    assert_eq!(service.upstream.seen().len(), 1);
    let bypassed = post(open.url(), "while").await;
    assert_eq!((bypassed.status, bypassed.header("idempotency-status")), (201, Some("bypassed")));
    store.start_again();
    testing_support::eventually(SOON, "the gateway to find its store again", async || {
        post(closed.url(), "after").await.status == 201
    })
    .await;
    assert!(post(closed.url(), "before").await.is_replay());
}

/// While PostgreSQL is gone, nothing runs; and once it is back, what was answered before is answered again.
#[tokio::test]
async fn nothing_runs_while_postgresql_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let service = Service::start(&directory.path().join("ledger"), 0).await;
    let store = Cluster::start("");
    let url = store.url("postgres");
    let arguments = ["--store", &url, "--scope", "header:X-User-Id", "--guarantee", "at-most-once"];
    let gateway = gateway(&service.url, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(post(gateway.url(), "before").await.status, 201);
    store.stop_immediately();
    let refused = post(gateway.url(), "while").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "IDEMPOTENCY_STORE_UNAVAILABLE"));
    assert_eq!(service.upstream.seen().len(), 1);
    store.start_again();
    testing_support::eventually(SOON, "the gateway to find its store again", async || {
        post(gateway.url(), "while").await.status == 201
    })
    .await;
    assert!(post(gateway.url(), "before").await.is_replay());
    assert_eq!(service.upstream.seen().len(), 2);
}

async fn post(url: &str, key: &str) -> Answer {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{url}/letters")).header("x-user-id", "alice").header("idempotency-key", key);
    Answer::read(request.body("a").timeout(SOON).send().await.unwrap()).await
}
