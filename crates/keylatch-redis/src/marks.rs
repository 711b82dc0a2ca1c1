//! The indexes beside the records: which of them run, which answers are to be removed, and how many records a scope
//! has.
//!
//! They decide nothing. They are written with the records, for many calls at once, so that operators can find records;
//! the record itself shows which entries are outdated, and these are removed.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Pipeline, RedisError, Value, cmd};
use tokio::sync::Notify;

use super::keys::{BUCKETS, Keys};
use super::script;
use keylatch_core::{RecordId, Timestamp};

/// The changes of a call beside its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// The record.
    pub(super) id: RecordId,
    /// It may begin a run.
    pub(super) runs: bool,
    /// It may end a run, and others may begin a new one at once.
    pub(super) frees: bool,
    /// It needs the server's time.
    pub(super) tells_time: bool,
    /// When the answer is to be removed.
    pub(super) due: Option<Timestamp>,
    /// The record counts for its scope.
    pub(super) counts: Option<Counts>,
}

/// How long a record counts for its scope.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    /// Until then, in milliseconds.
    pub(super) until: i64,
    /// How long that is from now; 0 if it never ends.
    pub(super) keep_ms: i64,
}

impl Marks {
    /// None, of the record of `id`.
    pub(super) const fn of(id: RecordId) -> Self {
        Self { id, runs: false, frees: false, tells_time: false, due: None, counts: None }
    }

    /// None, of no record.
    pub(super) const NONE: Self = Self::of(RecordId::from_bytes([0; 32]));
}

/// The commands before and after some calls.
pub(super) struct Beside {
    pub(super) before: Vec<Cmd>,
    pub(super) behind: Vec<Cmd>,
    /// The index of the time request among the commands before.
    pub(super) time_at: Option<usize>,
    /// The index of the command that notes running records: it goes before the claims, so that every run is noted.
    pub(super) running_at: Option<usize>,
}

impl Beside {
    pub(super) const NONE: Self = Self { before: Vec::new(), behind: Vec::new(), time_at: None, running_at: None };

    /// For calls with these marks, whose indexes are in `bucket`; and for runs that have ended.
    pub(super) fn of(marks: &[Marks], bucket: usize, keys: &Keys, ended: &[RecordId]) -> Self {
        let mut beside = Self::NONE;
        if marks.iter().any(|marks| marks.tells_time || marks.runs) {
            beside.time_at = Some(beside.before.len());
            beside.before.push(cmd("TIME"));
        }
        let running = marks.iter().filter(|marks| marks.runs).map(|marks| marks.id);
        if let Some(add) = with_members("SADD", keys.running(bucket), running) {
            beside.running_at = Some(beside.before.len());
            beside.before.push(add);
        }
        beside.before.extend(with_members("SREM", keys.running(bucket), ended.iter().copied()));
        let mut due = marks.iter().filter_map(|marks| Some((marks.id, marks.due?))).peekable();
        if due.peek().is_some() {
            let mut add = cmd("ZADD");
            add.arg(keys.due(bucket));
            for (id, at) in due {
                add.arg(at.as_millis()).arg(id.as_bytes());
            }
            beside.before.push(add);
        }
        count(marks, bucket, keys, &mut beside.before);
        for Marks { id, .. } in marks.iter().filter(|marks| marks.frees) {
            let tidy =
                script::TIDY.command_in_full(&[&keys.record(*id), keys.running(bucket)], &[id.as_bytes().into()]);
            beside.behind.push(tidy);
        }
        beside
    }

    /// How many commands these are.
    pub(super) fn len(&self) -> usize {
        self.before.len() + self.behind.len()
    }

    /// These, with `calls` in between.
    pub(super) fn around(&self, calls: impl IntoIterator<Item = Cmd>, pipeline: &mut Pipeline) {
        let (before, behind) = (self.before.iter().cloned(), self.behind.iter().cloned());
        for command in before.chain(calls).chain(behind) {
            pipeline.add_command(command);
        }
    }
}

/// What the replies to the commands before the calls say.
pub(super) struct Said {
    replies: usize,
    seen: usize,
    time_at: Option<usize>,
    running_at: Option<usize>,
    /// The server's time, if it was requested.
    pub(super) now: Option<Timestamp>,
    /// Whether the runs were noted, if there may be any.
    pub(super) marked: Result<(), RedisError>,
}

