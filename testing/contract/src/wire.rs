//! An HTTP client that hides nothing: requests are written by hand, and answers are read as they arrive.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer of a test takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, header by header.
#[derive(Debug, Clone)]
pub struct Call {
    address: SocketAddr,
    method: &'static str,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    length: Option<usize>,
    chunks: Option<Vec<Vec<u8>>>,
    trailers: String,
}

impl Call {
    /// A request without headers or a body.
    pub fn new(address: SocketAddr, method: &'static str, target: &str) -> Self {
        let (headers, body) = (Vec::new(), Vec::new());
        let (target, trailers) = (target.to_owned(), String::new());
        Self { address, method, target, headers, body, length: None, chunks: None, trailers }
    }

    /// Adds a line, beside those of the same name that are there.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// With this `Idempotency-Key`, beside one that is there.
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.header("Idempotency-Key", key)
    }

    /// With this caller in the place of another.
    pub fn caller(self, caller: &str) -> Self {
        self.without("X-User-Id").header("X-User-Id", caller)
    }

    /// Without the lines of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(there, _)| !there.eq_ignore_ascii_case(name));
        self
    }

    /// With `Prefer: wait`.
    pub fn wait(self, seconds: u32) -> Self {
        self.header("Prefer", format!("wait={seconds}"))
    }

    /// With this body, which is JSON by its type.
    pub fn json(self, body: &str) -> Self {
        self.header("Content-Type", "application/json").body(body)
    }

    /// With this body.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_owned();
        self
    }

    /// Promises this many bytes of body in its head.
    pub fn length(self, length: usize) -> Self {
        Self { length: Some(length), ..self }
    }

    /// Sends the body in these chunks, instead of with a length.
    pub fn chunked<'a>(mut self, chunks: impl IntoIterator<Item = &'a str>) -> Self {
        self.chunks = Some(chunks.into_iter().map(|chunk| chunk.as_bytes().to_owned()).collect());
        self
    }

    /// Sends it to another server.
    pub fn at(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Sends a trailer after a chunked body.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers = format!("{name}: {value}\r\n");
        self
    }

    /// The head alone, which promises a body.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n", self.method, self.target);
        match &self.chunks {
            Some(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
            None => head.push_str(&format!("Content-Length: {}\r\n", self.length.unwrap_or(self.body.len()))),
        }
        let mut head = head.into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        match &self.chunks {
            None => bytes.extend_from_slice(&self.body),
            Some(chunks) => {
                for chunk in chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(&[chunk.as_slice(), b"\r\n"].concat());
                }
                bytes.extend_from_slice(format!("0\r\n{}\r\n", self.trailers).as_bytes());
            }
        }
        bytes
    }

    /// Sends all of it, and reads the answer to its end.
    pub async fn send(&self) -> Reply {
        self.open(&self.bytes()).await.reply().await
    }

    /// Sends all of it, and leaves the answer to be read.
    pub async fn begin(&self) -> Exchange {
        self.open(&self.bytes()).await
    }

    /// Sends these bytes in the place of the request.
    pub async fn open(&self, bytes: &[u8]) -> Exchange {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        // The server may answer, and close, before it has everything.
        let _ = stream.write_all(bytes).await;
        Exchange { stream, read: Vec::new() }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Exchange {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Exchange {
    /// The connection, to send more.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads until the answer, so far, has `part` in it. Returns what was read.
    pub async fn read_until(&mut self, part: &str) -> String {
        loop {
            let read = String::from_utf8_lossy(&self.read).into_owned();
            if read.contains(part) {
                return read;
            }
            let got = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
            let got = got.expect("an answer in time").expect("the connection holds");
            assert!(got > 0, "the answer ended without {part:?}: {read}");
        }
    }

    /// Reads the answer to its end.
    pub async fn reply(mut self) -> Reply {
        let ended = timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await.expect("an answer in time");
        let reply = Reply::parse(&self.read);
        reply.unwrap_or_else(|| panic!("no answer, but {:?}, {ended:?}", String::from_utf8_lossy(&self.read)))
    }

    /// Sends this byte again and again, with pauses, until there is an answer. Returns how often, and the answer.
    pub async fn trickle(mut self, byte: u8, pause: Duration) -> (usize, Reply) {
        for sent in 0.. {
            match timeout(pause, self.stream.read_buf(&mut self.read)).await {
                Ok(read) => {
                    assert!(read.expect("the connection holds") > 0, "an answer, and not only an end");
                    return (sent, self.reply().await);
                }
                Err(_) => self.stream.write_all(&[byte]).await.expect("the connection holds"),
            }
        }
        unreachable!("nobody counts so far")
    }

    /// Says that no more will be sent, and waits until the server has closed the connection.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection is there");
        timeout(PATIENCE, self.stream.read_to_end(&mut self.read)).await.expect("an end in time").expect("a clean end");
    }

    /// Hangs up in such a way that the server's machine hears of it at once.
    pub fn hang_up(self) {
        let _ = self.stream.set_zero_linger();
    }
}

/// An answer, header by header, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers, by names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its body, without chunks.
    pub body: Vec<u8>,
    /// Its trailers as they came.
    pub trailers: String,
    /// Whether the body came to its end.
    pub whole: bool,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let head_ends = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, rest) = (&bytes[..head_ends], &bytes[head_ends + 4..]);
        let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let status = std::str::from_utf8(lines.next()?).ok()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').expect("a header has a colon");
            let name = String::from_utf8(line[..colon].to_ascii_lowercase()).expect("a name is ASCII");
            (name, line[colon + 1..].trim_ascii().to_owned())
        });
        let mut reply =
            Self { status, headers: headers.collect(), body: Vec::new(), trailers: String::new(), whole: true };
        if reply.text("transfer-encoding").as_deref() == Some("chunked") {
            reply.whole = reply.dechunk(rest).is_some();
        } else {
            reply.body = rest.to_owned();
            let promised = reply.text("content-length").map(|length| length.parse().expect("a length"));
            reply.whole = promised.is_none_or(|length: usize| length == rest.len());
        }
        Some(reply)
    }

    fn dechunk(&mut self, mut rest: &[u8]) -> Option<()> {
        loop {
            let line_ends = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line_ends]).ok()?, 16).ok()?;
            rest = &rest[line_ends + 2..];
            if size == 0 {
                self.trailers = String::from_utf8(rest.strip_suffix(b"\r\n")?.to_owned()).ok()?;
                return Some(());
            }
            self.body.extend_from_slice(rest.get(..size)?);
            rest = rest.get(size + 2..)?;
        }
    }

    /// All lines of a header, in their order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let lines = self.headers.iter().filter(|(there, _)| there == name);
        lines.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// A header that has one line at most.
    pub fn text(&self, name: &str) -> Option<String> {
        let mut lines = self.all(name);
        assert!(lines.len() <= 1, "{name} has {} lines", lines.len());
        lines.pop()
    }

    /// The body, which is text.
    pub fn body_text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// Whether it says that it is a replay.
    pub fn replayed(&self) -> bool {
        self.text("idempotent-replayed").is_some_and(|value| value == "true")
    }

    /// The problem that it states, every rule for problems checked.
    pub fn problem(&self) -> Value {
        assert_eq!(self.text("content-type").as_deref(), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.text("cache-control").as_deref(), Some("no-store"));
        let problem: Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["title"], problem["error"], "the title again, for older clients");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
        assert!(problem["retryable"].is_boolean());
        let code = problem["code"].as_str().expect("a problem has a code");
        let page = format!("docs/problems/{}.md", code.to_ascii_lowercase().replace('_', "-"));
        assert!(problem["type"].as_str().is_some_and(|uri| uri.ends_with(&page)), "{problem}");
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../").to_owned() + &page;
        assert!(std::fs::exists(&file).expect("docs can be read"), "{file} explains the problem");
        problem
    }

    /// Checks that it is exactly this problem.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let problem = self.problem();
        assert_eq!(problem["code"], code, "{problem}");
        problem
    }
}
