//! A network between HTTP clients and a server that loses, delays and repeats what passes.
//!
//! It understands as much of HTTP/1.1 as it must: where a request and its answer end. Each request goes to the server on a
//! connection of its own, so that a server can die and another take its place.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection closes before the server hears of the request.
    LostBefore,
    /// The server answers, and the connection closes before the client hears of that.
    LostAfter,
    /// The client gets half of the answer.
    Cut,
    /// The request takes [`DELAY`] longer.
    Late,
    /// The server gets the request twice, at the same time. The client gets one of the answers.
    Twice,
    /// The server answers, and the client never hears of that, while its connection stays open.
    Silent,
}

/// How long a [late](Fault::Late) request takes.
pub const DELAY: Duration = Duration::from_millis(50);

/// The network. It ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    url: String,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// `127.0.0.1:PORT`.
    server: Mutex<String>,
    /// Where requests go that are not for `/api/`, unharmed.
    pages: Option<String>,
    faults: fn(u64) -> Option<Fault>,
    requests: AtomicU64,
    happened: Mutex<HashMap<Fault, u64>>,
    /// Connections end when it changes.
    over: watch::Sender<()>,
}

impl Network {
    /// A network before the server at `authority`. `faults` says what happens to each request, by its number from 0.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(authority: &str, faults: fn(u64) -> Option<Fault>) -> Self {
        Self::with_pages(authority, None, faults).await
    }

    /// As [`start`](Self::start), with the pages of a site beside it: only what is for `/api/` goes to the server, and suffers
    /// faults.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn with_pages(authority: &str, pages: Option<String>, faults: fn(u64) -> Option<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared {
            server: Mutex::new(authority.to_owned()),
            pages,
            faults,
            requests: AtomicU64::new(0),
            happened: Mutex::default(),
            over: watch::channel(()).0,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { shared, url, accepting }
    }

    /// Where clients reach it: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Leads to another server from now on.
    pub fn lead_to(&self, authority: &str) {
        authority.clone_into(&mut self.shared.server.lock());
    }

    /// How many requests have come from clients.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How often this has happened.
    pub fn happened(&self, fault: Fault) -> u64 {
        self.shared.happened.lock().get(&fault).copied().unwrap_or_default()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.over.send_modify(|()| {});
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        let mut over = shared.over.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Whichever way it ends, both sockets close.
                _ = serve(client, &shared) => {}
                _ = over.changed() => {}
            }
        });
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = Reader::default();
    while let Some(request) = reader.message(&mut client).await? {
        if let Some(pages) = shared.pages.as_deref().filter(|_| !is_for_api(&request)) {
            client.write_all(&ask(pages, &request).await?).await?;
            continue;
        }
        let number = shared.requests.fetch_add(1, Ordering::SeqCst);
        let fault = (shared.faults)(number);
        if let Some(fault) = fault {
            *shared.happened.lock().entry(fault).or_default() += 1;
        }
        match fault {
            None => client.write_all(&shared.ask(&request).await?).await?,
            Some(Fault::LostBefore) => return Ok(()),
            Some(Fault::LostAfter) => return shared.ask(&request).await.map(drop),
            Some(Fault::Cut) => {
                let answer = shared.ask(&request).await?;
                return client.write_all(&answer[..answer.len() - BODY_CUT]).await;
            }
            Some(Fault::Late) => {
                tokio::time::sleep(DELAY).await;
                client.write_all(&shared.ask(&request).await?).await?;
            }
            Some(Fault::Twice) => {
                let (first, second) = tokio::join!(shared.ask(&request), shared.ask(&request));
                client.write_all(&second.or(first)?).await?;
            }
            Some(Fault::Silent) => {
                shared.ask(&request).await?;
                // Until the client closes it.
                return client.read_u8().await.map(drop);
            }
        }
    }
    Ok(())
}

/// How much of an answer's end is missing after a [`Fault::Cut`]: less than any body, so that the head is whole.
const BODY_CUT: usize = 10;

impl Shared {
    /// The whole answer of the current server.
    async fn ask(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let server = self.server.lock().clone();
        ask(&server, request).await
    }
}

async fn ask(authority: &str, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(authority).await?;
    server.write_all(request).await?;
    let answer = Reader::default().message(&mut server).await?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn is_for_api(request: &[u8]) -> bool {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.windows(b" /api/".len()).any(|part| part == b" /api/")
}

/// Reads messages from one connection.
#[derive(Debug, Default)]
struct Reader {
    /// What was read, and belongs to no message yet.
    bytes: Vec<u8>,
}

impl Reader {
    /// The next whole message; `None` if the other end has closed the connection before it.
    async fn message(&mut self, from: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = end_of_message(&self.bytes)
                && end <= self.bytes.len()
            {
                let rest = self.bytes.split_off(end);
                return Ok(Some(std::mem::replace(&mut self.bytes, rest)));
            }
            if from.read_buf(&mut self.bytes).await? == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

/// Where the message that begins here ends, if its head is there. Its body has the length that the head says.
fn end_of_message(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    assert!(!text.contains("transfer-encoding:"), "this network carries bodies of a known length only");
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(head + 4 + length.unwrap_or(0))
}
