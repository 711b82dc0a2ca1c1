//! One request in is one request out, written anew; and what can be read in two ways is refused.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::{Pair, SOON};

/// A request that is refused, and why such requests are dangerous.
const REFUSED: [(&str, &str, &str); 20] = [
    ("405", "CONNECT", "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\n"),
    ("405", "TRACE", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "400",
        "an absolute form that differs from Host",
        "POST http://a/ HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
    ),
    ("400", "a user in the target", "GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("400", "no Host", "GET / HTTP/1.1\r\n\r\n"),
    ("400", "two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("400", "a Host that is a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("400", "differing lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ("400", "a list of differing lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nab"),
    ("400", "a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na"),
    ("400", "a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na"),
    ("400", "obs-fold", "POST / HTTP/1.1\r\nHost: a\r\nX-Fold: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
    ("400", "a space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\na"),
    ("400", "another coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (
        "400",
        "a coding below chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "400",
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("400", "a disguised coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("400", "a coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("400", "a NUL in a header", "GET / HTTP/1.1\r\nHost: a\r\nX-Nul: a\0b\r\n\r\n"),
    ("400", "a lone CR in a header", "GET / HTTP/1.1\r\nHost: a\r\nX-Cr: a\rX-More: b\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_understood_in_two_ways_is_refused_and_reaches_nobody() {
    let pair = std::sync::Arc::new(Pair::new("fenced", &[]).await);
    let mut asking = tokio::task::JoinSet::new();
    for (status, why, request) in REFUSED {
        let pair = pair.clone();
        asking.spawn(async move {
            // What is hidden behind it must not be taken for a separate request, either.
            let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
            let answer = pair.raw(format!("{request}{hidden}").as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{why}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{why}: {answer}");
        });
    }
    asking.join_all().await;
    assert_eq!(pair.upstream.upstream.seen(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_in_is_one_request_out_with_one_framing() {
    let cases: [(&str, &str, &str, &str); 7] = [
        ("a length", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "abc", "content-length"),
        (
            "the same length twice",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "abc",
            "content-length",
        ),
        (
            "TE beside CL",
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "abc",
            "transfer-encoding",
        ),
        (
            "CL beside TE",
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "abc",
            "transfer-encoding",
        ),
        (
            "odd chunks",
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0001;x=\"y\"\r\na\r\n2\r\nbc\r\n000\r\n\r\n",
            "abc",
            "transfer-encoding",
        ),
        ("bare LF", "POST /echo HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc", "abc", "content-length"),
        (
            "an absolute form",
            "POST http://a/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
            "abc",
            "content-length",
        ),
    ];
    for guarded in [false, true] {
        let pair = Pair::new("fenced", &[]).await;
        for (number, (why, request, body, framing)) in cases.into_iter().enumerate() {
            let request = if guarded {
                let key = format!("Host: a\r\nIdempotency-Key: {number}\r\nX-User-Id: alice");
                request.replace("Host: a", &key)
            } else {
                request.to_owned()
            };
            let answer = pair.raw(request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{why}: {answer:?}");
            let seen = pair.upstream.upstream.seen();
            assert_eq!(seen.len(), number + 1, "{why}: {seen:?}");
            let seen = seen.last().unwrap();
            assert_eq!(seen.target(), ("POST", "/echo"), "{why}");
            assert_eq!(seen.body(), body.as_bytes(), "{why}");
            assert_eq!(seen.header("host").as_deref(), Some("a"), "{why}");
            // A guarded request was read completely, so it has a length.
            let framing = if guarded { "content-length" } else { framing };
            assert!(seen.header(framing).is_some(), "{why}: {}", seen.head);
        }
    }
}

/// Few clients send one, and some services want one.
#[tokio::test]
async fn the_body_of_a_get_reaches_the_service() {
    let pair = Pair::new("fenced", &[]).await;
    for framed in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
        let answer = pair.raw(format!("GET /echo HTTP/1.1\r\nHost: a\r\n{framed}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{framed}: {answer:?}");
        let seen = pair.upstream.upstream.seen();
        let seen = seen.last().unwrap();
        assert_eq!((seen.target().0, &seen.body()[..]), ("GET", &b"abc"[..]), "{framed}: {}", seen.head);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let pair = Pair::new("fenced", &[]).await;
    let one = |name: &str| {
        format!(
            "POST /echo/{name} HTTP/1.1\r\nHost: a\r\nX-User-Id: u\r\nIdempotency-Key: {name}\r\nContent-Length: 1\r\n\r\n{name}"
        )
    };
    let answer = pair.raw([one("a"), one("b"), one("c")].concat().as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 3, "{answer}");
    let seen: Vec<_> = pair.upstream.upstream.seen().iter().map(|seen| seen.target().1.to_owned()).collect();
    assert_eq!(seen, ["/echo/a", "/echo/b", "/echo/c"]);
}

#[tokio::test]
async fn a_head_that_does_not_end_and_a_body_that_does_not_come_are_given_up() {
    let arguments = ["--head-time-max", "1s", "--body-silence-max", "1s"];
    let pair = Pair::new("fenced", &arguments).await;
    let slow_head = pair.raw(b"POST /echo HTTP/1.1\r\nHost: a\r\n").await;
    assert!(!slow_head.contains("HTTP/1.1 2"), "{slow_head}");
    // However often another byte of it comes.
    let mut drip = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    let dripping = async {
        drip.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Drip: ").await?;
        while timeout(Duration::from_millis(100), drip.read_u8()).await.is_err() {
            drip.write_all(b"x").await?;
        }
        Ok::<(), std::io::Error>(())
    };
    let _ = timeout(SOON, dripping).await.expect("it is given up");
    let key = "X-User-Id: u\r\nIdempotency-Key: k\r\n";
    for head in ["", key] {
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\n{head}Content-Length: 5\r\n\r\nab");
        let answer = pair.raw(head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    assert!(pair.raw(large.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}