impl Said {
    /// Nothing so far, of the commands before the calls of `beside`.
    pub(super) fn of(beside: &Beside) -> Self {
        let Beside { before, time_at, running_at, .. } = beside;
        let (replies, time_at, running_at) = (before.len(), *time_at, *running_at);
        Self { replies, seen: 0, time_at, running_at, now: None, marked: Ok(()) }
    }

    /// Whether all replies have come.
    pub(super) fn is_complete(&self) -> bool {
        self.seen == self.replies
    }

    /// Takes the next reply.
    pub(super) fn take(&mut self, value: Value) {
        if self.time_at == Some(self.seen) {
            self.now = time_of(&value);
        } else if self.running_at == Some(self.seen) {
            self.marked = value.extract_error().map(drop);
        }
        self.seen += 1;
    }
}

/// The reply of `TIME`.
pub(super) fn time_of(value: &Value) -> Option<Timestamp> {
    let Value::Array(both) = value else { return None };
    let part = |at: usize| match both.get(at)? {
        Value::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
        Value::Int(number) => Some(*number),
        _ => None,
    };
    Some(Timestamp::from_millis(part(0)?.checked_mul(1_000)?.checked_add(part(1)? / 1_000)?))
}

fn with_members(name: &str, key: &[u8], ids: impl Iterator<Item = RecordId>) -> Option<Cmd> {
    let mut ids = ids.peekable();
    ids.peek()?;
    let mut command = cmd(name);
    command.arg(key);
    for id in ids {
        command.arg(id.as_bytes());
    }
    Some(command)
}

/// Adds the records that count, scope by scope. A scope's set ends with the last of its records.
fn count(marks: &[Marks], bucket: usize, keys: &Keys, commands: &mut Vec<Cmd>) {
    let mut scopes = BTreeMap::<_, Vec<_>>::new();
    for Marks { id, runs, counts, .. } in marks {
        if let Some(counts) = counts {
            scopes.entry((id.scope_digest(), *runs)).or_default().push((*id, *counts));
        }
    }
    for ((scope, are_claims), counted) in scopes {
        let key = keys.scope(bucket, scope);
        let mut add = cmd("ZADD");
        add.arg(&key);
        if are_claims {
            // Existing entries stay as they are, because the claim may be held.
            add.arg("NX");
        }
        for (id, counts) in &counted {
            add.arg(counts.until).arg(&id.as_bytes()[16..]);
        }
        commands.push(add);
        let keep_ms = counted.iter().map(|(_, counts)| counts.keep_ms).max().unwrap_or(0);
        if keep_ms > 0 {
            for longer in ["NX", "GT"] {
                commands.push(cmd("PEXPIRE").arg(&key).arg(keep_ms).arg(longer).to_owned());
            }
        }
    }
}

/// Ended runs that are still in the set of running records. They are removed with later calls, because the reply to the
/// end of a run must arrive first: if an end were lost together with the removal, operators could not find the run.
#[derive(Debug)]
pub(super) struct Ended {
    buckets: [Mutex<VecDeque<(RecordId, Instant)>>; BUCKETS],
    /// Notified when there is one.
    some: Notify,
}

/// How many of one bucket wait for removal at most. A sweep finds the others.
const ENDED_MAX: usize = 4_096;
/// How long they may wait. Later, the key may be another run's.
const ENDED_AGE_MAX: Duration = Duration::from_secs(5);
/// How long they wait for other calls before they are sent alone.
const IDLE: Duration = Duration::from_secs(1);
/// How long a key must not be claimable for its run to be removed in this way: far longer than the wait.
pub(super) const ENDED_KEEP_MS_MIN: i64 = 60_000;

impl Default for Ended {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Mutex::default()), some: Notify::new() }
    }
}

impl Ended {
    pub(super) fn push(&self, bucket: usize, id: RecordId) {
        let mut ended = self.buckets[bucket].lock();
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        let is_first = ended.is_empty();
        ended.push_back((id, Instant::now()));
        drop(ended);
        if is_first {
            self.some.notify_one();
        }
    }

    /// Waits until some have waited for a while.
    pub(super) async fn have_waited(&self, bucket: usize) {
        while self.buckets[bucket].lock().is_empty() {
            self.some.notified().await;
        }
        tokio::time::sleep(IDLE).await;
    }

    /// Those that may still be removed.
    pub(super) fn take(&self, bucket: usize) -> Vec<RecordId> {
        let ended = std::mem::take(&mut *self.buckets[bucket].lock());
        let now = Instant::now();
        ended.into_iter().filter(|(_, since)| now.duration_since(*since) < ENDED_AGE_MAX).map(|(id, _)| id).collect()
    }
}
