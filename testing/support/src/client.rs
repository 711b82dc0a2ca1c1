//! A realistic client: it gives up, loses connections, and tries again with the same key.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use rand::Rng;
use testing_history::{Answer, Log, Reply};

/// The current addresses of the servers, which all clients of a test share. Each request goes to a random one.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<RwLock<Vec<String>>>);

impl Targets {
    /// Sets the current addresses of the servers; none if all are down.
    pub fn set<U: Into<String>>(&self, urls: impl IntoIterator<Item = U>) {
        *self.0.write() = urls.into_iter().map(Into::into).collect();
    }

    fn any(&self) -> Option<String> {
        let urls = self.0.read();
        (!urls.is_empty()).then(|| urls[rand::rng().random_range(0..urls.len())].clone())
    }
}

/// A request under a key.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path.
    pub path: &'static str,
    /// The caller, sent as `X-User-Id`.
    pub scope: String,
    /// The key, sent as `Idempotency-Key`.
    pub key: String,
    /// The body: JSON.
    pub body: Bytes,
    /// How many seconds to wait for a run of the same key, sent as `Prefer: wait=N`.
    pub wait_s: Option<u32>,
}

impl Request {
    /// The same for identical requests, and different for different ones.
    pub fn identity(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self.path, &self.body).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// Sends requests to [`Targets`], and notes each request and each reply in a [`Log`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    targets: Targets,
    log: Log,
    effect: fn(&Answer) -> Option<String>,
}

/// What a client got before it gave up.
#[derive(Debug, thiserror::Error)]
#[error("not the answer that was waited for within {patience:?}, in {tries} tries; the last reply was {last:?}")]
pub struct GaveUp {
    /// How long it tried.
    pub patience: Duration,
    /// How often.
    pub tries: u32,
    /// What it got in the end.
    pub last: Reply,
}

impl Client {
    /// A client that notes everything in `log`, and finds the effect that an answer reports with `effect`.
    pub fn new(targets: Targets, log: Log, effect: fn(&Answer) -> Option<String>) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client needs nothing");
        Self { http, targets, log, effect }
    }

    /// Sends `request` once and waits up to `patience` for the whole answer.
    pub async fn send(&self, request: &Request, patience: Duration) -> Reply {
        self.look(request, patience).await.0
    }

    /// As [`send`](Self::send), but returns the answer as it came.
    pub async fn look(&self, request: &Request, patience: Duration) -> (Reply, Option<Raw>) {
        let call = self.log.invoke(&request.scope, &request.key, &request.identity());
        let raw = self.ask(request, patience).await;
        let reply = raw.as_ref().map_or(Reply::Nothing, |raw| self.meaning(raw));
        call.reply(reply.clone());
        (reply, raw)
    }

    /// Sends `request` with `patience` until the answer is final, for at most `in_all`.
    ///
    /// # Errors
    ///
    /// If there is no final answer by then.
    pub async fn insist(&self, request: &Request, patience: Duration, in_all: Duration) -> Result<Answer, GaveUp> {
        match self.until(request, patience, in_all, |reply| matches!(reply, Reply::Final(_))).await? {
            Reply::Final(answer) => Ok(answer),
            _ => unreachable!("only a final answer is accepted"),
        }
    }

    /// Sends `request` with `patience` until a reply is accepted, for at most `in_all`. The patience doubles after every ten
    /// tries, so that a client that hangs up early comes to its end on a busy machine, too.
    ///
    /// If `Retry-After` asks for a second, it pauses for milliseconds: this tests impatient clients.
    ///
    /// # Errors
    ///
    /// If there is no such reply by then.
    pub async fn until(
        &self,
        request: &Request,
        patience: Duration,
        in_all: Duration,
        accept: impl Fn(&Reply) -> bool,
    ) -> Result<Reply, GaveUp> {
        const PAUSE_MS: std::ops::Range<u64> = 2..30;
        const TRIES_OF_ONE_PATIENCE: u32 = 10;
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let patience = patience.saturating_mul(2_u32.saturating_pow(tries / TRIES_OF_ONE_PATIENCE)).min(in_all);
            tries += 1;
            match self.send(request, patience).await {
                reply if accept(&reply) => return Ok(reply),
                last if started.elapsed() > in_all => return Err(GaveUp { patience: in_all, tries, last }),
                _ => {}
            }
            let pause = rand::rng().random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Reads `path`.
    ///
    /// # Errors
    ///
    /// If there is no complete answer within `patience`.
    pub async fn get(&self, path: &str, patience: Duration) -> reqwest::Result<Raw> {
        let url = self.targets.any().unwrap_or_default() + path;
        Raw::read(self.http.get(url).timeout(patience).send().await?).await
    }

    /// Sends `body` without a key, and does not log it.
    ///
    /// # Errors
    ///
    /// If there is no complete answer within `patience`.
    pub async fn post(&self, path: &str, body: &serde_json::Value, patience: Duration) -> reqwest::Result<Raw> {
        let url = self.targets.any().unwrap_or_default() + path;
        Raw::read(self.http.post(url).timeout(patience).json(body).send().await?).await
    }

    async fn ask(&self, request: &Request, patience: Duration) -> Option<Raw> {
        let mut asked = self
            .http
            .post(self.targets.any()? + request.path)
            .timeout(patience)
            .header("content-type", "application/json")
            .header("x-user-id", &request.scope)
            .header("idempotency-key", &request.key)
            .body(request.body.clone());
        if let Some(seconds) = request.wait_s {
            asked = asked.header("prefer", format!("wait={seconds}"));
        }
        Raw::read(asked.send().await.ok()?).await.ok()
    }

    fn meaning(&self, raw: &Raw) -> Reply {
        let status = raw.status;
        if let Some(code) = raw.code_of_ours() {
            return Reply::Refused { status, code };
        }
        if status >= 500 || [408, 425, 429].contains(&status) {
            return Reply::Failed { status };
        }
        let mut answer = Answer {
            status,
            headers: raw.kept(),
            body: raw.body.to_vec(),
            replayed: raw.headers.contains_key("idempotent-replayed"),
            effect: None,
        };
        answer.effect = (self.effect)(&answer);
        Reply::Final(answer)
    }
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The status.
    pub status: u16,
    /// All headers.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Raw {
    async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await? })
    }

    /// The headers that a record keeps, in order.
    fn kept(&self) -> Vec<(String, String)> {
        const KEPT: [&str; 8] = [
            "content-type",
            "content-language",
            "content-encoding",
            "location",
            "etag",
            "last-modified",
            "link",
            "retry-after",
        ];
        let kept = self.headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
        kept.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
    }

    /// The code of the problem, if the answer is one of Keylatch's own.
    fn code_of_ours(&self) -> Option<String> {
        if self.headers.get("content-type")? != "application/problem+json" {
            return None;
        }
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        let code = problem.get("code")?.as_str()?;
        (code.starts_with("IDEMPOTENCY_") || code == "REQUEST_TOO_LARGE").then(|| code.to_owned())
    }
}
