//! Clients that send requests as an engine does, and write down what they see.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keylatch::cassandra::Store;
use keylatch::machine::{self, Claim, Claimed, Completion, Decision};
use keylatch::store::{Applied, ErrorKind, Owner, Store as _};
use keylatch::{Guarantee, Outcome, Policy};
use parking_lot::Mutex;
use testing_history::{Answer, Call, Log, Reply, Summary, What, judge, monotonic_ns};
use testing_support::{eventually, records};
use tokio::task::JoinSet;

use crate::{SOON, claim};

/// How many clients of a load there are, on each store.
pub(crate) const CLIENTS: u64 = 12;
/// How many of them want the same key at about the same time.
const SHARE: u64 = 4;
/// In `Fenced`, one of so many runs never ends, as if its process had died.
const ABANDONED: u64 = 4;

/// The clients of one test, on all of its stores. In `AtMostOnce` each run has its own effect; in `Fenced` what has the
/// effect honours the key, and some runs never end.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    guarantee: Guarantee,
    policy: Policy,
    log: Log,
    stop: AtomicBool,
    /// The next request. Consecutive ones are of one key, whichever stores they are sent to, as behind one balancer.
    next: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    runs: AtomicU64,
    takeovers: AtomicU64,
    early: AtomicU64,
    effects: Mutex<HashSet<String>>,
    /// The latest run of each key, and when it was asked for.
    latest: Mutex<HashMap<String, (u64, Instant)>>,
}

impl Load {
    pub(crate) fn new(guarantee: Guarantee, policy: Policy) -> Self {
        let shared = Shared {
            guarantee,
            policy,
            log: Log::default(),
            stop: AtomicBool::default(),
            next: AtomicU64::default(),
            finished: AtomicU64::default(),
            failed: AtomicU64::default(),
            runs: AtomicU64::default(),
            takeovers: AtomicU64::default(),
            early: AtomicU64::default(),
            effects: Mutex::default(),
            latest: Mutex::default(),
        };
        Self { shared: Arc::new(shared), clients: JoinSet::new() }
    }

    /// Starts clients on each of these stores.
    pub(crate) fn start(&mut self, stores: &[Store]) {
        for store in stores {
            for _ in 0..CLIENTS {
                let (shared, store) = (self.shared.clone(), store.clone());
                self.clients.spawn(async move {
                    while !shared.stop.load(Ordering::Relaxed) {
                        let number = shared.next.fetch_add(1, Ordering::Relaxed) / SHARE;
                        shared.send(&store, &format!("key-{number}")).await;
                    }
                });
            }
        }
    }

    /// How many requests have their final answers.
    pub(crate) fn finished(&self) -> u64 {
        self.shared.finished.load(Ordering::Relaxed)
    }

    /// How many calls of a store have failed.
    pub(crate) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// How many runs were taken over.
    pub(crate) fn takeovers(&self) -> u64 {
        self.shared.takeovers.load(Ordering::Relaxed)
    }

