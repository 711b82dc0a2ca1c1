//! A client's connection. It does as little work as possible, so that the server is measured.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::app::{COUNT_PATH, PATH};

/// A connection that sends the same order again and again, with different keys.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    key_at: usize,
    read: Vec<u8>,
}

/// An answer, in the connection's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    pub(crate) body: &'a [u8],
}

/// The order of the README.
pub(crate) const ORDER: &str = r#"{"user_id":"user123","cart_id":"cart456","items":[{"product_id":"prod1","quantity":2,"price_cents":1000},{"product_id":"prod2","quantity":1,"price_cents":500}]}"#;

/// The prefix of a key. It makes the key as long as a UUID.
pub(crate) const KEY_PREFIX: &str = "benchmark-of-orders-";
const KEY_DIGITS: usize = 16;

impl Connection {
    /// Connects the client of number `user`.
    pub(crate) async fn open(address: SocketAddr, user: usize) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\ncontent-type: application/json\r\n\
             x-user-id: user-{user}\r\ncontent-length: {}\r\nidempotency-key: {KEY_PREFIX}",
            ORDER.len(),
        );
        let key_at = head.len();
        let request = format!("{head}{:0KEY_DIGITS$}\r\n\r\n{ORDER}", 0).into_bytes();
        Ok(Self { stream, request, key_at, read: Vec::with_capacity(4096) })
    }

    /// Sends the order with the key of this number, and reads the whole answer.
    pub(crate) async fn ask(&mut self, key: u64) -> io::Result<Answer<'_>> {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let digits = &mut self.request[self.key_at..][..KEY_DIGITS];
        digits.iter_mut().rev().fold(key, |key, digit| {
            *digit = HEX[(key % 16) as usize];
            key / 16
        });
        self.stream.write_all(&self.request).await?;
        self.answer().await
    }

    /// How many orders the server has inserted.
    pub(crate) async fn count(&mut self) -> io::Result<u64> {
        let request = format!("GET {COUNT_PATH} HTTP/1.1\r\nhost: bench\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        let answer = self.answer().await?;
        let count = std::str::from_utf8(answer.body).ok().and_then(|count| count.parse().ok());
        count.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the server did not say how many orders it has"))
    }

    async fn answer(&mut self) -> io::Result<Answer<'_>> {
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some((head, end)) = parse(&self.read)? {
                let body = &self.read[head.length..end];
                return Ok(Answer { status: head.status, replayed: head.replayed, body });
            }
        }
    }
}

struct Head {
    length: usize,
    status: u16,
    replayed: bool,
}

/// The head of the answer, and where its body ends, once all of it has arrived.
fn parse(read: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let invalid = |why: &str| io::Error::new(ErrorKind::InvalidData, why.to_owned());
    let parsed = response.parse(read).map_err(|_| invalid("the server does not speak HTTP"))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let body =
        header("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    let end = length + body.ok_or_else(|| invalid("an answer without Content-Length"))?;
    let head = Head {
        length,
        status: response.code.unwrap_or(0),
        replayed: header("idempotent-replayed").is_some_and(|header| header.value == b"true"),
    };
    Ok((read.len() >= end).then_some((head, end)))
}
