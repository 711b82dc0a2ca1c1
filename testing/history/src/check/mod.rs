//! Reads a history and names every invariant that it breaks.

mod invariants;
mod story;

use std::collections::BTreeMap;
use std::fmt;

use crate::{Event, Guarantee, Reply, What};
use story::Story;

/// An invariant of docs/ARCHITECTURE.md that a history can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// At most one committed effect, and none without a request; in `AtMostOnce`, at most one start.
    I1,
    /// All final answers agree.
    I2,
    /// The outcome is durable before the answer is sent.
    I3,
    /// A client that has a final answer gets it again, and nothing runs again.
    I4,
    /// A late owner's write changes nothing.
    I5,
    /// A handler starts only after its claim is durable.
    I6,
    /// Another request with the key never gets the answer.
    I7,
}

/// A broken invariant, and the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// How.
    pub why: &'static str,
    /// The events that prove it, in the order of time.
    pub events: Vec<Event>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.invariant, self.why)?;
        for Event { at, scope, key, what, region } in &self.events {
            let (seconds, nanoseconds) = (at / 1_000_000_000, at % 1_000_000_000);
            write!(f, "\n    {seconds}.{nanoseconds:09} {scope}/{key}: {what:?}")?;
            if let Some(region) = region {
                write!(f, " in {region}")?;
            }
        }
        Ok(())
    }
}

/// Counts of a history's events: the proof that something happened at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pairs of scope and key.
    pub keys: usize,
    /// Pairs for which a client has a final answer.
    pub answered_keys: usize,
    /// Requests that clients sent.
    pub calls: usize,
    /// Final answers of first runs.
    pub first_answers: usize,
    /// Final answers that were replayed.
    pub replays: usize,
    /// Keylatch's own replies: in progress, unavailable and so on.
    pub refused: usize,
    /// Replies with a 5xx of the handler or the server.
    pub failed: usize,
    /// Requests whose client never learned how they ended.
    pub lost: usize,
    /// Claims.
    pub claims: usize,
    /// Starts of handlers.
    pub starts: usize,
    /// Effects.
    pub effects: usize,
}

/// Checks `history` as [`check`] does, in a test that breaks something.
///
/// # Panics
///
/// If it breaks an invariant. The first violations are printed.
pub fn judge(history: &[Event], guarantee: Guarantee) -> Summary {
    check(history, guarantee).unwrap_or_else(|violations| {
        const SHOWN_MAX: usize = 5;
        violations.iter().take(SHOWN_MAX).for_each(|violation| eprintln!("{violation}"));
        panic!("{} violations", violations.len());
    })
}

/// Checks `history` against the invariants under `guarantee`, and counts what is in it.
///
/// Retention must be longer than the history: a key that is used again after its record has been removed would look
/// like a second effect.
///
/// # Errors
///
/// All violations, at least one.
///
/// # Panics
///
/// If the history itself is damaged: a reply without its request, or two requests with one number.
pub fn check(history: &[Event], guarantee: Guarantee) -> Result<Summary, Vec<Violation>> {
    let mut violations = Vec::new();
    let mut summary = Summary::default();
    for events in by_key(history).into_values() {
        let story = Story::read(&events);
        invariants::all(&story, guarantee, &mut violations);
        summary.add(&events, &story);
    }
    if violations.is_empty() { Ok(summary) } else { Err(violations) }
}

fn by_key(history: &[Event]) -> BTreeMap<(&str, &str), Vec<&Event>> {
    let mut keys: BTreeMap<_, Vec<&Event>> = BTreeMap::new();
    for event in history {
        keys.entry((event.scope.as_str(), event.key.as_str())).or_default().push(event);
    }
    // A stable sort: events of the same instant keep the order in which they were logged.
    keys.values_mut().for_each(|events| events.sort_by_key(|event| event.at));
    keys
}

impl Summary {
    fn add(&mut self, events: &[&Event], story: &Story<'_>) {
        self.keys += 1;
        self.answered_keys += usize::from(story.finals().next().is_some());
        self.calls += story.calls.len();
        for call in &story.calls {
            match call.reply.map(|(_, reply)| reply) {
                Some(Reply::Final(answer)) if answer.replayed => self.replays += 1,
                Some(Reply::Final(_)) => self.first_answers += 1,
                Some(Reply::Refused { .. }) => self.refused += 1,
                Some(Reply::Failed { .. }) => self.failed += 1,
                Some(Reply::Nothing) | None => self.lost += 1,
            }
        }
        self.claims += events.iter().filter(|event| matches!(event.what, What::Claim { .. })).count();
        self.starts += story.starts.len();
        self.effects += story.effects.len();
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, answered_keys, calls, first_answers, replays, refused, failed, lost, claims, starts, effects } =
            self;
        write!(
            f,
            "{keys} keys ({answered_keys} answered), {calls} requests: {first_answers} first answers, {replays} replays, \
             {refused} refused, {failed} failed, {lost} lost; {claims} claims, {starts} starts, {effects} effects"
        )
    }
}
