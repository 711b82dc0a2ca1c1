//! The cases: each sends a request in a way in which clients do, and says what a service must do then.

mod broken;
mod keys;
mod repeat;

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use keylatch_core::Key;
use serde_json::Value;

use crate::args::Probe;
use crate::effects::Effects;
use crate::report::{Finding, Report, Verdict};
use crate::target::{Answer, NoAnswer, Shot, Target};

/// A case.
#[derive(Debug)]
pub struct Case {
    /// Its name, for `--only`.
    pub name: &'static str,
    /// What it finds out.
    pub why: &'static str,
    /// Where it is required.
    pub required: &'static [By],
    /// About how many requests it sends, of which so many at once.
    pub(crate) requests: fn(usize) -> usize,
    /// How many of them take effect, if the service keeps its promise.
    pub(crate) effects: usize,
    run: for<'b> fn(&'b Bench) -> BoxFuture<'b, Result<Verdict, Trouble>>,
}

/// Who requires what a case checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// draft-ietf-httpapi-idempotency-key-header.
    Draft,
    /// Stripe's API, and others that follow it.
    Stripe,
    /// Keylatch's contract.
    Keylatch,
}

impl By {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "IETF draft",
            Self::Stripe => "Stripe",
            Self::Keylatch => "Keylatch",
        }
    }
}

const ALL: &[By] = &[By::Draft, By::Stripe, By::Keylatch];

/// All cases, in the order in which they run. Without the first, nothing else can be told.
pub const CASES: &[Case] = &[
    Case {
        name: "first",
        why: "a new request takes effect",
        required: ALL,
        requests: |_| 2,
        effects: 2,
        run: |bench| Box::pin(repeat::first(bench)),
    },
    Case {
        name: "replay",
        why: "the same request again has no further effect, and gets the same answer byte for byte",
        required: ALL,
        requests: |_| 3,
        effects: 1,
        run: |bench| Box::pin(repeat::replay(bench)),
    },
    Case {
        name: "at-once",
        why: "many of the same request at once are one effect",
        required: ALL,
        requests: |at_once| repeat::CROWDS * (at_once + 20),
        effects: repeat::CROWDS,
        run: |bench| Box::pin(repeat::at_once(bench)),
    },
    Case {
        name: "other-body",
        why: "a key that was used for another body is refused: it neither runs nor gives the other's answer",
        required: ALL,
        requests: |_| 3,
        effects: 1,
        run: |bench| Box::pin(repeat::other_body(bench)),
    },
    Case {
        name: "two-callers",
        why: "two callers with the same key never see each other's answers",
        required: &[By::Stripe, By::Keylatch],
        requests: |_| 2,
        effects: 2,
        run: |bench| Box::pin(repeat::two_callers(bench)),
    },
    Case {
        name: "after-error",
        why: "a broken request is refused in the same way each time, and does not wedge its key",
        required: ALL,
        requests: |_| 4,
        effects: 1,
        run: |bench| Box::pin(repeat::after_error(bench)),
    },
    Case {
        name: "replay-headers",
        why: "a replay has the headers that describe its body, and no cookie",
        required: &[By::Keylatch],
        requests: |_| 2,
        effects: 1,
        run: |bench| Box::pin(repeat::replay_headers(bench)),
    },
    Case {
        name: "replay-marked",
        why: "a replay says so by a header (Idempotent-Replayed: true), and a first answer does not",
        required: &[By::Stripe, By::Keylatch],
        requests: |_| 2,
        effects: 1,
        run: |bench| Box::pin(repeat::replay_marked(bench)),
    },
    Case {
        name: "http2",
        why: "a request by HTTP/1.1 and again by HTTP/2 is the same request",
        required: ALL,
        requests: |_| 2,
        effects: 1,
        run: |bench| Box::pin(repeat::http2(bench)),
    },
    Case {
        name: "no-key",
        why: "requests without a key are refused, or take effect each; they never share an answer",
        required: ALL,
        requests: |_| 2,
        effects: 0,
        run: |bench| Box::pin(keys::no_key(bench)),
    },
    Case {
        name: "empty-key",
        why: "an empty key is refused: it is a client's mistake, and no key",
        required: &[By::Draft, By::Keylatch],
        requests: |_| 2,
        effects: 0,
        run: |bench| Box::pin(keys::empty_key(bench)),
    },
    Case {
        name: "long-key",
        why: "an overlong key is refused or kept whole; it is never cut",
        required: ALL,
        requests: |_| 3,
        effects: 0,
        run: |bench| Box::pin(keys::long_key(bench)),
    },
    Case {
        name: "odd-key",
        why: "keys with punctuation, spaces or bytes outside ASCII are refused, or work like others",
        required: ALL,
        requests: |_| 6,
        effects: 1,
        run: |bench| Box::pin(keys::odd_key(bench)),
    },
    Case {
        name: "key-case",
        why: "keys that differ only in upper and lower case are two keys",
        required: ALL,
        requests: |_| 2,
        effects: 2,
        run: |bench| Box::pin(keys::key_case(bench)),
    },
    Case {
        name: "hang-up",
        why: "a client that hangs up after its request, at several moments, gets the answer when it comes back",
        required: ALL,
        requests: |_| 25,
        effects: 5,
        run: |bench| Box::pin(broken::hang_up(bench)),
    },
    Case {
        name: "half-body",
        why: "half a request has no effect and does not take the key",
        required: ALL,
        requests: |_| 5,
        effects: 1,
        run: |bench| Box::pin(broken::half_body(bench)),
    },
    Case {
        name: "slow-body",
        why: "a body that comes slowly is one request",
        required: ALL,
        requests: |_| 5,
        effects: 1,
        run: |bench| Box::pin(broken::slow_body(bench)),
    },
    Case {
        name: "restart",
        why: "a crash in the middle of a request neither doubles it nor wedges its key",
        required: ALL,
        requests: |_| 50,
        effects: 5,
        run: |bench| Box::pin(broken::restart(bench)),
    },
];

