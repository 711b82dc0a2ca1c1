//! A proxy in front of a PostgreSQL server. It counts round trips, loses replies and redirects connections.
//!
//! It follows the client's side of the protocol
//! (<https://www.postgresql.org/docs/current/protocol-message-formats.html>), and knows the statement of each round
//! trip.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy. It ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<u16>,
    round_trips: Mutex<Vec<String>>,
    cuts: Mutex<Vec<Cut>>,
    made: AtomicUsize,
    silent: AtomicBool,
    /// Connections end when it changes.
    generation: watch::Sender<u64>,
}

/// Where a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Before the server gets the statement.
    BeforeServer,
    /// After the server got it, and while it executes it.
    AfterSent,
    /// After the server has executed it, and before the client gets the reply.
    BeforeReply,
    /// After the client got the reply.
    AfterReply,
    /// Before the server gets the statement. From then on nothing passes, and the server's connection stays open
    /// whatever the client does. So the server sees a client that was stopped, or whose machine is gone.
    Freeze,
}

#[derive(Debug)]
struct Cut {
    part: String,
    at: Break,
}

impl Proxy {
    /// A proxy in front of the server at `target`, a port of this machine.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            round_trips: Mutex::default(),
            cuts: Mutex::default(),
            made: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            generation: watch::channel(0).0,
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { shared, port, accepting }
    }

    /// The address of a database through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{database}?sslmode=disable", super::USER, self.port)
    }

    /// Breaks the connection of the next round trip for a statement with these words, once.
    pub fn cut(&self, part: &str, at: Break) {
        self.shared.cuts.lock().push(Cut { part: part.to_owned(), at });
    }

    /// How many of these cuts have happened.
    pub fn cuts_made(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// The statements of the round trips since the last call.
    pub fn round_trips(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.round_trips.lock())
    }

    /// Sets whether the server's replies are lost from now on, while connections stay open.
    pub fn fall_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// Redirects new connections from now on, and closes all open ones, as a failover does.
    pub fn lead_to(&self, target: u16) {
        *self.shared.target.lock() = target;
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        let mut generation = shared.generation.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                // Whichever side ends, both sockets close.
                _ = serve(client, &shared) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

async fn serve(client: TcpStream, shared: &Shared) -> io::Result<()> {
    let target = *shared.target.lock();
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let replies = Replies::default();
    tokio::select! {
        done = forward_client(from_client, to_server, &replies, shared) => done,
        done = forward_server(from_server, to_client, &replies, shared) => done,
    }
}

/// The reply after which the connection ends, if any; and whether the client still gets that reply.
#[derive(Debug, Default)]
struct Replies {
    last: AtomicBool,
    withheld: AtomicBool,
}

async fn forward_client(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    replies: &Replies,
    shared: &Shared,
) -> io::Result<()> {
    let mut statements = Statements::default();
    let mut cut = None;
    // The first message has no type.
    let mut first = true;
    loop {
        let mut head = vec![0; if first { 4 } else { 5 }];
        client.read_exact(&mut head).await?;
        let length = u32::from_be_bytes(head[head.len() - 4..].try_into().expect("four bytes")) as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        client.read_exact(&mut body).await?;
        let kind = if first { None } else { Some(head[0]) };
        first = false;
        if let Some(sql) = kind.and_then(|kind| statements.round_trip(kind, &body)) {
            cut = shared.taken(&sql);
            match cut {
                Some(Break::BeforeServer) => return Ok(()),
                // Until the server closes its connection, or the proxy ends.
                Some(Break::Freeze) => return std::future::pending().await,
                _ => {}
            }
            replies.withheld.store(cut == Some(Break::BeforeReply), Ordering::SeqCst);
            replies.last.store(cut.is_some(), Ordering::SeqCst);
        }
        head.extend(body);
        server.write_all(&head).await?;
        if cut == Some(Break::AfterSent) {
            return Ok(());
        }
    }
}

async fn forward_server(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    replies: &Replies,
    shared: &Shared,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = server.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if !replies.withheld.load(Ordering::SeqCst) && !shared.silent.load(Ordering::SeqCst) {
            client.write_all(&buffer[..read]).await?;
        }
        if replies.last.load(Ordering::SeqCst) && ready_for_query(&buffer[..read]) {
            // It is done: both sides may close.
            return Ok(());
        }
    }
}

/// Whether the last message ends a reply: it has the type, the length of 5, and the state of the transaction.
fn ready_for_query(bytes: &[u8]) -> bool {
    bytes.len() >= 6 && bytes[bytes.len() - 6..bytes.len() - 1] == *b"Z\0\0\0\x05"
}

impl Shared {
    /// Notes a round trip, and makes the cut that is planned for it.
    fn taken(&self, sql: &str) -> Option<Break> {
        self.round_trips.lock().push(sql.to_owned());
        let mut cuts = self.cuts.lock();
        let at = cuts.iter().position(|cut| has_words(sql, &cut.part))?;
        self.made.fetch_add(1, Ordering::SeqCst);
        Some(cuts.remove(at).at)
    }
}

/// Whether `sql` contains `part` as whole words: BEGIN also contains READ COMMITTED.
fn has_words(sql: &str, part: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    sql.match_indices(part).any(|(at, _)| !goes_on(&sql[at + part.len()..]))
}

/// The statements that a client has prepared, and the one that it executes next.
#[derive(Debug, Default)]
struct Statements {
    prepared: HashMap<Vec<u8>, String>,
    current: String,
}

impl Statements {
    /// The statement of the round trip that this message ends, if it ends one.
    fn round_trip(&mut self, kind: u8, body: &[u8]) -> Option<String> {
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
        match kind {
            // A simple query.
            b'Q' => return Some(text()),
            // Parse: a name, and the statement.
            b'P' => {
                let name = text().into_bytes();
                self.current = format!("PREPARE {}", text());
                self.prepared.insert(name, self.current["PREPARE ".len()..].to_owned());
            }
            // Bind: a portal, and the statement's name.
            b'B' => {
                text();
                self.current = self.prepared.get(text().as_bytes()).cloned().unwrap_or_default();
            }
            // Sync: the server answers everything before it.
            b'S' => return Some(std::mem::take(&mut self.current)),
            _ => {}
        }
        None
    }
}
