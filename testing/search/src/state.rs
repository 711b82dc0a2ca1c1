//! One state of the model, and when two states are the same.

use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use bytes::Bytes;
use keylatch::machine::{Claim, End, Terms};
use keylatch::store::{Name, Owner, State as RecordState};
use keylatch::{Body, Epoch, Fingerprint, Key, Lease, Outcome, Record, Scope};
use keylatch::{Guarantee, Timestamp};

use crate::config::{Bug, Config};
use crate::ghost::Ghost;

/// Everything there is at one moment.
#[derive(Debug, Clone)]
pub struct State {
    /// The store's clock.
    pub now: Timestamp,
    /// The store.
    pub record: Option<Record>,
    /// The processes. Each makes one attempt at a time.
    pub processes: [Process; 2],
    /// How often each request may still be sent.
    pub sends: [u8; 3],
    /// How many crashes are left.
    pub crashes: u8,
    /// How many losses are left.
    pub losses: u8,
    /// A call whose sender no longer waits for it.
    pub late: Option<Call>,
    /// How many owner tokens were given out.
    pub owners: u8,
    /// What an observer remembers.
    pub ghost: Ghost,
}

/// A process: idle, or working on one attempt.
pub type Process = Option<Attempt>;

/// One attempt of a process at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Which request it is.
    pub request: u8,
    /// Its token, which also names its outcome.
    pub owner: u8,
    /// When it asked for the lease.
    pub since: Timestamp,
    /// How often it may still send its claim.
    pub tries: u8,
    /// The epoch of its lease, once it has one.
    pub epoch: Epoch,
    /// Whether the store says that this is the first attempt at its request.
    pub first: bool,
    /// Whether its handler has had its effect.
    pub effect: bool,
    /// What it does next.
    pub step: Step,
}

/// What a process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Sends its claim.
    Claim,
    /// Has its lease, and starts if it is still fresh.
    Start,
    /// The handler is at work.
    Run,
    /// Writes its outcome.
    Complete,
    /// Releases its key.
    Release(Ending),
    /// Reads the result of the run that took over.
    Read,
    /// Reads whether a claim was granted after all.
    Withdraw,
    /// `Atomic`: reads whether there is something to do.
    TxRead,
    /// `Atomic`: the handler is at work in its transaction.
    TxRun,
    /// `Atomic`: commits the claim and the outcome, with the handler's writes or without them.
    TxCommit(bool),
    /// `Atomic`: reads whether the commit took place.
    TxSettle,
}

/// How an attempt ends without an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It did not happen.
    Free,
    /// It may run again.
    Retry,
    /// Nobody knows.
    Unknown,
}

/// A write in flight to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The claim of this request by this owner.
    Claim(u8, u8),
    /// A renewal.
    Renew(Lease),
    /// A completion, with the outcome that this owner made.
    Complete(Lease, u8),
    /// A release.
    Release(Lease, Ending),
    /// A transaction of this request by this owner, with an effect or without.
    Commit(u8, u8, bool),
    /// An operator's resolution of the run of this lease: whether it took effect.
    Resolve(Lease, bool),
    /// An operator takes the answer of this lease's run away.
    Forget(Lease),
}

/// The owner of outcomes that an operator wrote.
pub const OPERATOR: u8 = 15;

impl State {
    /// The state before anything has happened.
    pub fn new(config: &Config) -> Self {
        Self {
            now: Timestamp::from_millis(0),
            record: None,
            processes: [None, None],
            sends: config.sends,
            crashes: config.crashes,
            losses: config.losses,
            late: None,
            owners: 0,
            ghost: Ghost::default(),
        }
    }

    /// A hash of everything that affects later steps. Two states are the same if they differ only in the past, in the
    /// names of owners, in the order of the processes, or in which of the two same requests it is.
    pub fn fingerprint(&self, config: &Config) -> u128 {
        let mut names = Names::default();
        let mut bytes = Vec::with_capacity(96);
        let [once, again, another] = self.sends;
        bytes.extend([once + again, another, self.crashes, self.losses]);
        self.encode_record(&mut bytes, &mut names);
        let [first, second] = &self.processes;
        let order = if self.rank(first) <= self.rank(second) { [first, second] } else { [second, first] };
        for process in order {
            self.encode_process(process, &mut bytes, &mut names);
        }
        match self.late {
            None => bytes.push(0),
            Some(Call::Claim(request, owner)) => bytes.extend([1, u8::from(is_same(request)), names.of(owner)]),
            Some(Call::Renew(lease)) => bytes.extend([2, names.of(number(lease.owner)), epoch(lease.epoch)]),
            Some(Call::Complete(lease, outcome)) => {
                bytes.extend([3, names.of(number(lease.owner)), epoch(lease.epoch), names.of(outcome)]);
            }
            Some(Call::Release(lease, end)) => {
                bytes.extend([4, names.of(number(lease.owner)), epoch(lease.epoch), end as u8]);
            }
            Some(Call::Commit(request, owner, effect)) => {
                bytes.extend([5, u8::from(is_same(request)), names.of(owner), u8::from(effect)]);
            }
            Some(Call::Resolve(lease, happened)) => {
                bytes.extend([6, names.of(number(lease.owner)), epoch(lease.epoch), u8::from(happened)]);
            }
            Some(Call::Forget(lease)) => bytes.extend([7, names.of(number(lease.owner)), epoch(lease.epoch)]),
        }
        self.ghost.encode(self.now, config, &mut bytes, &mut |owner| names.of(owner));
        hash(&bytes)
    }

