//! gRPC from end to end: messages both ways while the call goes on, and its status in trailers. Client and service speak
//! HTTP/2 by themselves, so that nothing of the protocol is hidden
//! ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).

use std::future::poll_fn;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use testing_support::server::Server;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::setup::{SOON, gateway};

/// A message as it is on the wire: not compressed, its length, its bytes.
fn message(text: &str) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(text.len()).expect("it is short"));
    framed.put_slice(text.as_bytes());
    framed.freeze()
}

/// Messages as they come, which frames need not respect.
struct Messages {
    body: RecvStream,
    read: BytesMut,
}

impl Messages {
    fn of(body: RecvStream) -> Self {
        Self { body, read: BytesMut::new() }
    }

    /// The next, or `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(length) = self.read.get(1..5) {
                let end = 5 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                if self.read.len() >= end {
                    return Some(String::from_utf8(self.read.split_to(end)[5..].to_vec()).expect("it is text"));
                }
            }
            let Some(data) = self.body.data().await else {
                assert!(self.read.is_empty(), "half a message: {:?}", self.read);
                return None;
            };
            let data = data.expect("the stream holds");
            self.body.flow_control().release_capacity(data.len()).expect("it was taken");
            self.read.put_slice(&data);
        }
    }

    async fn trailers(&mut self) -> Option<HeaderMap> {
        self.body.trailers().await.expect("the stream holds")
    }
}

/// Answers each message at once with its echo, and with the status 0 after the last. A call of `/refused` ends with its head.
async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.expect("it is HTTP/2");
            while let Some(Ok((request, respond))) = connection.accept().await {
                drop(tokio::spawn(call(request, respond)));
            }
        }));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let headers = request.headers();
    assert_eq!(headers["content-type"], "application/grpc+proto");
    assert_eq!(headers["te"], "trailers", "the client takes trailers, and the service is told");
    assert_eq!(headers["grpc-timeout"], "20S");
    assert_eq!(headers["x-tenant-bin"], "AAEC", "metadata passes");
    let head = Response::builder().header("content-type", "application/grpc+proto");
    if request.uri().path() == "/refused" {
        let head = head.header("grpc-status", "7").header("grpc-message", "not%20you").body(()).expect("a head");
        respond.send_response(head, true).expect("the stream holds");
        return;
    }
    let mut answer = respond.send_response(head.body(()).expect("a head"), false).expect("the stream holds");
    let mut messages = Messages::of(request.into_body());
    while let Some(text) = messages.next().await {
        answer.send_data(message(&format!("echo of {text}")), false).expect("the stream holds");
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    trailers.insert("grpc-message", "done".parse().expect("a value"));
    trailers.insert("x-cost-bin", "AAEC".parse().expect("a value"));
    answer.send_trailers(trailers).expect("the stream holds");
}

struct Path {
    gateway: Server,
    client: SendRequest<Bytes>,
}

impl Path {
    /// A client of a gateway before the service, all by HTTP/2.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = format!("h2c://{}", listener.local_addr().expect("it is bound"));
        drop(tokio::spawn(serve(listener)));
        let arguments = ["--store", "memory:", "--scope", "header:X-User-Id", "--guarantee", "at-most-once"];
        let gateway = gateway(&upstream, &arguments).start().await.unwrap_or_else(|error| panic!("{error}"));
        let stream = TcpStream::connect(gateway.authority()).await.expect("it listens");
        let (client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        drop(tokio::spawn(connection));
        Self { gateway, client }
    }

    /// Begins a call.
    async fn call(&self, path: &str, key: Option<&str>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut client = self.client.clone();
        poll_fn(|context| client.poll_ready(context)).await.expect("the connection holds");
        let mut request = Request::post(format!("{}{path}", self.gateway.url()))
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("grpc-timeout", "20S")
            .header("x-tenant-bin", "AAEC")
            .header("x-user-id", "alice");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        client.send_request(request.body(()).expect("a request"), false).expect("the connection holds")
    }
}

fn grpc_status(headers: &HeaderMap) -> &str {
    headers["grpc-status"].to_str().expect("text")
}

#[tokio::test]
async fn a_call_of_grpc_streams_both_ways_and_ends_with_its_trailers() {
    let path = Path::new().await;
    let talking = async {
        let (answer, mut sending) = path.call("/echo.Echo/Talk", None).await;
        // Before the head of the answer is awaited, which some services send with their first message only.
        sending.send_data(message("one"), false).expect("the stream holds");
        let answer = answer.await.expect("an answer");
        assert_eq!(
            (answer.status(), &answer.headers()["content-type"]),
            (StatusCode::OK, &"application/grpc+proto".parse().expect("a value"))
        );
        let mut messages = Messages::of(answer.into_body());
        assert_eq!(messages.next().await.as_deref(), Some("echo of one"), "while the call goes on");
        let large = "x".repeat(100_000);
        for text in ["two", &large] {
            sending.send_data(message(text), false).expect("the stream holds");
            assert_eq!(messages.next().await, Some(format!("echo of {text}")));
        }
        sending.send_data(Bytes::new(), true).expect("the stream holds");
        assert_eq!(messages.next().await, None);
        let trailers = messages.trailers().await.expect("trailers");
        assert_eq!((grpc_status(&trailers), &trailers["grpc-message"]), ("0", &"done".parse().expect("a value")));
        assert_eq!(trailers["x-cost-bin"], "AAEC");
    };
    timeout(SOON, talking).await.expect("it ends");
}

#[tokio::test]
async fn a_status_of_grpc_without_a_message_passes_in_the_head() {
    let path = Path::new().await;
    let calling = async {
        let (answer, mut sending) = path.call("/refused", None).await;
        sending.send_data(message("one"), true).expect("the stream holds");
        let answer = answer.await.expect("an answer");
        assert_eq!((grpc_status(answer.headers()), answer.status()), ("7", StatusCode::OK));
        assert!(answer.body().is_end_stream(), "nothing follows");
    };
    timeout(SOON, calling).await.expect("it ends");
}

/// Its trailers are not kept, and so it is not given again. But it does not run again either.
#[tokio::test]
async fn a_guarded_call_of_grpc_has_its_answer_and_runs_once() {
    let path = Path::new().await;
    let calling = async {
        let (answer, mut sending) = path.call("/echo.Echo/Pay", Some("k")).await;
        sending.send_data(message("pay"), true).expect("the stream holds");
        let mut messages = Messages::of(answer.await.expect("an answer").into_body());
        assert_eq!(messages.next().await.as_deref(), Some("echo of pay"));
        assert_eq!(messages.next().await, None);
        assert_eq!(grpc_status(&messages.trailers().await.expect("trailers")), "0");

        let (answer, mut sending) = path.call("/echo.Echo/Pay", Some("k")).await;
        sending.send_data(message("pay"), true).expect("the stream holds");
        assert_eq!(answer.await.expect("an answer").status(), StatusCode::CONFLICT);
    };
    timeout(SOON, calling).await.expect("it ends");
}