    /// How many of them were taken over before half of their lease was over.
    pub(crate) fn early(&self) -> u64 {
        self.shared.early.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have their final answers.
    pub(crate) async fn goes_on(&self, requests: u64, what: &str) {
        let before = self.finished();
        eventually(SOON, what, async || self.finished() >= before + requests).await;
    }

    /// Stops the clients, and judges.
    pub(crate) async fn end(self, store: &Store) -> Summary {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (finished, failed, takeovers, early) = (self.finished(), self.failed(), self.takeovers(), self.early());
        self.clients.join_all().await;
        let mut history = self.shared.log.events();
        history.extend(records::events(store).await);
        let guarantee = match self.shared.guarantee {
            Guarantee::AtMostOnce => testing_history::Guarantee::AtMostOnce,
            _ => testing_history::Guarantee::Fenced,
        };
        let summary = judge(&history, guarantee);
        eprintln!("{finished} finished, {failed} failed, {takeovers} taken over, {early} early: {summary}");
        summary
    }
}

impl Shared {
    async fn send(&self, store: &Store, key: &str) {
        let mut claim = claim(key, self.guarantee, &self.policy);
        // A client tries again after an error; now and then the reply of its own claim was lost.
        for _ in 0..40 {
            let call = self.log.invoke("caller", key, "request");
            if self.attempt(store, &claim, call).await {
                return;
            }
            claim.owner = if self.stop.load(Ordering::Relaxed) { return } else { Owner::random() };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether the request has its final answer, or never will.
    async fn attempt(&self, store: &Store, claim: &Claim, call: Call) -> bool {
        let key = claim.key().as_str();
        let (asked_at, asked) = (monotonic_ns(), Instant::now());
        let record = match store.claim(claim.clone()).await {
            Err(error) => {
                self.fails(error.kind());
                call.reply(Reply::Refused { status: 503, code: "IDEMPOTENCY_STORE_UNAVAILABLE".to_owned() });
                return false;
            }
            Ok(at) => match at.value {
                Claimed::Won(record) => record,
                Claimed::Held(record) => {
                    let reply = match machine::decide(Some(&record), claim.fingerprint, at.now) {
                        Decision::Replay(outcome) => Reply::Final(answer(outcome, true)),
                        Decision::Unknown => refused("IDEMPOTENCY_OUTCOME_UNKNOWN"),
                        _ => refused("IDEMPOTENCY_KEY_IN_PROGRESS"),
                    };
                    let ends = matches!(reply, Reply::Final(_)) || reply.is_unknown();
                    call.reply(reply);
                    self.finished.fetch_add(u64::from(ends), Ordering::Relaxed);
                    return ends;
                }
            },
        };
        let epoch = record.epoch.as_u64();
        self.won(key, epoch, asked);
        let note = |what| self.log.note("caller", key, what);
        note(What::Claim { epoch, asked_at });
        note(What::Start { epoch: Some(epoch) });
        let effect = self.effect(key, epoch);
        if self.guarantee == Guarantee::Fenced && self.runs.fetch_add(1, Ordering::Relaxed).is_multiple_of(ABANDONED) {
            call.reply(Reply::Nothing);
            return false;
        }
        let outcome = Arc::new(Outcome::bytes(effect));
        let completion = Completion::new(outcome.clone(), &self.policy);
        for _ in 0..40 {
            match store.complete(record.lease(), completion.clone()).await {
                Ok(applied) => {
                    let applied = matches!(applied, Applied::Applied(_));
                    note(What::Complete { epoch, applied });
                    call.reply(if applied { Reply::Final(answer(&outcome, false)) } else { Reply::Nothing });
                    self.finished.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(error) => self.fails(error.kind()),
            }
        }
        call.reply(Reply::Nothing);
        true
    }

    /// Counts a takeover.
    fn won(&self, key: &str, epoch: u64, asked: Instant) {
        let mut latest = self.latest.lock();
        let before = latest.get(key).copied();
        if before.is_none_or(|(known, _)| known < epoch) {
            latest.insert(key.to_owned(), (epoch, asked));
        }
        // If the reply of the run before was lost, it is not known when that began.
        if let Some((_, before)) = before.filter(|(known, _)| known + 1 == epoch) {
            self.takeovers.fetch_add(1, Ordering::Relaxed);
            self.early.fetch_add(u64::from(before.elapsed() < self.policy.lease / 2), Ordering::Relaxed);
        }
    }

    /// What a run does.
    fn effect(&self, key: &str, epoch: u64) -> String {
        let honoured = self.guarantee == Guarantee::Fenced;
        let effect = if honoured { key.to_owned() } else { format!("{key}-{}", monotonic_ns()) };
        // Noted before anyone else can have it from here.
        let mut effects = self.effects.lock();
        if effects.insert(effect.clone()) {
            self.log.note("caller", key, What::Effect { effect: effect.clone(), epoch: Some(epoch) });
        }
        effect
    }

    fn fails(&self, kind: ErrorKind) {
        assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::NotKnown), "{kind}");
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

fn refused(code: &str) -> Reply {
    Reply::Refused { status: 409, code: code.to_owned() }
}

fn answer(outcome: &Outcome, replayed: bool) -> Answer {
    let body = outcome.encode();
    let text = |from: &[u8]| String::from_utf8_lossy(from).into_owned();
    let effect = match &outcome.body {
        keylatch::Body::Kept(bytes) => Some(text(bytes)),
        _ => None,
    };
    Answer { status: 200, headers: Vec::new(), body, replayed, effect }
}