impl Case {
    pub(crate) fn is_asked_for(&self, probe: &Probe) -> bool {
        self.name == "first" || probe.only.is_empty() || probe.only.iter().any(|name| name == self.name)
    }
}

/// Why nothing can be told.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("{0}")]
    Other(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// What the cases share.
pub(crate) struct Bench {
    target: Target,
    effects: Option<Effects>,
    probe: Probe,
    /// Whether the answers to two requests that take effect differ from each other.
    answers_differ: std::sync::atomic::AtomicBool,
}

/// An answer to a request that was repeated until there was a final one.
struct Final {
    answer: Answer,
    /// Whether it is one. Otherwise the service still says that the request is running or must be tried again.
    is_final: bool,
}

impl Bench {
    pub(crate) fn new(probe: Probe) -> Result<Self, String> {
        let effects = probe.effects.clone().map(|(method, path)| Effects::new(method, path, probe.count.clone()));
        let target = Target::new(&probe)?;
        Ok(Self { target, effects, probe, answers_differ: false.into() })
    }

    /// Runs the cases. It fails if the first does not pass.
    pub(crate) async fn run(&self, shows_progress: bool) -> Result<Report, String> {
        let started = Instant::now();
        let cases: Vec<_> = CASES.iter().filter(|case| case.is_asked_for(&self.probe)).collect();
        let mut findings = Vec::new();
        for (nth, case) in cases.iter().enumerate() {
            if shows_progress {
                eprint!("\r\x1b[K{}/{} {}", nth + 1, cases.len(), case.name);
                let _ = std::io::stderr().flush();
            }
            let verdict = match (case.run)(self).await {
                Ok(verdict) => verdict,
                Err(trouble) => Verdict::CannotTell(trouble.to_string()),
            };
            if case.name == "first" && !matches!(verdict, Verdict::Pass(_)) {
                return Err(format!("the request itself does not take effect, so nothing can be told: {verdict}"));
            }
            findings.push(Finding { case, verdict });
        }
        if shows_progress {
            eprint!("\r\x1b[K");
        }
        Ok(Report {
            request: format!("{} {}", self.probe.method, self.probe.url),
            counted: self.effects.is_some(),
            findings,
            requests: self.target.sent(),
            took: started.elapsed(),
        })
    }

    /// The request under a new key.
    fn fresh(&self) -> Shot {
        self.with_key(Key::random().as_str().as_bytes())
    }

    /// The request under this key.
    fn with_key(&self, key: &[u8]) -> Shot {
        let key = if self.probe.quote_keys {
            let text: Vec<u8> = key
                .iter()
                .flat_map(|byte| match byte {
                    b'"' | b'\\' => vec![b'\\', *byte],
                    byte => vec![*byte],
                })
                .collect();
            [b"\"", text.as_slice(), b"\""].concat()
        } else {
            key.to_vec()
        };
        Shot { key: Some(key.into()), body: self.probe.body.clone(), header: None }
    }

    async fn send(&self, shot: &Shot) -> Result<Answer, Trouble> {
        Ok(self.target.send(shot).await?)
    }

    /// Sends the request until there is a final answer, or patience is over.
    async fn settle(&self, shot: &Shot) -> Result<Final, Trouble> {
        let (until, mut pause) = (Instant::now() + self.probe.patience, Duration::from_millis(50));
        loop {
            let answer = self.send(shot).await?;
            if !may_be_retried(&answer) {
                return Ok(Final { answer, is_final: true });
            }
            if Instant::now() + pause >= until {
                return Ok(Final { answer, is_final: false });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// The number of effects; `None` if they cannot be counted.
    async fn count(&self) -> Result<Option<i64>, Trouble> {
        match &self.effects {
            Some(effects) => Ok(Some(effects.settled(&self.target).await?)),
            None => Ok(None),
        }
    }

    /// How many effects there were since then.
    async fn since(&self, before: Option<i64>) -> Result<Option<i64>, Trouble> {
        Ok(self.count().await?.zip(before).map(|(now, before)| now - before))
    }

    fn answers_differ(&self) -> bool {
        self.answers_differ.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether `second` is the answer of `first`, given again. `None` if that cannot be told, because all answers are alike.
    fn is_replay(&self, first: &Answer, second: &Answer) -> Option<bool> {
        if is_marked(second) {
            return Some(true);
        }
        if first.body() != second.body() || first.status() != second.status() {
            return Some(false);
        }
        self.answers_differ().then_some(true)
    }

    /// A failure, with the lines that show it.
    fn fail(&self, found: impl Into<String>, shots: &[&Shot]) -> Verdict {
        Verdict::Fail { found: found.into(), curl: shots.iter().map(|shot| self.target.curl(shot)).collect() }
    }

    /// The note of a case that passed, if effects were not counted.
    fn passed(&self) -> Verdict {
        let note = if self.effects.is_some() { "" } else { "judged by the answers alone" };
        Verdict::Pass(note.to_owned())
    }
}

/// Whether the service says that the answer is not final.
fn may_be_retried(answer: &Answer) -> bool {
    match answer.status().as_u16() {
        423 | 425 | 429 | 502 | 503 | 504 => true,
        409 => !matches!(
            code(answer).as_deref(),
            Some("IDEMPOTENCY_OUTCOME_UNKNOWN" | "IDEMPOTENCY_RESPONSE_NOT_RETAINED")
        ),
        _ => false,
    }
}

/// Whether the service says that it does not know what became of the request.
fn is_unknown(answer: &Answer) -> bool {
    code(answer).as_deref() == Some("IDEMPOTENCY_OUTCOME_UNKNOWN")
}

/// The code of a problem, in Keylatch's words.
fn code(answer: &Answer) -> Option<String> {
    let json: Value = serde_json::from_slice(answer.body()).ok()?;
    Some(json.get("code")?.as_str()?.to_owned())
}

/// Whether an answer says that it is a replay: as Stripe does, or in the other spelling that is in use.
fn is_marked(answer: &Answer) -> bool {
    let says_so = |name| answer.headers().get(name).is_some_and(|value| value == "true");
    says_so("idempotent-replayed") || says_so("idempotency-replayed")
}

fn succeeds(answer: &Answer) -> bool {
    answer.status().as_u16() < 400
}

fn is_refused(answer: &Answer) -> bool {
    answer.status().is_client_error()
}

fn status(answer: &Answer) -> StatusCode {
    answer.status()
}

/// How two answers differ; `None` if they agree.
fn difference(first: &Answer, second: &Answer) -> Option<String> {
    if first.status() != second.status() {
        return Some(format!("status {} and then {}", first.status(), second.status()));
    }
    (first.body() != second.body())
        .then(|| format!("bodies of {} and {} bytes that differ", first.body().len(), second.body().len()))
}

/// The body of another request: the first number of the JSON plus one, or else the first text with a letter more.
fn another(body: &Bytes) -> Option<Bytes> {
    let mut json: Value = serde_json::from_slice(body).ok()?;
    (change(&mut json, &number) || change(&mut json, &text)).then(|| json.to_string().into())
}

fn change(json: &mut Value, one: &dyn Fn(&mut Value) -> bool) -> bool {
    match json {
        Value::Object(members) => members.values_mut().any(|value| change(value, one)),
        Value::Array(items) => items.iter_mut().any(|value| change(value, one)),
        value => one(value),
    }
}

fn number(value: &mut Value) -> bool {
    match value.as_i64() {
        Some(number) => {
            *value = number.wrapping_add(1).into();
            true
        }
        None => false,
    }
}

fn text(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            text.push('x');
            true
        }
        _ => false,
    }
}
