//! The load: each client waits for its answer before it sends the next request. Every answer is checked.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::task::JoinSet;

use crate::Result;
use crate::connection::{Answer, Connection};
use crate::server::Server;

/// Which requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requests {
    /// Each with a key that was never used.
    First,
    /// Each with a key whose answer is recorded.
    Replay,
}

impl Requests {
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "first" => Ok(Self::First),
            "replay" => Ok(Self::Replay),
            _ => Err(format!("requests are `first` or `replay`, not `{name}`").into()),
        }
    }
}

/// Does `call` so often, with the numbers from 0, and `at_once` of them at once, until one fails.
pub(crate) async fn in_flight<F>(at_once: usize, count: usize, call: impl Fn(usize) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let call = &call;
    let one = |first| async move {
        for number in (first..count).step_by(at_once) {
            call(number).await?;
        }
        Ok(())
    };
    try_join_all((0..at_once).map(one)).await.map(drop)
}

/// The number of clients, and for how long they send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) clients: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// The measurements of one load.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Answers a second.
    pub(crate) rate: f64,
    /// The server's processor time for each.
    pub(crate) cpu: Duration,
    /// The time from request to answer, in microseconds, in order.
    latencies: Vec<u32>,
}

impl Measured {
    /// The latency below which this share of the requests stays.
    pub(crate) fn percentile(&self, part: f64) -> Duration {
        let at = (self.latencies.len() as f64 * part) as usize;
        Duration::from_micros(self.latencies.get(at).copied().unwrap_or(0).into())
    }

    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.latencies.last().copied().unwrap_or(0).into())
    }
}

/// A key, and the answer that every later request with it must get.
type Known = (u64, Vec<u8>);

/// How many keys of each client are sent again: during a load of replays, or after a load of first requests.
const KNOWN_KEYS: u64 = 10;

/// Puts the load on `server`, and checks the result.
pub(crate) async fn load(server: &Server, requests: Requests, effort: Effort) -> Result<Measured> {
    let clients = clients(server, effort.clients).await?;
    let ready = all(clients.into_iter().map(Client::learn)).await?;
    let start = Instant::now() + effort.warm_up;
    let end = start + effort.measured;
    let working: JoinSet<_> =
        ready.into_iter().map(|(client, known)| client.work(requests, known, start, end)).collect();
    tokio::time::sleep_until(start.into()).await;
    let cpu_before = server.cpu()?;
    tokio::time::sleep_until(end.into()).await;
    let cpu = server.cpu()?.saturating_sub(cpu_before);

    let mut latencies = Vec::new();
    let mut sent = 0;
    for done in working.join_all().await {
        let done = done?;
        latencies.extend(done.latencies);
        sent += done.keys;
    }
    if latencies.is_empty() {
        return Err(format!("{} gave no answer in {:?}", server.name(), effort.measured).into());
    }
    check_count(server, sent).await?;
    latencies.sort_unstable();
    let count = u32::try_from(latencies.len())?;
    Ok(Measured { rate: f64::from(count) / effort.measured.as_secs_f64(), cpu: cpu / count, latencies })
}

/// Sends `keys` requests with different keys, as fast as they are answered. Calls `seen` after each `step` of them.
pub(crate) async fn distinct_keys(
    server: &Server,
    count: usize,
    keys: u64,
    step: u64,
    mut seen: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut clients = clients(server, count).await?;
    let each = step / count as u64;
    let mut sent = 0;
    while sent < keys {
        clients = all(clients.into_iter().map(|client| client.firsts(each))).await?;
        sent += each * count as u64;
        seen()?;
    }
    check_count(server, sent).await
}

async fn clients(server: &Server, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        clients.push(Client::open(server, number, count).await?);
    }
    Ok(clients)
}

/// The results of all of these, run at once.
async fn all<T: Send + 'static>(
    work: impl Iterator<Item = impl Future<Output = Result<T>> + Send + 'static>,
) -> Result<Vec<T>> {
    work.collect::<JoinSet<_>>().join_all().await.into_iter().collect()
}

/// Each answered key has its order, and there are no others.
async fn check_count(server: &Server, keys: u64) -> Result<()> {
    if !server.inserts() {
        return Ok(());
    }
    let inserted = Connection::open(server.address(), 0).await?.count().await?;
    if inserted != keys {
        return Err(format!("{}: {keys} keys, and {inserted} orders", server.name()).into());
    }
    Ok(())
}

/// One client.
struct Client {
    connection: Connection,
    server: &'static str,
    replays: bool,
    /// The next key. Keys of several clients are interleaved.
    next: u64,
    step: u64,
    keys: u64,
}

/// What one client has done.
struct Done {
    latencies: Vec<u32>,
    /// How many keys it used.
    keys: u64,
}

impl Client {
    async fn open(server: &Server, number: usize, clients: usize) -> Result<Self> {
        let connection = Connection::open(server.address(), number).await?;
        let (server, replays) = (server.name(), server.replays());
        Ok(Self { connection, server, replays, next: number as u64, step: clients as u64, keys: 0 })
    }

    /// Uses the first keys, and remembers their answers.
    async fn learn(mut self) -> Result<(Self, Vec<Known>)> {
        let mut known = Vec::new();
        for _ in 0..KNOWN_KEYS {
            let key = self.next;
            known.push((key, self.first().await?.to_vec()));
        }
        Ok((self, known))
    }

    async fn firsts(mut self, count: u64) -> Result<Self> {
        for _ in 0..count {
            self.first().await?;
        }
        Ok(self)
    }

    async fn work(mut self, requests: Requests, known: Vec<Known>, start: Instant, end: Instant) -> Result<Done> {
        let mut latencies = Vec::new();
        let mut again = known.iter().cycle();
        let mut begun = Instant::now();
        while begun < end {
            match (requests, again.next()) {
                (Requests::Replay, Some(known)) => self.replay(known).await?,
                _ => drop(self.first().await?),
            }
            let done = Instant::now();
            if done >= start && done <= end {
                latencies.push(u32::try_from((done - begun).as_micros()).unwrap_or(u32::MAX));
            }
            begun = done;
        }
        if self.replays {
            for known in &known {
                self.replay(known).await?;
            }
        }
        Ok(Done { latencies, keys: self.keys })
    }

    /// Sends a request with a new key: it must run.
    async fn first(&mut self) -> Result<&[u8]> {
        let key = self.next;
        self.next += self.step;
        self.keys += 1;
        match self.connection.ask(key).await? {
            Answer { status: 201, replayed: false, body } if body.starts_with(b"{\"order_id\":") => Ok(body),
            wrong => Err(format!("{}: a first request got {wrong:?}", self.server).into()),
        }
    }

    /// Sends a request again: it must get the same bytes.
    async fn replay(&mut self, (key, expected): &Known) -> Result<()> {
        match self.connection.ask(*key).await? {
            Answer { status: 201, replayed: true, body } if body == expected => Ok(()),
            wrong => Err(format!("{}: a replay got {wrong:?}", self.server).into()),
        }
    }
}
