//! What is not recorded is streamed.

use std::time::Duration;

use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::{Pair, SOON};

async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(wanted) {
        let more = timeout(SOON, stream.read_buf(&mut read)).await.expect("more comes").expect("the connection holds");
        assert!(more > 0, "{}", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn events_arrive_while_their_stream_goes_on() {
    let pair = Pair::new("fenced", &["--upstream-silence-max", "1s"]).await;
    for key in ["", "X-User-Id: u\r\nIdempotency-Key: k\r\n"] {
        let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
        let head = format!("POST /events HTTP/1.1\r\nHost: a\r\n{key}Content-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        read_until(&mut stream, "data: 1\n\n").await;
        let more = timeout(Duration::from_millis(1_500), stream.read_u8()).await;
        assert!(more.is_err(), "a stream of events may be silent");
    }
    let headers = [("x-user-id", "u"), ("idempotency-key", "k")];
    let again = pair.send(Method::POST, "/events", &headers, "").await;
    assert_eq!((again.status, again.code().as_str()), (409, "IDEMPOTENCY_RESPONSE_NOT_RETAINED"));
}

#[tokio::test]
async fn a_body_that_is_not_guarded_reaches_the_service_while_it_comes() {
    let pair = Pair::new("fenced", &["--request-body-max", "1KiB"]).await;
    let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    stream.write_all(b"PUT /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").await.unwrap();
    let answer = read_until(&mut stream, "early").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let large = "x".repeat(3 << 20);
    let answer = pair.send(Method::PUT, "/status/204", &[], &large).await;
    assert_eq!(answer.status, 204);
    assert_eq!(pair.upstream.upstream.seen().last().unwrap().body().len(), large.len());
}

#[tokio::test]
async fn a_connection_may_become_something_else() {
    let pair = Pair::new("fenced", &[]).await;
    let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    let head = b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: echo\r\n"), "{answer}");
    for word in ["hello", "world"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        read_until(&mut stream, word).await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, stream.read(&mut [0; 8])).await.expect("the end comes").unwrap(), 0);
    // Only an unguarded request may upgrade its connection.
    let headers = [("x-user-id", "u"), ("idempotency-key", "k"), ("connection", "upgrade"), ("upgrade", "echo")];
    assert_eq!(pair.send(Method::POST, "/upgrade", &headers, "").await.status, 426);
}

#[tokio::test]
async fn connections_to_the_service_are_used_again_and_given_up_before_it_gives_them_up() {
    let pair = Pair::new("fenced", &["--upstream-idle-max", "200ms"]).await;
    for _ in 0..5 {
        assert_eq!(pair.send(Method::GET, "/echo", &[], "").await.status, 200);
    }
    // The next request may arrive before the previous one's connection is free.
    let before = pair.upstream.upstream.connections();
    assert!(before < 5, "{before}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pair.send(Method::GET, "/echo", &[], "").await.status, 200);
    assert_eq!(pair.upstream.upstream.connections(), before + 1);
}