    fn encode_record(&self, bytes: &mut Vec<u8>, names: &mut Names) {
        let Some(record) = &self.record else {
            bytes.push(0);
            return;
        };
        let same = u8::from(record.fingerprint == fingerprint_of(0));
        bytes.extend([1, same, epoch(record.epoch), u8::from(record.attempt == 1), names.of(number(record.owner))]);
        bytes.extend([self.left_or_never(record.takeover_at), self.left_or_never(record.free_at)]);
        match &record.state {
            RecordState::Running { lease_ends_at, .. } => bytes.extend([0, self.left(*lease_ends_at), 0]),
            RecordState::Completed { outcome, expires_at } => {
                let outcome = outcome.as_ref().map_or(0, |outcome| names.of(maker(outcome)));
                bytes.extend([1, self.left(*expires_at), outcome]);
            }
        }
    }

    fn encode_process(&self, process: &Process, bytes: &mut Vec<u8>, names: &mut Names) {
        let Some(attempt) = process else {
            bytes.push(0);
            return;
        };
        let granted = u8::from(self.ghost.has_granted(attempt.owner));
        bytes.extend(self.rank(process));
        bytes.extend([names.of(attempt.owner), granted]);
    }

    /// A process without its owner's name.
    fn rank(&self, process: &Process) -> [u8; 8] {
        let Some(attempt) = process else { return [0; 8] };
        let (step, detail) = match attempt.step {
            Step::Claim => (1, 0),
            Step::Start => (2, 0),
            Step::Run => (3, 0),
            Step::Complete => (4, 0),
            Step::Release(end) => (5, end as u8),
            Step::Read => (6, 0),
            Step::Withdraw => (7, 0),
            Step::TxRead => (8, 0),
            Step::TxRun => (9, 0),
            Step::TxCommit(effect) => (10, u8::from(effect)),
            Step::TxSettle => (11, 0),
        };
        let age = millis(attempt.since.until(self.now));
        let flags = u8::from(attempt.first) | u8::from(attempt.effect) << 1;
        [step, detail, u8::from(is_same(attempt.request)), age, attempt.tries, epoch(attempt.epoch), flags, 1]
    }

    /// The time left until then; zero for every past instant.
    fn left(&self, instant: Timestamp) -> u8 {
        millis(self.now.until(instant))
    }

    fn left_or_never(&self, instant: Option<Timestamp>) -> u8 {
        instant.map_or(u8::MAX, |instant| self.left(instant))
    }
}

/// Owners in the order in which they appear.
#[derive(Default)]
struct Names(Vec<u8>);

impl Names {
    fn of(&mut self, owner: u8) -> u8 {
        let at = self.0.iter().position(|known| *known == owner).unwrap_or_else(|| {
            self.0.push(owner);
            self.0.len() - 1
        });
        u8::try_from(at + 1).expect("few owners")
    }
}

/// Two hashes in one: so among millions of states no two collide by chance.
fn hash(bytes: &[u8]) -> u128 {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed);
        hasher.write(bytes);
        hasher.finish()
    };
    u128::from(half(0x6b65_796c)) << 64 | u128::from(half(0x6174_6368))
}

pub(crate) fn millis(span: Duration) -> u8 {
    u8::try_from(span.as_millis()).expect("a search is over within 255 ticks of any instant")
}

fn epoch(epoch: Epoch) -> u8 {
    u8::try_from(epoch.as_u64()).expect("few epochs")
}

// ---- The one key, its requests and its owners ----------------------------------------------------------

/// Which of the two fingerprints a request has.
pub const fn is_same(request: u8) -> bool {
    request < 2
}

pub(crate) fn fingerprint_of(request: u8) -> Fingerprint {
    Fingerprint::from_bytes([u8::from(is_same(request)); 32])
}

pub(crate) fn owner(number: u8) -> Owner {
    Owner::from_bytes([number; 16])
}

/// The number of an owner.
pub fn number(owner: Owner) -> u8 {
    owner.as_bytes()[0]
}

pub(crate) fn outcome_of(owner: u8) -> Outcome {
    Outcome::bytes(Bytes::copy_from_slice(&[owner]))
}

/// Who made an outcome.
pub fn maker(outcome: &Outcome) -> u8 {
    match &outcome.body {
        Body::Kept(body) => body[0],
        Body::NotRetained { .. } => panic!("every outcome of the model is kept"),
    }
}

pub(crate) fn terms(config: &Config) -> Terms {
    let terms = Terms::of(config.guarantee, &config.policy);
    match config.guarantee {
        Guarantee::AtMostOnce if config.has(Bug::TakeoverInAtMostOnce) => {
            Terms { takeover: Some(terms.lease), ..terms }
        }
        _ => terms,
    }
}

pub(crate) fn end(ending: Ending, config: &Config) -> End {
    match ending {
        Ending::Free => End::Free(config.keep()),
        Ending::Retry => End::Retry(config.keep()),
        Ending::Unknown => End::Unknown,
    }
}

thread_local! {
    static NAME: Name = Name::new(Scope::new("caller").expect("a scope"), Key::new("key").expect("a key"));
}

pub(crate) fn claim(request: u8, number: u8, config: &Config) -> Claim {
    NAME.with(|name| Claim {
        name: name.clone(),
        fingerprint: fingerprint_of(request),
        guarantee: config.guarantee,
        owner: owner(number),
        terms: terms(config),
    })
}

/// The lease of an attempt.
pub(crate) fn lease(attempt: &Attempt) -> Lease {
    NAME.with(|name| Lease { id: name.id(), epoch: attempt.epoch, owner: owner(attempt.owner) })
}

/// The lease of a record, without computing its identity again.
pub(crate) fn lease_of(record: &Record) -> Lease {
    NAME.with(|name| Lease { id: name.id(), epoch: record.epoch, owner: record.owner })
}
