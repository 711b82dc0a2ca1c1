//! The search itself: breadth first, each state once.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::action::{Action, actions};
use crate::config::Config;
use crate::ghost::Violation;
use crate::protocol::after;
use crate::state::State;

/// The result of a search.
#[derive(Debug)]
pub struct Explored {
    /// The number of states.
    pub states: usize,
    /// The number of steps from one to another.
    pub steps: usize,
    /// The number of steps to the farthest state.
    pub depth: usize,
    /// How often the interesting things happened, so that an empty search is noticed.
    pub seen: Seen,
}

/// How often the interesting things happened, counted by the step.
#[derive(Debug, Default, Clone, Copy)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Seen {
    pub starts: usize,
    pub takeovers: usize,
    pub repeated_claims: usize,
    pub replays: usize,
    pub mismatches: usize,
    pub expired: usize,
    pub unknown: usize,
    pub resolved: usize,
    pub forgotten: usize,
    pub lost_completions: usize,
    pub fenced_effects: usize,
    pub late_calls: usize,
    pub tombstoned: usize,
    pub removed: usize,
}

/// An invariant that does not hold, and the shortest way there.
#[derive(Debug)]
pub struct Found {
    /// Which invariant, and what happened.
    pub violation: Violation,
    /// The steps before it; the violating step is last.
    pub trace: Vec<Action>,
    /// How many states were visited until then.
    pub states: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, after {} steps:", self.violation, self.trace.len())?;
        self.trace.iter().enumerate().try_for_each(|(at, action)| writeln!(f, "{:>3}. {action}", at + 1))
    }
}

/// The limit of states for one search.
const STATES_MAX: usize = 50_000_000;

/// Visits every state that can be reached.
///
/// # Errors
///
/// If an invariant does not hold in one of them. It is the first one found, so no other is nearer.
///
/// # Panics
///
/// If there are too many states.
pub fn explore(config: &Config) -> Result<Explored, Box<Found>> {
    let start = State::new(config);
    let mut visited: HashSet<u128, BuildHasherDefault<Fold>> = HashSet::default();
    visited.insert(start.fingerprint(config));
    let mut came_by = vec![CameBy { from: 0, action: Action::Tick }];
    let mut frontier = VecDeque::from([(0_u32, 0_usize, start)]);
    let mut explored = Explored { states: 1, steps: 0, depth: 0, seen: Seen::default() };
    while let Some((at, depth, state)) = frontier.pop_front() {
        explored.depth = depth;
        for action in actions(&state, config) {
            explored.steps += 1;
            let next = after(&state, action, config, &mut explored.seen).map_err(|violation| {
                let trace = trace(&came_by, at, action);
                Box::new(Found { violation, trace, states: came_by.len() })
            })?;
            if visited.insert(next.fingerprint(config)) {
                assert!(came_by.len() < STATES_MAX, "{}: more than {STATES_MAX} states", config.name);
                let number = u32::try_from(came_by.len()).expect("fewer states than that");
                came_by.push(CameBy { from: at, action });
                frontier.push_back((number, depth + 1, next));
            }
        }
    }
    explored.states = came_by.len();
    Ok(explored)
}

/// How a state was first reached.
struct CameBy {
    from: u32,
    action: Action,
}

fn trace(came_by: &[CameBy], mut at: u32, last: Action) -> Vec<Action> {
    let mut trace = vec![last];
    while at != 0 {
        let CameBy { from, action } = came_by[at as usize];
        trace.push(action);
        at = from;
    }
    trace.reverse();
    trace
}

/// A hasher for keys that are already hashes.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        self.0 = words.iter().fold(self.0, |sum, word| sum ^ u64::from_ne_bytes(*word));
    }
}
