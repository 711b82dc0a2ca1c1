//! Requests over HTTP/2, frame by frame: what would smuggle a second request into HTTP/1.1 reaches no service.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::setup::{Pair, SOON};

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as HPACK literals that are never indexed, so that they can contain anything.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("it is short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With an answer.
    Answered,
    /// Without one: the stream or the connection was aborted.
    GivenUp,
}

/// Sends one request, with `body` in a separate frame.
async fn send(pair: &Pair, head: &[(&str, &str)], body: &[u8]) -> Ended {
    let mut stream = TcpStream::connect(pair.gateway.authority()).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let request = [preface, frame(4, 0, 0, &[]), frame(1, 4, 1, &fields(head)), frame(0, 1, 1, body)].concat();
    stream.write_all(&request).await.unwrap();
    let ended = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Ended::GivenUp;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if stream.read_exact(&mut vec![0; length]).await.is_err() {
                return Ended::GivenUp;
            }
            match head[3] {
                1 => return Ended::Answered,
                3 | 7 => return Ended::GivenUp,
                _ => {}
            }
        }
    };
    timeout(SOON, ended).await.expect("the stream ends")
}

#[tokio::test]
async fn what_http1_would_take_for_two_requests_reaches_nobody() {
    let pair = Pair::new("fenced", &[]).await;
    let basic = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/echo")];
    let with = |name: &'static str, value: &'static str| {
        let replaced = basic.iter().any(|(of, _)| *of == name);
        let kept = basic.into_iter().map(|(of, before)| if of == name { (of, value) } else { (of, before) });
        kept.chain((!replaced).then_some((name, value))).collect::<Vec<_>>()
    };
    for head in [
        with("transfer-encoding", "chunked"),
        with("connection", "close"),
        with("x-note", "a\r\nTransfer-Encoding: chunked"),
        with("x-note", "a\nb: c"),
        with("x-note\r\nhidden", "a"),
        with("X-Note", "a"),
        with(":path", "/echo HTTP/1.1\r\nHost: b\r\n\r\nGET /hidden"),
        with(":path", "/echo hidden"),
        with(":path", "echo"),
        with(":method", "GET /hidden HTTP/1.1\r\n"),
        with(":authority", "a\r\nX-Hidden: b"),
        with("content-length", "5"),
        with("content-length", "2"),
    ] {
        assert_eq!(send(&pair, &head, b"abc").await, Ended::GivenUp, "{head:?}");
    }
    for head in [with("host", "b"), with(":authority", "u@a"), with(":scheme", "ftp"), with(":path", "*")] {
        // Refused by the gateway, with an answer.
        send(&pair, &head, b"abc").await;
    }
    assert_eq!(pair.upstream.upstream.seen(), []);

    let mut head = with("content-length", "3");
    head.extend([("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers"), ("host", "a")]);
    assert_eq!(send(&pair, &head, b"abc").await, Ended::Answered);
    let seen = pair.upstream.upstream.seen();
    let [request] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(request.body(), b"abc");
    assert_eq!(request.header("cookie").as_deref(), Some("a=1; b=2"));
    assert_eq!(request.header("host").as_deref(), Some("a"));
    assert_eq!(request.header("te"), None);
}
