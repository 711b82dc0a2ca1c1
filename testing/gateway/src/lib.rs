//! A service for the gateway's tests: it records every byte that reaches it, and every start and effect, and it can
//! fail in every way in which a service fails.
//!
//! | path | what it does |
//! |---|---|
//! | `/letters` | sends a letter: a start and an effect in the ledger, never merged |
//! | `/once` | the same, but one letter for each derived key, as a service that honours it |
//! | `/echo` | answers with the bytes of the request, as JSON |
//! | `/silent` | never answers; `/silent/then-free` only on a first attempt, and then says that nothing happened |
//! | `/lies` | sends a letter, and says that nothing happened |
//! | `/nothing` | closes the connection without an answer |
//! | `/half` | closes it in the middle of an answer; `/stall` falls silent there, `/reset` resets it after the head |
//! | `/drips-head` | sends its head byte by byte without an end; `/drips` its body |
//! | `/early` | answers before it has read the body, and closes |
//! | `/status/NNN` | answers so; `/says/WORD` with `Idempotency-Disposition: WORD` |
//! | `/large/N` | answers with a body of N bytes |
//! | `/events` | a stream of events: one, and then silence |
//! | `/hops` | answers with headers that concern one connection |
//! | `/upgrade` | switches protocols, and sends back what comes |

mod answers;
mod request;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use testing_history::ledger::{self, Ledger};
use testing_history::{Event, What};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

pub use request::Seen;
use request::{Read, read};

/// The service. A clone is the same.
#[derive(Debug, Clone)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    /// Where it runs, if there are several regions.
    region: Option<String>,
    /// The letters that were sent.
    sent: Mutex<HashSet<String>>,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<u64>,
}

/// How long it takes to send a letter: long enough for a random kill to find one half sent.
const SENDING: Duration = Duration::from_millis(10);

impl Upstream {
    /// A service that writes into `ledger`, the file at `path`, and continues from its contents.
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    pub fn new(ledger: Ledger, path: &Path) -> Self {
        Self::in_region(ledger, path, None)
    }

    /// As [`new`](Self::new), in a region that each event names.
    ///
    /// # Panics
    ///
    /// If the file cannot be read.
    pub fn in_region(ledger: Ledger, path: &Path, region: Option<String>) -> Self {
        let before = ledger::read(path).expect("the ledger is whole");
        let effects = before.into_iter().filter_map(|event| match event.what {
            What::Effect { effect, .. } => Some(effect),
            _ => None,
        });
        let (seen, connections) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { ledger, region, sent: Mutex::new(effects.collect()), seen, connections }))
    }

    /// Serves until it is dropped.
    pub async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let number = {
                let mut connections = self.0.connections.lock();
                *connections += 1;
                *connections
            };
            let this = self.clone();
            drop(tokio::spawn(async move { this.connection(stream, number).await }));
        }
    }

    /// All requests so far whose heads were read to the end.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.lock().clone()
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        *self.0.connections.lock()
    }

    async fn connection(&self, mut stream: TcpStream, number: u64) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Vec::new();
        loop {
            let Read { seen, whole } = match read(&mut stream, &mut buffer, number).await? {
                Some(read) => read,
                None => return Ok(()),
            };
            self.0.seen.lock().push(seen.clone());
            if !whole {
                return Ok(());
            }
            if !self.answer(&mut stream, &seen).await? {
                stream.shutdown().await?;
                return Ok(());
            }
        }
    }

    /// Sends a letter: if `honoured`, once for each derived key.
    async fn send(&self, request: &Seen, honoured: bool) -> String {
        let (scope, key) = (request.header("x-user-id"), request.header("idempotency-key"));
        let epoch = request.header("idempotency-epoch").and_then(|epoch| epoch.parse().ok());
        let (scope, key) = (scope.unwrap_or_default(), key.unwrap_or_default());
        let note = |what| {
            let event = Event::now(&scope, &key, what).in_region(self.0.region.as_deref());
            self.0.ledger.append(&event).expect("the ledger can be written");
        };
        note(What::Start { epoch });
        tokio::time::sleep(SENDING).await;
        let letter = match request.header("idempotency-derived-key") {
            Some(derived) if honoured => format!("letter {derived}"),
            _ => format!("letter to {scope} about {key}"),
        };
        let mut sent = self.0.sent.lock();
        if sent.insert(letter.clone()) || !honoured {
            note(What::Effect { effect: letter.clone(), epoch });
        }
        letter
    }
}
