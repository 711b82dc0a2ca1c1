//! Heads of requests that never end, or are too large. Nobody can hold a server up with them, and nothing is ordered.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::Setup;
use crate::shop::{SOON, Shop, order};

/// What the server allows, and some more.
const HEAD_MAX: Duration = Duration::from_secs(30 + 10);

#[tokio::test]
async fn a_head_that_does_not_end_is_not_waited_for() {
    let shop = Shop::new(Setup::Sqlite);
    let server = shop.open().await;
    let mut silent = TcpStream::connect(server.authority()).await.unwrap();
    let mut slow = TcpStream::connect(server.authority()).await.unwrap();
    slow.write_all(b"POST /api/orders HTTP/1.1\r\nHost: orders\r\nIdempotency-Key: key\r\n").await.unwrap();

    let started = Instant::now();
    for stalled in [&mut silent, &mut slow] {
        let mut answer = Vec::new();
        let ended = timeout(HEAD_MAX.saturating_sub(started.elapsed()), stalled.read_to_end(&mut answer)).await;
        ended.expect("the server lets go of it").expect("without a reset");
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 2"), "{answer:?}");
    }
    assert!(started.elapsed() > Duration::from_secs(10), "a client that is only slow has some time");
    shop.ask_all_again(&[order("user", "after")]).await;
    assert_eq!(shop.orders().await.len(), 1);
    server.kill().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_or_has_too_many_lines_is_refused() {
    let shop = Shop::new(Setup::Sqlite);
    let server = shop.open().await;
    let mut customer = TcpStream::connect(server.authority()).await.unwrap();
    let line = format!("X-Note: {}\r\n", "x".repeat(8_000));
    let head = format!("GET /api/orders HTTP/1.1\r\nHost: orders\r\n{}\r\n", line.repeat(20));
    // It may be refused before all of it is sent, and then the answer may be lost.
    let _ = customer.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let ended = timeout(SOON, customer.read_to_end(&mut answer)).await.expect("the server lets go of it");
    assert!(ended.is_err() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));

    let mut customer = TcpStream::connect(server.authority()).await.unwrap();
    let head = format!("GET /api/orders HTTP/1.1\r\nHost: orders\r\n{}\r\n", "X-Note: x\r\n".repeat(200));
    customer.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, customer.read_to_end(&mut answer)).await.expect("the server lets go of it").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    server.kill().await;
}
